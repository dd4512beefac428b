"""When the chunks of a stream came: the first one, and how long some of the others took."""

from __future__ import annotations

import time
from typing import Final

MAX_GAPS: Final = 16
"""Times between chunks that are kept of a stream (up to twice as many), evenly taken: an instrument of OpenTelemetry takes 6 us for each."""


class ChunkTimes:
    """The times of one stream; made when its first bytes have come."""

    __slots__ = ("_chunks", "_last_ns", "_stride", "first_ns", "gaps")

    def __init__(self) -> None:
        self.first_ns = time.time_ns()
        """Unix nanoseconds."""
        self._last_ns = time.perf_counter_ns()
        self._chunks = 0
        self._stride = 1
        self.gaps: list[float] = []
        """Seconds between two chunks: of all, or of every second, fourth ... chunk."""

    def add(self) -> None:
        """A chunk has come."""
        now = time.perf_counter_ns()
        if self._chunks and self._chunks % self._stride == 0:
            self.gaps.append((now - self._last_ns) / 1e9)
            if len(self.gaps) == 2 * MAX_GAPS:
                self.gaps = self.gaps[1::2]
                self._stride *= 2
        self._chunks += 1
        self._last_ns = now
