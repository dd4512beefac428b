"""Reentrant queue with a single reader: finalizers may put into it, and a greenlet may read it.

Python's own queues are neither: `queue.Queue` takes a lock in `put`, for which a finalizer that runs inside that very
`put` waits for ever, and `queue.SimpleQueue` waits in C, which stops the whole program where gevent or eventlet has made
a greenlet of the reading thread. Here the reader waits on a lock of what `threading` has when the reader is started, and
`put` only appends and releases that lock.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


def _lock_timeout(timeout: float | None) -> float:
    """Timeout of one lock acquisition. eventlet's locks lose a release from another thread, so poll there."""
    if "eventlet" in sys.modules:
        return 0.5 if timeout is None else min(timeout, 0.5)
    return -1 if timeout is None else timeout


class _DrainMarker:
    """A marker in the queue that `drain` waits for."""

    reached = False


class ReentrantQueue(Generic[Item]):
    """First in, first out; any number of writers, one reader."""

    def __init__(self) -> None:
        self._items: deque[Item | _DrainMarker] = deque()
        self._marker_count = 0
        self._reader_lock: Any = None
        """The lock that the reader waits for while there is nothing to read."""
        self._start_token = [True]
        """Whoever takes the entry starts the reader. Not a lock: starting a greenlet lets others run, and one that waits
        for a lock of C then stops them all."""

    def __len__(self) -> int:
        """Items that the reader has not taken yet."""
        return len(self._items) - self._marker_count

    def start(self, read: Callable[[], object], name: str) -> None:
        """Start the reader, a daemon thread that runs `read`, if it has not been started yet.

        Raises:
            RuntimeError: there can be no further thread; the next call tries again.
        """
        try:
            self._start_token.pop()
        except IndexError:
            return
        self._reader_lock = threading.Lock()
        self._reader_lock.acquire()
        try:
            threading.Thread(target=read, name=name, daemon=True).start()
        except BaseException:
            self._start_token.append(True)
            raise

    def put(self, item: Item | _DrainMarker) -> None:
        """Append an item; it may wait for a reader that is not there yet."""
        self._items.append(item)
        if self._reader_lock is not None:
            with contextlib.suppress(RuntimeError, ValueError):  # it is free: the reader is about to see the item
                self._reader_lock.release()

    def get(self, timeout: float | None = None) -> Item:
        """The next item, waited for; raises `queue.Empty` after `timeout` seconds. For the reader only."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            while self._items:
                item = self._items.popleft()
                if not isinstance(item, _DrainMarker):
                    return item
                self._marker_count -= 1
                item.reached = True
            left = None if end is None else max(0.0, end - time.monotonic())
            if not self._reader_lock.acquire(timeout=_lock_timeout(left)) and left == 0.0 and not self._items:
                raise Empty

    def drain(self, seconds: float) -> bool:
        """Wait until the reader has processed what is queued now; returns whether it did within `seconds`."""
        if self._start_token and not self._items:
            return True
        mark = _DrainMarker()
        self._marker_count += 1
        self.put(mark)
        end = time.monotonic() + seconds
        while not mark.reached and time.monotonic() < end:
            time.sleep(0.001)  # an event would have to be of the reader's kind, thread or greenlet
        return mark.reached
