"""When the chunks of a stream came: the first one, and how long each further one took."""

from __future__ import annotations

import time
from array import array
from typing import Final

MAX_GAPS: Final = 1000
"""Chunks of a stream whose times are kept: 4 kB."""


class ChunkTimes:
    """The times of one stream; made when its first chunk has come."""

    __slots__ = ("_last_ns", "first_ns", "gaps")

    def __init__(self) -> None:
        self.first_ns = self._last_ns = time.time_ns()
        """Unix nanoseconds."""
        self.gaps = array("f")
        """Seconds between two chunks, of the first MAX_GAPS."""

    def add(self) -> None:
        """One more chunk has come."""
        now = time.time_ns()
        if len(self.gaps) < MAX_GAPS:
            self.gaps.append(max(0, now - self._last_ns) / 1e9)
        self._last_ns = now
