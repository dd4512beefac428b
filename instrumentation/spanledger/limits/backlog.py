"""Costs that the store did not take: told again in the background, in order, until it has them."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from spanledger.limits.store import StoreError

PAUSE_SECONDS: Final = 1.0
MAX_COSTS: Final = 10_000
"""Costs that wait at most; the oldest are given up first. The ledger has them all."""

Cost = TypeVar("Cost")


class Backlog(Generic[Cost]):
    """What waits. A thread lives while something does."""

    def __init__(self, tell: Callable[[Cost], None]) -> None:
        """`tell` raises StoreError where it has to be tried again; what is told twice has to count once."""
        self._tell = tell
        self._waiting: deque[Cost] = deque(maxlen=MAX_COSTS)
        self._lock = threading.Lock()
        self._running = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, cost: Cost) -> None:
        with self._lock:
            self._waiting.append(cost)
            if self._running:
                return
            self._running = True
        threading.Thread(target=self._run, name="spanledger-limits", daemon=True).start()

    def flush(self, seconds: float) -> None:
        """Tell what waits now, for as long as that succeeds and at most some seconds: the process is about to end."""
        with contextlib.suppress(StoreError):
            self._tell_all(time.monotonic() + seconds)

    def _run(self) -> None:
        while True:
            time.sleep(PAUSE_SECONDS)
            try:
                self._tell_all(math.inf)
            except StoreError:
                continue
            with self._lock:
                if not self._waiting:
                    self._running = False
                    return

    def _tell_all(self, until: float) -> None:
        while time.monotonic() < until and (cost := self._next()) is not None:
            self._tell(cost)
            with self._lock:
                if self._waiting and self._waiting[0] is cost:  # unless it was given up, or told, meanwhile
                    self._waiting.popleft()

    def _next(self) -> Cost | None:
        with self._lock:
            return self._waiting[0] if self._waiting else None
