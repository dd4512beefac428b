"""Knows which scopes and requests are over: what they left running has their context, but no user of theirs any more.

OpenTelemetry's context is copied to every task, thread and timer that a request starts, and stays there for as long as they
run: a worker that the first request starts would serve all others in that request's name. So a scope is an object in the
context that says whether it is still open, and a span knows its request. What is over counts for nothing:

- a request (the server or consumer span, a middleware's scope, or a scope that names a request id), for whatever it started;
- any other scope, where it has been left in the very task or thread that still has its context: an asynchronous generator
  that was left early, a runtime context that does not detach. A task or thread that was started inside keeps it: that is how
  a script hands out work.

A `with` block within a generator counts only while a step of that generator runs, as its body shares the context of whoever
asks for the next item; unless `contextlib` asks, for whom the pause is the block: then it is a block of whoever enters that.
"""

from __future__ import annotations

import dis
import inspect
import itertools
import os
import sys
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from types import FrameType
from typing import Any, Final, NamedTuple, Protocol

from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.baggage import _BAGGAGE_KEY
from opentelemetry.context import Context

from spanledger.semconv import attributes as a
from spanledger.semconv.dimensions import BAGGAGE_KEYS

SCOPE_KEY: Final = otel_context.create_key("spanledger-scope")
"""Key of the innermost `OpenScope` of a context."""
ORDER_KEY: Final = otel_context.create_key("spanledger-order")
"""Key of the number at which a context of another scope was attached, of the same series as those of scopes."""
GENERATORS: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
ASYNC_GENERATOR: Final = inspect.CO_ASYNC_GENERATOR
DELEGATES: Final = dis.opmap["SEND"]
"""The instruction of `yield from`, while the generator runs that it hands over to."""
MAX_DEPTH: Final = 100
"""Of scopes within each other."""
TEST_MODULES: Final = ("_pytest.", "pytest_asyncio.", "anyio.pytest_plugin")
"""Who runs a generator up to its `yield` for the sake of a test."""

Entries = Mapping[str, object]
"""Baggage."""
NOTHING: Final[Entries] = {}

Entered = tuple[object, "OpenScope", Any]
"""A scope, its entry, and OpenTelemetry's token."""
entered_scopes: ContextVar[tuple[Entered, ...]] = ContextVar("spanledger_scopes", default=())
"""The blocks around what runs now, the innermost last. OpenTelemetry's context may lack one: whoever ends a span detaches what
was attached within it, too (FastAPI 0.165 makes dependencies in a span of their own)."""
_numbers: Final = itertools.count(1)


class Taken:
    """When a worker took work of others last (`queues.py`), for it and for what it starts then."""

    __slots__ = ("is_expected", "is_request", "number")

    def __init__(self, number: int = 0, *, is_expected: bool = False, is_request: bool = False) -> None:
        self.number = number
        """Scopes and requests of before that are not the worker's own count no more."""
        self.is_request = is_request
        """Whether it is no worker, but a request that begins: of what was before, what was said around the server still counts."""
        self.is_expected = is_expected
        """Whether it waits for work now."""


taken: Final[ContextVar[Taken]] = ContextVar("spanledger_taken", default=Taken())  # noqa: B039 - the default is never changed

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

    @property
    def number(self) -> int:
        """In the order of all scopes."""
        ...


class OpenScope:
    """One entry of a scope."""

    __slots__ = (
        "__weakref__",
        "_follows",
        "_frame",
        "_is_generators",
        "_is_open",
        "_process",
        "_replaced",
        "_request",
        "_response",
        "_task",
        "after",
        "before",
        "depth",
        "is_request",
        "number",
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
        self.after = merged(outside.entries, added)
        self.parent = outside.scope
        while self.parent is not None and not self.parent.is_open and not self.parent.is_request:
            self.parent = self.parent.parent  # what it said is in `before`
        self.since = outside.request if outside.is_stale else None
        """The request that was over already when it began; the context's span may still be that request's."""
        self.is_request = is_request
        is_own = is_request or self.parent is None or a.USER_ID in added
        self.work: OpenScope = self if is_own or self.parent is None else self.parent.work
        """The request that it is in, or the block that says for whom; itself, where there is none."""
        self._request = outside.request
        self._response = _own_response() if is_request else None
        self._task: weakref.ref[Any] | None = None
        self.depth = 0 if self.parent is None else self.parent.depth + 1
        if self.depth > MAX_DEPTH:
            # Attached again and again, and never detached: of what is outside, the first request counts.
            self.parent = self._first_request()
            self.depth = 0 if self.parent is None else 1
        self._process = os.getpid()
        self.owner = owner()
        """The thread, and its task, that entered it."""
        self._is_open = True
        self._is_generators = frame is not None
        self.number = next(_numbers)
        self._follows: OpenScope | None = None
        self._frame = frame
        self._replaced: OpenScope | None = None
        if frame is not None:
            self._replaced = _paused.get(id(frame))
            _paused[id(frame)] = self

    def _first_request(self) -> OpenScope | None:
        """The outermost request around it."""
        first, scope = None, self.parent
        while scope is not None:
            first = scope if scope.is_request else first
            scope = scope.parent
        return first

    def end_with_task(self) -> None:
        """Count no more once the task has ended that runs now, although nobody leaves it (a context that stays attached)."""
        task = _running_task()
        self._task = None if task is None else weakref.ref(task)

    def close(self) -> None:
        self._is_open = False
        if self._frame is not None and _paused.get(id(self._frame)) is self:
            outer = self._replaced
            while outer is not None and not outer.is_open:
                outer = outer._replaced
            if outer is None:
                del _paused[id(self._frame)]
            else:
                _paused[id(self._frame)] = outer
        self._frame = None

    def is_newer(self, other: OpenScope | None, order: int) -> bool:
        """Whether it was entered after another one, if there is one, and after the attach of that number."""
        return self.number > (order if other is None else max(order, other.number))

    @property
    def is_over(self) -> bool:
        """Whether it counts no more for whoever asks."""
        if self._process != os.getpid() or is_before_work(self):
            return True  # for a process that was forked inside, or a worker of several
        if self._task is not None and self._has_lost_its_task:
            return True
        if self._follows is not None:
            return not self._follows._is_open
        if self._is_open:
            return self._frame is not None and not _runs(self._frame)
        if self.is_request:
            return not self._is_being_answered
        return self._is_generators or self.owner == owner()

    @property
    def _has_lost_its_task(self) -> bool:
        """Whether the task that has entered it has ended without leaving it."""
        task = None if self._task is None else self._task()
        return self._is_open and (task is None or task.done())

    @property
    def _is_being_answered(self) -> bool:
        """Whether the request is open although the block has been left: its span is, or a middleware's response is being sent."""
        if self._is_generators or self.owner == owner():
            return False
        if self._request is not None and not self._request.is_over:
            return True
        return self._response is not None and not self._response.is_sent

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


def is_before_work(began: OpenScope | Request) -> bool:
    """Whether a scope or request is of before what runs now took work of others, or before the request that it serves."""
    mark = taken.get()
    if began.number >= mark.number or began.owner == owner():
        return False
    return not mark.is_request or (bool(began.owner[1]) and getattr(began, "is_request", True))


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
            return Current(certain, scope, request, is_stale=len(certain) < len(over.after))
    if context is running:
        block = _block_around(scope, context)
        if block is not None:
            return Current(block.after, block, request, is_stale=False)
    if request is not None and since is not request and not has_request:
        if request.is_over or is_before_work(request):
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
    return None if contains(scope, block) else block


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


def merged(outside: Entries, added: Entries) -> dict[str, object]:
    """Baggage with `added` within `outside`; a dimension has the keys of the inner one only, as it may have several."""
    entries = {**outside, **added}
    if len(entries) > len(added):
        said = {name for key in added if (name := BAGGAGE_KEYS.get(key)) is not None}
        for key in outside:
            if key not in added and BAGGAGE_KEYS.get(key) in said:
                del entries[key]
    return entries


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


def contains(scope: OpenScope | None, member: OpenScope) -> bool:
    while scope is not None:
        if scope is member:
            return True
        scope = scope.parent
    return False


def owner() -> tuple[int, int]:
    """The thread, and its task, that runs now; 0 for none."""
    task = _running_task()
    if task is None and (trio := sys.modules.get("trio")) is not None:
        with suppress(RuntimeError, AttributeError):  # it does not run here
            task = trio.lowlevel.current_task()
    return threading.get_ident(), 0 if task is None else id(task)


def _running_task() -> Any:
    """The task of asyncio's that runs now, or None."""
    asyncio: Any = sys.modules.get("asyncio")
    running_loop = getattr(asyncio, "_get_running_loop", None)  # without an exception where there is none
    loop = None if running_loop is None else running_loop()
    return None if loop is None else asyncio.current_task(loop)


class Response:
    """What a middleware of Starlette's kind sends, after what it has called has been left."""

    __slots__ = ("is_sent", "owner")

    def __init__(self) -> None:
        self.is_sent = False
        self.owner = owner()


response: Final[ContextVar[Response | None]] = ContextVar("spanledger_response", default=None)
"""The one that is being made around what runs now (`servers.py`)."""


def _own_response() -> Response | None:
    """The response of the middleware in which a scope is entered, which ends before it is sent."""
    made = response.get()
    return made if made is not None and not made.is_sent and made.owner == owner() else None


def generator_frame(frame: FrameType | None) -> FrameType | None:
    """The generator that is asked for items in whose body a block is entered by `frame`, itself or by a context manager: it is no
    block of whoever asks."""
    while frame is not None:
        if _enters(frame):
            frame = frame.f_back
            continue
        if not frame.f_code.co_flags & GENERATORS:
            return None
        asker = frame.f_back
        while asker is not None and not frame.f_code.co_flags & ASYNC_GENERATOR and _delegates(asker):
            asker = asker.f_back
        if asker is None or not _enters(asker):
            is_test = asker is not None and str(asker.f_globals.get("__name__", "")).startswith(TEST_MODULES)
            return None if is_test else frame
        frame = asker
    return None


def _enters(frame: FrameType) -> bool:
    """Whether a frame enters a block for its caller."""
    return frame.f_code.co_name in ("__enter__", "__aenter__") or frame.f_globals.get("__name__") == "contextlib"


def _delegates(frame: FrameType) -> bool:
    """Whether a frame is that of a generator in a `yield from`."""
    code = frame.f_code
    return bool(code.co_flags & GENERATORS) and code.co_code[frame.f_lasti] == DELEGATES


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
