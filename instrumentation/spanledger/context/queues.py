"""Workers that take work of several requests from a queue serve none of them by inheritance.

A worker that a request has started has that request's context, and serves others while it is still open. What distinguishes it from a
helper of the request is its queue: where all has been put in by one request, whoever takes it out works for that request;
where others have put something in, nobody can say whose the next call is, unless the work itself says so
(`spanledger.attribution(...)`, `spanledger.carried(...)`).

Two kinds of queues hold no work: those through which a server hands its messages to an application (ASGI), and pools, into which
whoever takes something puts it back.
"""

from __future__ import annotations

import inspect
import queue
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import wraps
from types import ModuleType
from typing import Any, Final, NamedTuple, cast

import wrapt
from opentelemetry import context as otel_context

from spanledger.context.open_scopes import Taken, next_order, owner, taken, work_of
from spanledger.context.threads import is_pooled
from spanledger.runtime.guard import quietly
from spanledger.runtime.replaced_functions import ReplacedFunctions

SEVERAL: Final = object()
NOBODY: Final = object()

_marks: Final[weakref.WeakKeyDictionary[Any, Any]] = weakref.WeakKeyDictionary()
"""Queue -> for whom everything in it was put there (a weak reference, or NOBODY), or SEVERAL."""

_pools: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
"""Queues into which somebody has put back what he had taken out."""


class _Held(NamedTuple):
    """What was taken out of a queue last, by what runs now; neither is kept alive."""

    queue: weakref.ref[Any]
    item: weakref.ref[Any]
    before: Taken


_held: Final[ContextVar[_Held | None]] = ContextVar("spanledger_held", default=None)
RESOURCES: Final = (
    "sqlalchemy.", "psycopg", "asyncpg.", "aiomysql.", "redis.", "pymongo.", "httpx", "aiohttp.", "requests.", "urllib3.", "boto3.",
    "botocore.", "openai.", "anthropic.", "google.",
)  # fmt: skip
"""Modules of drivers and clients: what is of their classes is no work, but is lent."""
SERVER_MESSAGES: Final = ("http.", "websocket.", "lifespan.")
"""Begin of the types of ASGI's messages."""

_patched: Final = ReplacedFunctions()


def watch_queues() -> None:
    """Replace `put` and `get` of the queues of threads, and of asyncio's once it is imported."""
    if not _patched:
        _patched.replace(queue.Queue, "put", _putting)
        _patched.replace(queue.Queue, "get", _taking)
        wrapt.register_post_import_hook(_watch_asyncio, "asyncio.queues")


def stop_watching() -> None:
    """Undo `watch_queues`; a function that somebody else has replaced since stays as it is."""
    _patched.restore()


def _watch_asyncio(module: ModuleType) -> None:
    if _patched:
        _patched.replace(module.Queue, "put_nowait", _putting)
        _patched.replace(module.Queue, "get_nowait", _taking)
        _patched.replace(module.Queue, "get", _asking)


def _putting(put: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(put)
    def put_for_somebody(self: Any, *args: Any, **kwargs: Any) -> Any:
        with quietly("watching a queue"):
            _note_putting(self, args[0] if args else kwargs.get("item"))  # before it is there to be taken
        return put(self, *args, **kwargs)

    return put_for_somebody


def _note_putting(filled: Any, item: object) -> None:
    held = _held.get()
    if held is not None and held.item() is item and held.queue() is filled:
        _pools.add(filled)
        taken.set(held.before)
        _held.set(None)
    mark = _marks.get(filled)
    if mark is not SEVERAL:
        work: Any = work_of(otel_context.get_current())
        if work is not None and work.number < taken.get().number and work.owner != owner():
            _marks[filled] = SEVERAL  # a worker of several hands something on
            return
        if mark is None:
            _marks[filled] = NOBODY if work is None else weakref.ref(work)
        elif (NOBODY if mark is NOBODY else mark()) is not (work or NOBODY):
            _marks[filled] = SEVERAL


def _taking(get: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(get)
    def get_from_somebody(self: Any, *args: Any, **kwargs: Any) -> Any:
        item = get(self, *args, **kwargs)
        with quietly("watching a queue"):
            work: Any = work_of(otel_context.get_current())
            if work is not None and self not in _pools:
                before = taken.get()
                if _is_of_others(self, work, item) and _is_started_in(work, _marks.get(self) is NOBODY):
                    _note_taking()
                with suppress(TypeError):  # what cannot be referred to weakly is not lent
                    _held.set(_Held(weakref.ref(self), weakref.ref(item), Taken(before.number)))
        return item

    return get_from_somebody


def _note_taking() -> None:
    """Whoever has asked for the item works for others from now on."""
    mark = taken.get()
    if mark.is_expected:  # maybe in a task that only waits for it: whoever has asked has the same mark
        mark.number, mark.is_expected = next_order(), False
    else:
        taken.set(Taken(next_order()))


def _asking(get: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(get)
    def get_for_somebody(self: Any, *args: Any, **kwargs: Any) -> Any:
        with quietly("watching a queue"):
            taken.set(Taken(taken.get().number, is_expected=True))
        return get(self, *args, **kwargs)

    mark_as_coroutine = getattr(inspect, "markcoroutinefunction", None)  # Python 3.12
    return get_for_somebody if mark_as_coroutine is None else mark_as_coroutine(get_for_somebody)


def _is_of_others(emptied: Any, work: Any, item: object) -> bool:
    """Whether others have put work into a queue, too. What comes out last in, first out is none: pools of connections."""
    if isinstance(emptied, queue.LifoQueue | getattr(sys.modules.get("asyncio"), "LifoQueue", queue.LifoQueue)):
        return False
    mark = _marks.get(emptied)
    if mark is None or not (mark in (SEVERAL, NOBODY) or mark() is not work):
        return False
    if type(item).__module__.startswith(RESOURCES):
        return False
    return not (isinstance(item, dict) and str(cast("Any", item).get("type", "")).startswith(SERVER_MESSAGES))


def _is_started_in(work: Any, is_nobodys: bool) -> bool:
    """Whether what runs now was started in a request or block, and is not that itself.

    A function that a pool of threads runs for it may be a worker's loop, or may be lent something: what other requests have put
    there is work, and what nobody has (`is_nobodys`) is not.
    """
    running = owner()
    if work.owner == running:
        return False
    return running[1] != 0 or taken.get().is_expected or not is_pooled() or not is_nobodys
