"""Workers that take work of several requests from a queue serve none of them by inheritance.

A worker that a request has started has that request's context, and serves others while it is still open. What distinguishes it from a
helper of the request is its queue: where all has been put in by one request, whoever takes it out works for that request;
where others have put something in, nobody can say whose the next call is, unless the work itself says so
(`spanledger.attribution(...)`, `spanledger.carried(...)`).
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any, Final

import wrapt
from opentelemetry import context as otel_context

from spanledger.context.open_scopes import given_up, work_of

MARK: Final = "_spanledger_work"
"""Attribute of a queue: for whom everything in it was put there, or SEVERAL."""
SEVERAL: Final = object()
NOBODY: Final = object()

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
    for owner, name, ours, original in _patched:
        if getattr(owner, name) is ours:
            setattr(owner, name, original)
    _patched.clear()


def _patch_asyncio(module: ModuleType) -> None:
    if _patched:
        _patch(module.Queue, "put_nowait", _putting)
        _patch(module.Queue, "get_nowait", _taking)


def _patch(owner: type, name: str, watching: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    ours = watching(original)
    setattr(owner, name, ours)
    _patched.append((owner, name, ours, original))


def _putting(put: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(put)
    def put_for_somebody(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            work = work_of(otel_context.get_current()) or NOBODY
            known = getattr(self, MARK, None)
            if known is not work and known is not SEVERAL:
                setattr(self, MARK, work if known is None else SEVERAL)
        except Exception:  # noqa: BLE001, S110 - a queue of another kind: it works as it would without us
            pass
        return put(self, *args, **kwargs)

    return put_for_somebody


def _taking(get: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(get)
    def get_from_somebody(self: Any, *args: Any, **kwargs: Any) -> Any:
        item = get(self, *args, **kwargs)
        try:
            work = work_of(otel_context.get_current())
            if work is not None and getattr(self, MARK, work) is not work:
                given_up.set(work)
        except Exception:  # noqa: BLE001, S110 - as above
            pass
        return item

    return get_from_somebody
