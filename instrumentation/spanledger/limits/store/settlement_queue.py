"""Background queue that settles costs in a remote store, in order, with retries.

No call and no event loop waits for a settlement, and costs are delivered after an outage of the store. A retry after a
timeout counts once; when the store could no longer deduplicate the retry, the cost is dropped (the ledger has it, and
`spanledger guard` reconciles the store with the ledger).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from queue import Empty
from typing import Final, Generic, TypeVar

from spanledger.limits.store.protocol import DEDUP_SECONDS, StoreError
from spanledger.runtime.guard import quietly
from spanledger.runtime.reentrant_queue import ReentrantQueue

RETRY_SECONDS: Final = 1.0
"""Pause between retries while the store does not respond."""
DELAYED_SECONDS: Final = 1.0
"""A cost that has waited longer may already be in the store through a reconciliation by `spanledger guard`."""
MAX_QUEUED: Final = 100_000
"""Maximum queue length (some 30 MB); further costs are dropped."""

Cost = TypeVar("Cost")


class SettlementWorker(Generic[Cost]):
    """A queue of costs, and the thread that settles them."""

    def __init__(self, settle: Callable[[Cost, bool], object], probe: Callable[[], bool]) -> None:
        """
        Args:
            settle: settles a cost in the store (cost, delayed); raises StoreError on failure.
            probe: returns whether the store is available; called once a second while the queue is empty.
        """
        self._settle = settle
        self._probe = probe
        self._queue = ReentrantQueue[tuple[Cost, float]]()
        self._in_flight = 0
        self.lost: Counter[str] = Counter()
        """Dropped costs by reason: full | doubtful | refused."""

    def __len__(self) -> int:
        return len(self._queue) + self._in_flight

    def start(self) -> None:
        """Start the thread; called at reservation time, so that `submit` need not."""
        self._queue.start(self._run, "spanledger-limits")

    def submit(self, cost: Cost) -> None:
        """Queue a cost; it is dropped if the queue is full."""
        if len(self) >= MAX_QUEUED:
            self.lost["full"] += 1
        else:
            self._queue.put((cost, time.monotonic()))

    def flush(self, seconds: float) -> bool:
        """Wait until all queued costs are settled. Returns False on timeout."""
        if len(self):
            self.start()
        return self._queue.drain(seconds)

    def _run(self) -> None:
        timeout: float | None = None
        while True:
            try:
                item = self._queue.get(timeout=timeout)
            except Empty:
                with quietly("probing the store of limits"):
                    timeout = None if self._probe() else RETRY_SECONDS
                continue
            self._in_flight = 1
            with quietly("counting a cost"):
                self._settle_with_retry(*item)
            self._in_flight = 0
            timeout = RETRY_SECONDS

    def _settle_with_retry(self, cost: Cost, since: float) -> None:
        """Settle a cost queued at `since`; retry as long as the store can still deduplicate it."""
        unknown_since: float | None = None
        while True:
            try:
                self._settle(cost, time.monotonic() - since > DELAYED_SECONDS)
            except StoreError as error:
                if error.refused:
                    self.lost["refused"] += 1
                    return
                if error.outcome_unknown and unknown_since is None:
                    unknown_since = time.monotonic()
                if unknown_since is not None and time.monotonic() - unknown_since > DEDUP_SECONDS / 2:
                    self.lost["doubtful"] += 1
                    return
                time.sleep(RETRY_SECONDS)
            else:
                return
