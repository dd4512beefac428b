"""Workers that take work of several requests from a queue serve none of them by inheritance.

A worker that a request has started has that request's context, and serves others while it is still open. What distinguishes it from a
helper of the request is its queue: where all has been put in by one request, whoever takes it out works for that request;
where others have put something in, nobody can say whose the next call is, unless the work itself says so
(`spanledger.attribution(...)`, `spanledger.carried(...)`).
"""

from __future__ import annotations

import queue
import sys
import weakref
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any, Final

import wrapt
from opentelemetry import context as otel_context

from spanledger.context.open_scopes import owner, share, work_of
from spanledger.context.threads import is_started

SEVERAL: Final = object()
NOBODY: Final = object()

_marks: Final[weakref.WeakKeyDictionary[Any, Any]] = weakref.WeakKeyDictionary()
"""Queue -> for whom everything in it was put there (a weak reference, or NOBODY), or SEVERAL."""

_patched: Final[list[tuple[type, str, object, object]]] = []
"""(class, name, our function, the original one)."""


def watch_queues() -> None:
    """Patch the queues of threads, and those of asyncio once it is imported."""
    if not _patched:
        _patch(queue.Queue, "put", _putting)
        _patch(queue.Queue, "get", _taking)
        wrapt.register_post_import_hook(_patch_asyncio, "asyncio.queues")


def stop_watching() -> None:
    """Undo `watch_queues`; a function that somebody else has patched since stays as it is."""
    for cls, name, ours, original in _patched:
        if getattr(cls, name) is ours:
            setattr(cls, name, original)
    _patched.clear()


def _patch_asyncio(module: ModuleType) -> None:
    if _patched:
        _patch(module.Queue, "put_nowait", _putting)
        _patch(module.Queue, "get_nowait", _taking)


def _patch(cls: type, name: str, watching: Callable[[Any], Any]) -> None:
    original = getattr(cls, name)
    ours = watching(original)
    setattr(cls, name, ours)
    _patched.append((cls, name, ours, original))


def _putting(put: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(put)
    def put_for_somebody(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:  # before it is there to be taken
            mark = _marks.get(self)
            if mark is not SEVERAL:
                work = work_of(otel_context.get_current())
                if mark is None:
                    _marks[self] = NOBODY if work is None else weakref.ref(work)
                elif (NOBODY if mark is NOBODY else mark()) is not (work or NOBODY):
                    _marks[self] = SEVERAL
        except Exception:  # noqa: BLE001, S110 - a queue of another kind: it works as it would without us
            pass
        return put(self, *args, **kwargs)

    return put_for_somebody


def _taking(get: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(get)
    def get_from_somebody(self: Any, *args: Any, **kwargs: Any) -> Any:
        item = get(self, *args, **kwargs)
        try:
            context = otel_context.get_current()
            work: Any = work_of(context)
            if work is not None and not work.is_shared and _is_of_others(self, work) and _is_started_in(work):
                share(context)
        except Exception:  # noqa: BLE001, S110 - as above
            pass
        return item

    return get_from_somebody


def _is_of_others(taken: Any, work: Any) -> bool:
    """Whether others have put something into a queue, too. What comes out last in, first out is no work: pools of connections."""
    if isinstance(taken, queue.LifoQueue | getattr(sys.modules.get("asyncio"), "LifoQueue", queue.LifoQueue)):
        return False
    mark = _marks.get(taken)
    return mark is not None and (mark in (SEVERAL, NOBODY) or mark() is not work)


def _is_started_in(work: Any) -> bool:
    """Whether what runs now was started in a request or block, and is not that itself, nor a function that a pool runs for it."""
    running = owner()
    return work.owner != running and (running[1] != 0 or is_started())
