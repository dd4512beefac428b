"""Knows which scopes and requests are over: what they left running has their context, but no user of theirs any more.

OpenTelemetry's context is copied to every task, thread and timer that a request starts, and stays there for as long as they
run: a worker that the first request starts would serve all others in that request's name. So a scope is an object in the
context that says whether it is still open, and a span knows its request. What is over counts for nothing:

- a request (the server or consumer span, a middleware's scope, or a scope that names a request id), for whatever it started;
- any other scope, where it has been left in the very task or thread that still has its context: an asynchronous generator
  that was left early, a runtime context that does not detach. A task or thread that was started inside keeps it: that is how
  a script hands out work.

A `with` block within a generator counts only while a step of that generator runs, as its body shares the context of whoever
asks for the next item; unless `contextlib` asks, for whom the pause is the block.
"""

from __future__ import annotations

import inspect
import itertools
import os
import sys
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from types import FrameType
from typing import Any, Final, NamedTuple, Protocol

from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.baggage import _BAGGAGE_KEY
from opentelemetry.context import Context

from spanledger.semconv import attributes as a

SCOPE_KEY: Final = otel_context.create_key("spanledger-scope")
"""Key of the innermost `OpenScope` of a context."""
ORDER_KEY: Final = otel_context.create_key("spanledger-order")
"""Key of the number at which a context of another scope was attached, of the same series as those of scopes."""
GENERATORS: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
MAX_FRAMES: Final = 12
PAUSING_MODULES: Final = ("contextlib", "_pytest.", "pytest_asyncio.", "anyio.pytest_plugin")
"""Who runs a generator up to its `yield` for the sake of what comes after: a block, a test."""

Entries = Mapping[str, object]
"""Baggage."""
NOTHING: Final[Entries] = {}

Entered = tuple[object, "OpenScope", Any]
"""A scope, its entry, and OpenTelemetry's token."""
entered_scopes: ContextVar[tuple[Entered, ...]] = ContextVar("spanledger_scopes", default=())
"""The blocks around what runs now, the innermost last. OpenTelemetry's context may lack one: whoever ends a span detaches what
was attached within it, too (FastAPI 0.165 makes dependencies in a span of their own)."""
_numbers: Final = itertools.count(1)

_paused: Final = dict[int, "OpenScope"]()
"""id of a generator's frame -> the scope that is open in it."""


class Request(Protocol):
    """A server or consumer span (`request_totals.py`)."""

    @property
    def is_over(self) -> bool: ...
    @property
    def inherited(self) -> Entries:
        """Baggage that was there before it began, left by another request."""
        ...

    @property
    def owner(self) -> tuple[int, int]: ...

    is_shared: bool
    """Whether something that it has started takes work of others (`queues.py`)."""


class OpenScope:
    """One entry of a scope."""

    __slots__ = (
        "__weakref__",
        "_follows",
        "_frame",
        "_is_generators",
        "_is_open",
        "_number",
        "_process",
        "_request",
        "_response_task",
        "after",
        "before",
        "is_request",
        "is_shared",
        "owner",
        "parent",
        "since",
        "work",
    )

    def __init__(self, added: Entries, outside: Current, *, is_request: bool, frame: FrameType | None = None) -> None:
        """
        Args:
            added: what it says.
            outside: what counts around it.
            is_request: whether all that it starts belongs to one request.
            frame: the generator in whose body it was entered, if only the generator's steps are inside.
        """
        self.before = outside.entries
        self.after = {**outside.entries, **added}
        self.parent = outside.scope
        while self.parent is not None and not self.parent.is_open and not self.parent.is_request:
            self.parent = self.parent.parent  # what it said is in `before`
        self.since = outside.request if outside.is_stale else None
        """The request that was over already when it began; the context's span may still be that request's."""
        self.is_request = is_request
        is_own = is_request or self.parent is None or a.USER_ID in added
        self.work: OpenScope = self if is_own or self.parent is None else self.parent.work
        """The request that it is in, or the block that says for whom; itself, where there is none."""
        self.is_shared = False
        """Whether something that was started in it takes work of others (`queues.py`)."""
        self._request = outside.request
        self._response_task = _response_task() if is_request else None
        self._process = os.getpid()
        self.owner = owner()
        """The thread, and its task, that entered it."""
        self._is_open = True
        self._is_generators = frame is not None
        self._number = next(_numbers)
        self._follows: OpenScope | None = None
        self._frame = frame
        if frame is not None:
            _paused[id(frame)] = self

    def close(self) -> None:
        self._is_open = False
        if self._frame is not None and _paused.get(id(self._frame)) is self:
            del _paused[id(self._frame)]
        self._frame = None

    def is_newer(self, other: OpenScope | None, order: int) -> bool:
        """Whether it was entered after another one, if there is one, and after the attach of that number."""
        return self._number > (order if other is None else max(order, other._number))

    @property
    def is_over(self) -> bool:
        """Whether it counts no more for whoever asks."""
        if self._process != os.getpid() or (self.is_shared and self.owner != owner()):
            return True  # for a process that was forked inside, or a worker of several
        if self._follows is not None:
            return not self._follows._is_open
        if self._is_open:
            return self._frame is not None and not _runs(self._frame)
        if self.is_request:
            return not self._is_being_answered
        return self._is_generators or self.owner == owner()

    @property
    def _is_being_answered(self) -> bool:
        """Whether the request is open although the block has been left: its span is, or a middleware's response is being sent."""
        if self._is_generators or self.owner == owner():
            return False
        if self._request is not None:
            return not self._request.is_over
        return self._response_task is not None and not self._response_task.done()

    @property
    def is_open(self) -> bool:
        """Whether it has not been left."""
        return self._is_open

    @property
    def is_anybodys(self) -> bool:
        """Whether nobody can say if it counts: it is paused, and whoever asks may have been started by its steps or beside them."""
        return self._is_open and self._frame is not None and self.owner != owner()

    def follower(self) -> OpenScope:
        """The same for a thread that is started in a step of the generator: it counts as long as this one is open."""
        if self._frame is None:
            return self
        outside = Current(self.before, self.parent, None, is_stale=False)
        scope = OpenScope(NOTHING, outside, is_request=self.is_request)
        scope.after, scope.since, scope._follows = self.after, self.since, self
        return scope


class Current(NamedTuple):
    """What counts in a context."""

    entries: Entries
    """Baggage, without what is over."""
    scope: OpenScope | None
    """The innermost scope that counts."""
    request: Request | None
    is_stale: bool
    """Whether something was left out because it is over."""


def current(context: Context | None = None) -> Current:
    """What counts in `context` (None: the current one)."""
    running = otel_context.get_current()
    context = running if context is None else context
    entries: Entries = baggage.get_all(context)
    scope: Any = context.get(SCOPE_KEY)
    span = trace.get_current_span(context)
    request: Request | None = getattr(span, "_spanledger_request", None)
    over, has_request, since = _walk(scope)
    if over is not None:
        entries, scope = over.before, over.parent
        if over.is_anybodys:  # only what it leaves as it was is certain
            certain = {key: value for key, value in entries.items() if over.after.get(key) == value}
            return Current(certain, scope, request, is_stale=len(certain) < len(entries))
    if context is running:
        block = _block_around(scope, context)
        if block is not None:
            return Current(block.after, block, request, is_stale=False)
    if request is not None and since is not request and not has_request:
        if request.is_over or (request.is_shared and request.owner != owner()):
            return Current(NOTHING, None, request, is_stale=bool(entries) or over is not None)
        if request.inherited:
            new_entries = {key: value for key, value in entries.items() if request.inherited.get(key) != value}
            return Current(new_entries, None, request, is_stale=True)
    return Current(entries, scope, request, is_stale=over is not None)


def _block_around(scope: OpenScope | None, context: Context) -> OpenScope | None:
    """The block around what runs now, if `context`, whose innermost scope is `scope`, has lost it."""
    block = _running_scope() if _paused else None
    if block is None:
        blocks = entered_scopes.get()
        if not blocks or blocks[-1][1] is scope:
            return None
        order: Any = context.get(ORDER_KEY, 0)
        block = _innermost_block()
        if block is None or not block.is_newer(scope, order):
            return None
    return None if _contains(scope, block) else block


def _walk(scope: OpenScope | None) -> tuple[OpenScope | None, bool, Request | None]:
    """Of a scope and those around it: the outermost that is over; of those around that, whether one is a request, and the request
    that was over when one was entered."""
    over, has_request, since = None, False, None
    while scope is not None:
        if scope.is_over:
            over, has_request, since = scope, False, None
        else:
            has_request = has_request or scope.is_request
            since = since or scope.since
        scope = scope.parent
    return over, has_request, since


def work_of(context: Context) -> object:
    """For whom something is done in a context: its request, or its scope; None for nobody."""
    scope: Any = context.get(SCOPE_KEY)
    return scope.work if scope is not None else getattr(trace.get_current_span(context), "_spanledger_request", None)


def share(context: Context) -> None:
    """Whoever takes work of others was started in `context`: for what is started there, its requests and blocks count no more."""
    scope: Any = context.get(SCOPE_KEY)
    while scope is not None:
        scope.is_shared = True
        scope = scope.parent
    request: Request | None = getattr(trace.get_current_span(context), "_spanledger_request", None)
    if request is not None:
        request.is_shared = True


def in_scope(context: Context, scope: OpenScope) -> Context:
    """`context` inside a scope: with its baggage, and none of what is over."""
    return otel_context.set_value(SCOPE_KEY, scope, _with_baggage(context, scope.after))


def kept(context: Context | None = None) -> Context:
    """`context` (None: the current one) as it counts now, for what is sent later in its name: an open connection, a stream
    that is asked for when it is read."""
    if context is None:
        context = otel_context.get_current()
    outside = current(context)
    scope = OpenScope(NOTHING, outside, is_request=False)
    scope.parent, scope.since = None, outside.request
    return in_scope(context, scope)


def handed_over(context: Context) -> Context:
    """`context` for a thread that is started now: a block of a generator counts in it if a step of the generator starts it."""
    if not _paused:
        return context
    counts = current(context)
    scope = None if counts.scope is None else counts.scope.follower()
    return _with_baggage(otel_context.set_value(SCOPE_KEY, scope, context), counts.entries)


def _with_baggage(context: Context, entries: Entries) -> Context:
    return otel_context.set_value(_BAGGAGE_KEY, dict(entries), context)


def _innermost_block() -> OpenScope | None:
    """The innermost block around what runs now that is not over."""
    blocks = (scope for _, scope, _ in reversed(entered_scopes.get()))
    return next((scope for scope in blocks if scope.is_open and _walk(scope)[0] is None), None)


def _contains(scope: OpenScope | None, member: OpenScope) -> bool:
    while scope is not None:
        if scope is member:
            return True
        scope = scope.parent
    return False


def owner() -> tuple[int, int]:
    """The thread, and its task, that runs now; 0 for none."""
    asyncio: Any = sys.modules.get("asyncio")
    running_loop = getattr(asyncio, "_get_running_loop", None)  # without an exception where there is none
    loop = None if running_loop is None else running_loop()
    task = asyncio.current_task(loop) if loop is not None else None
    return threading.get_ident(), 0 if task is None else id(task)


def _response_task() -> Any:
    """The task that will send the response, where a scope is entered in a middleware of Starlette's kind: that ends before."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(MAX_FRAMES):
        if frame is None:
            return None
        if frame.f_globals.get("__name__") == "starlette.middleware.base":
            return sys.modules["asyncio"].current_task()
        frame = frame.f_back
    return None


def generator_frame(frame: FrameType) -> FrameType | None:
    """`frame`, if it is a generator's that is asked for items: a scope in its body is no scope of whoever asks."""
    if not frame.f_code.co_flags & GENERATORS:
        return None
    caller = frame.f_back
    while caller is not None and caller.f_code.co_flags & GENERATORS:
        caller = caller.f_back  # `yield from`
    if caller is None:
        return frame
    pauses = str(caller.f_globals.get("__name__", "")).startswith(PAUSING_MODULES)
    return None if pauses or caller.f_code.co_name in ("__enter__", "__aenter__") else frame


def _runs(target: FrameType) -> bool:
    """Whether a frame is on the stack of this thread."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame is target:
            return True
        frame = frame.f_back
    return False


def _running_scope() -> OpenScope | None:
    """The scope of the innermost generator on the stack of this thread."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        scope = _paused.get(id(frame))
        if scope is not None:
            return scope
        frame = frame.f_back
    return None


def next_order() -> int:
    """A number after those of all scopes so far."""
    return next(_numbers)
