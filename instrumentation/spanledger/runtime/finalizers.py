"""What a finalizer may do: a stream that its reader has dropped ends where no lock can be held.

The garbage collector may run within any line of Python, one that holds a lock of ours (spool, limits) or of the host's
exporters included, and it runs finalizers in that very thread: one that takes the same lock would wait for itself for
ever. So what is to be done there is done by a thread of its own. A stream that is simply let go is freed at once, not by
the collector, and ends on the spot.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable

from spanledger.runtime.guard import quietly
from spanledger.runtime.reentrant_queue import ReentrantQueue

_queue = ReentrantQueue[Callable[[], object]]()
_collecting = 0
"""The thread in which the collector is at work; 0: none."""


def ready() -> None:
    """Have a thread for what the collector finds; called when there is something that it may find."""
    if _collector not in gc.callbacks:
        gc.callbacks.append(_collector)
    queue = _queue
    queue.start(lambda: _work(queue), "spanledger-finalizing")


def run(act: Callable[[], object]) -> None:
    """Do it now, or as soon as the collector is not at work in this thread. `act` raises nothing."""
    if _collecting == threading.get_ident():
        _queue.put(act)
    else:
        act()


def wait(seconds: float) -> bool:
    """Wait for what is under way; whether it is done."""
    if len(_queue):  # in a forked child, say: the thread that was to do it is the parent's
        ready()
    return _queue.drained(seconds)


def _work(queue: ReentrantQueue[Callable[[], object]]) -> None:
    while True:
        act = queue.get()
        with quietly("ending a stream that was dropped"):
            act()
        del act


def _collector(phase: str, info: dict[str, int]) -> None:  # noqa: ARG001 - the interpreter's signature
    global _collecting
    _collecting = threading.get_ident() if phase == "start" else 0


def _after_fork() -> None:
    global _queue, _collecting
    _queue, _collecting = ReentrantQueue[Callable[[], object]](), 0


os.register_at_fork(after_in_child=_after_fork)
