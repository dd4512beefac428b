"""What has to happen in a forked child, whether or not its server runs Python's fork hooks.

uWSGI forks its workers without them, unless it is started with `py-call-osafterfork`. There the first call finds out that
the process is another one. Nothing here starts a thread: a child may be forked to do something else, and gevent's own
hooks, which run later, want to be alone.

uWSGI's master also forks without holding the interpreter's lock. A thread that runs at that moment holds it in the child
for ever, so there must be none (uWSGI 2.0.30; with an active thread its workers never answered).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from spanledger.runtime import notices
from spanledger.runtime.guard import quietly

_process_number = os.getpid()
_in_child: list[Callable[[], object]] = [notices.reset]


def in_child(act: Callable[[], object]) -> None:
    """Run `act` in each forked child, before its first call is recorded; in the order of registration."""
    _in_child.append(act)


def check() -> None:
    """Notice a child that was forked without hooks; called wherever a call begins."""
    if _process_number != os.getpid():
        _enter_child()
        notices.add(
            "this process was forked without Python's fork hooks, as uWSGI does: Spanledger makes up for it, "
            "OpenTelemetry's own exporters do not. Start uWSGI with --py-call-osafterfork and --enable-threads"
        )


def _enter_child() -> None:
    global _process_number
    _process_number = os.getpid()
    for act in _in_child:
        with quietly("entering a forked child"):
            act()


def threads_allowed() -> bool:
    """Whether a thread may be started in this process: not in the master of uWSGI, which forks at any moment."""
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is not None:
        worker = getattr(uwsgi, "worker_id", None)
        return worker is None or bool(worker())
    return not _is_started_as_uwsgi


_is_started_as_uwsgi = any(
    os.path.basename(word).startswith(("uwsgi", "pyuwsgi")) for word in getattr(sys, "orig_argv", [])[:2]
)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_enter_child)
