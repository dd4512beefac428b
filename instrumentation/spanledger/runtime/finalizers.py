"""Runs finalizers outside the garbage collector, on a thread of their own.

The garbage collector may run within any line of Python, one that holds a lock of ours (spool, limits) or of the host's
exporters included, and it runs finalizers in that very thread: one that takes the same lock would wait for itself for
ever. So what is to be done there is done by a thread of its own. A stream that is simply let go is freed at once, not by
the collector, and ends on the spot.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from spanledger.runtime import forks
from spanledger.runtime.guard import quietly
from spanledger.runtime.reentrant_queue import ReentrantQueue

_queue = ReentrantQueue[Callable[[], object]]()
_gc_thread = 0
"""The thread in which the collector is at work; 0: none."""


def start_worker() -> None:
    """Start the worker thread, and watch the garbage collector; called before a finalizer can be needed."""
    if _on_gc not in gc.callbacks:
        gc.callbacks.append(_on_gc)
    queue = _queue
    if forks.threads_allowed():
        queue.start(lambda: _run_queue(queue), "spanledger-finalizing")


def is_main_hub() -> bool:
    """Whether a thread that is started here will run: where gevent makes greenlets of threads, one that a thread of its
    pool starts belongs to that thread, which never lets it run."""
    gevent = sys.modules.get("gevent")
    if gevent is None or "gevent.monkey" not in sys.modules:
        return True
    return bool(gevent.get_hub().main_hub)


def run_outside_gc(act: Callable[[], object]) -> None:
    """Run `act` now, or on the worker thread if the garbage collector is running in this one. `act` must not raise."""
    if _gc_thread == threading.get_ident():
        _queue.put(act)
    else:
        act()


def wait(seconds: float) -> bool:
    """Wait up to `seconds` for the queued finalizers, and for what else was named; returns whether all is done."""
    until = time.monotonic() + seconds
    if len(_queue):  # in a forked child, say: the thread that was to do it is the parent's
        start_worker()
    done = _queue.drain(seconds)
    finished = [other(max(0.0, until - time.monotonic())) for other in _others]  # each, even if one is not
    return all(finished) and done


_others: Final = list[Callable[[float], bool]]()


def also_wait(other: Callable[[float], bool]) -> None:
    """Wait for `other`, given the seconds that are left, too: work in the background that ends in rows."""
    _others.append(other)


def _run_queue(queue: ReentrantQueue[Callable[[], object]]) -> None:
    while True:
        act = queue.get()
        with quietly("ending a stream that was dropped"):
            act()
        del act


def _on_gc(phase: str, info: dict[str, int]) -> None:  # noqa: ARG001 - the interpreter's signature
    global _gc_thread
    _gc_thread = threading.get_ident() if phase == "start" else 0


def _after_fork() -> None:
    global _queue, _gc_thread
    _queue, _gc_thread = ReentrantQueue[Callable[[], object]](), 0


forks.in_child(_after_fork)
