"""Workers that take work of several requests from a queue serve none of them by inheritance.

A worker that a request has started has that request's context, and serves others while it is still open. What distinguishes it from a
helper of the request is its queue: where all has been put in by one request, whoever takes it out works for that request;
where others have put something in, nobody can say whose the next call is, unless the work itself says so
(`spanledger.attribution(...)`, `spanledger.carried(...)`).

Two kinds of queues hold no work: those through which a server hands its messages to an application (ASGI), and pools of clients and
connections, which are known by the names of their classes.
"""

from __future__ import annotations

import inspect
import queue
import re
import sys
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from types import ModuleType
from typing import Any, Final, cast

import wrapt
from opentelemetry import context as otel_context

from spanledger.context.open_scopes import Taken, is_before_work, next_order, owner, taken, work_of
from spanledger.context.threads import is_pooled
from spanledger.runtime.guard import quietly
from spanledger.runtime.replaced_functions import ReplacedFunctions

SEVERAL: Final = object()
NOBODY: Final = object()

_marks: Final[weakref.WeakKeyDictionary[Any, Any]] = weakref.WeakKeyDictionary()
"""Queue -> for whom everything in it was put there (a weak reference, or NOBODY), or SEVERAL."""

_lending: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
"""Queues into which a function in a pool of threads has put back what it had taken out."""
_held: Final[ContextVar[tuple[Any, object] | None]] = ContextVar("spanledger_held", default=None)
"""The queue from which a function in a pool of threads took something last, and that."""
LENT: Final = re.compile(
    r"(?:Client|Connection|Channel|Cursor|Engine|Driver|OpenAI|Anthropic\w*|Redis|Database|Browser|_ConnectionRecord|_connection)$"
)
"""Ends of names of classes whose objects are no work, but are lent."""
SERVER_MESSAGES: Final = frozenset({
    "http.request", "http.disconnect", "websocket.connect", "websocket.receive", "websocket.disconnect", "lifespan.startup",
    "lifespan.shutdown",
})  # fmt: skip
"""Types of the messages that an application receives by ASGI."""

_patched: Final = ReplacedFunctions()
_is_watching = False


def watch_queues() -> None:
    """Replace `put` and `get` of the queues of threads, and of asyncio's once it is imported."""
    global _is_watching
    if not _is_watching:
        _is_watching = True
        _patched.replace(queue.Queue, "put", _putting)
        _patched.replace(queue.Queue, "get", _taking)
        wrapt.register_post_import_hook(_watch_asyncio, "asyncio.queues")


def stop_watching() -> None:
    """Undo `watch_queues`; a function that somebody else has replaced since stays as it is."""
    global _is_watching
    _is_watching = False
    _patched.restore()


def _watch_asyncio(module: ModuleType) -> None:
    if _is_watching:
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
    if held is not None and held[0] is filled and held[1] is item:
        _lending.add(filled)
        _held.set(None)
    mark = _marks.get(filled)
    if mark is not SEVERAL:
        work: Any = work_of(otel_context.get_current())
        if work is not None and is_before_work(work):
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
            if work is not None and work.owner != owner():
                _note_taking(self, work, item)
        return item

    return get_from_somebody


def _note_taking(emptied: Any, work: Any, item: object) -> None:
    """What was started in a request or block takes something out: if others have put work there, it works for them from now on."""
    mark = taken.get()
    in_pool = is_pooled() and not mark.is_expected and owner()[1] == 0
    if in_pool:
        _held.set((emptied, item))
    if not _is_of_others(emptied, work, item, in_pool=in_pool):
        return
    if mark.is_expected:  # maybe in a task that only waits for it: whoever has asked has the same mark
        mark.number, mark.is_expected = next_order(), False
    else:
        taken.set(Taken(next_order()))


def _asking(get: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(get)
    def get_for_somebody(self: Any, *args: Any, **kwargs: Any) -> Any:
        mark = Taken(taken.get().number, is_expected=True)
        taken.set(mark)
        return _awaited(get(self, *args, **kwargs), mark)

    mark_as_coroutine = getattr(inspect, "markcoroutinefunction", None)  # Python 3.12
    return get_for_somebody if mark_as_coroutine is None else mark_as_coroutine(get_for_somebody)


async def _awaited(getting: Any, mark: Taken) -> Any:
    try:
        return await getting
    finally:
        mark.is_expected = False


def _is_of_others(emptied: Any, work: Any, item: object, *, in_pool: bool) -> bool:
    """Whether others have put work into a queue, too. What comes out last in, first out is none: pools of connections.

    A function that a pool of threads runs may be a worker's loop, or may be lent something: what other requests have put there is
    work unless it is known to be lent, and what nobody has put there is not.
    """
    if isinstance(emptied, queue.LifoQueue | getattr(sys.modules.get("asyncio"), "LifoQueue", queue.LifoQueue)):
        return False
    mark = _marks.get(emptied)
    if mark is None or not (mark in (SEVERAL, NOBODY) or mark() is not work):
        return False
    if in_pool and (mark is NOBODY or emptied in _lending):
        return False
    kind = type(item)  # never the item itself, which may be anything
    if LENT.search(kind.__name__):
        return False
    return not (kind is dict and cast("Any", item).get("type") in SERVER_MESSAGES)
