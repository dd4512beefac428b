"""Resets the state of this process in forked children, whether or not their server runs Python's fork hooks.

uWSGI forks its workers without them, unless it is started with `py-call-osafterfork`. There the first call finds out that
the process is another one. Nothing here starts a thread: a child may be forked to do something else, and gevent's own
hook, which runs later, fails if there is a second thread.

uWSGI's master also forks without holding the interpreter's lock. A thread that runs at that moment holds it in the child
for ever, so there must be none (uWSGI 2.0.30; with an active thread its workers never answered).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from spanledger.runtime import notices
from spanledger.runtime.guard import quietly

_process_number = os.getpid()
_check_lock = threading.Lock()
_in_child: list[Callable[[], object]] = [notices.reset]


def in_child(callback: Callable[[], object]) -> None:
    """Run `callback` in each forked child, before its first call is recorded; in the order of registration."""
    _in_child.append(callback)


def check() -> None:
    """Notice a child that was forked without hooks; called wherever a call begins."""
    if _process_number != os.getpid():
        with _check_lock:
            if _process_number == os.getpid():
                return  # another thread was first, and has done it
            _enter_child()
        notices.add(
            "this process was forked without Python's fork hooks, as uWSGI does: its LLM calls are recorded, but "
            "OpenTelemetry's own exporters stop. Start uWSGI with --py-call-osafterfork and --enable-threads"
        )


def _enter_child() -> None:
    global _process_number
    for callback in _in_child:
        with quietly("entering a forked child"):
            callback()
    _process_number = os.getpid()  # last: until then other threads wait


def _after_fork() -> None:
    global _check_lock
    _check_lock = threading.Lock()
    _enter_child()


def threads_allowed() -> bool:
    """Whether a thread may be started in this process: not in the master of uWSGI, which forks at any moment."""
    uwsgi = sys.modules.get("uwsgi")
    numbers = [getattr(uwsgi, name, None) for name in ("worker_id", "mule_id")]
    if any(number is not None for number in numbers):
        return any(number is not None and number() for number in numbers)
    return not _is_started_as_uwsgi


def at_worker_exit(callback: Callable[[], object]) -> None:
    """Call it when a worker of multiprocessing or billiard (Celery) ends: they run no atexit handlers."""
    for name in ("multiprocessing.util", "billiard.util"):
        module: Any = sys.modules.get(name)
        if module is not None:
            module.Finalize(None, callback, exitpriority=100)


UWSGI_PROGRAMS: Final = frozenset({"uwsgi", "uwsgi-core", "uwsgi_python3", "pyuwsgi"})
_is_started_as_uwsgi = any(os.path.basename(word) in UWSGI_PROGRAMS for word in getattr(sys, "orig_argv", [])[:3])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
