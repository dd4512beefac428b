"""Tells a remote store what calls have cost, from a thread of its own, in order, until the store has it.

So no call waits for it, an event loop least of all, and a store that was away for a while learns what it has missed. What
is told again because no answer came counts once; where that can no longer be known, it is given up (the ledger has it, and
`spanledger guard` levels the store with the ledger).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from queue import Empty
from typing import Final, Generic, TypeVar

from spanledger.limits.store.protocol import DONE_SECONDS, StoreError
from spanledger.runtime.guard import quietly
from spanledger.runtime.reentrant_queue import ReentrantQueue

PAUSE_SECONDS: Final = 1.0
"""Between two attempts at a store that does not answer."""
LATE_SECONDS: Final = 1.0
"""A cost that has waited for longer may have come to the store another way: by the ledger, and a guard that levels it."""
MAX_COSTS: Final = 100_000
"""Costs that wait at most (some 30 MB); what comes then is not told."""

Cost = TypeVar("Cost")


class Teller(Generic[Cost]):
    """A queue of costs, and the thread that tells them."""

    def __init__(self, tell: Callable[[Cost, bool], object], probe: Callable[[], bool]) -> None:
        """
        Args:
            tell: tells the store (a cost, whether it comes late); raises StoreError where it does not answer.
            probe: whether the store answers, or nobody wonders; asked once a second while nothing is to be told.
        """
        self._tell = tell
        self._probe = probe
        self._queue = ReentrantQueue[tuple[Cost, float]]()
        self._in_hand = 0
        self.lost: Counter[str] = Counter()
        """full | doubtful | refused: costs that were not told."""

    def __len__(self) -> int:
        return len(self._queue) + self._in_hand

    def start(self) -> None:
        """Have the thread; called where something is held, so that `add` need not."""
        self._queue.start(self._run, "spanledger-limits")

    def add(self, cost: Cost) -> None:
        """Have a cost told, where there is room for it."""
        if len(self) >= MAX_COSTS:
            self.lost["full"] += 1
        else:
            self._queue.put((cost, time.monotonic()))

    def flush(self, seconds: float) -> bool:
        """Wait until what was added is told; whether it is."""
        if len(self):
            self.start()
        return self._queue.drained(seconds)

    def _run(self) -> None:
        waits: float | None = None
        while True:
            try:
                item = self._queue.get(timeout=waits)
            except Empty:
                with quietly("asking whether limits can be enforced"):
                    waits = None if self._probe() else PAUSE_SECONDS
                continue
            self._in_hand = 1
            with quietly("counting a cost"):
                self._tell_until(*item)
            self._in_hand = 0
            waits = PAUSE_SECONDS

    def _tell_until(self, cost: Cost, since: float) -> None:
        """Tell a cost that has waited since then, again and again where no answer comes, as long as the store would know it
        again."""
        unknown_since: float | None = None
        while True:
            try:
                self._tell(cost, time.monotonic() - since > LATE_SECONDS)
            except StoreError as error:
                if error.refused:
                    self.lost["refused"] += 1
                    return
                if error.doubtful and unknown_since is None:
                    unknown_since = time.monotonic()
                if unknown_since is not None and time.monotonic() - unknown_since > DONE_SECONDS / 2:
                    self.lost["doubtful"] += 1
                    return
                time.sleep(PAUSE_SECONDS)
            else:
                return
