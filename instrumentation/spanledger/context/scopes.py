"""Scopes that set attribution in OpenTelemetry baggage for the calls made inside.

    with spanledger.attribution(user="ada", feature="summarize", request_id=request.id): ...

    @spanledger.feature("summarize")
    async def summarize(text): ...

    with spanledger.unit("pdf", quantity=50, unit="page"): ...

They are plain baggage: whatever carries OpenTelemetry's context carries them. As decorators they serve functions,
coroutines, generators and asynchronous generators; of a generator only its own steps run inside.
"""

from __future__ import annotations

import functools
import inspect
import secrets
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, TypeVar, Unpack, cast

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from spanledger.context.baggage import is_attribution_key, is_missing
from spanledger.context.open_scopes import (
    Entered,
    OpenScope,
    current,
    entered_scopes,
    generator_frame,
    in_scope,
    merged,
)
from spanledger.runtime.guard import log
from spanledger.semconv import attributes as a
from spanledger.semconv.dimensions import DIMENSIONS, Attribution

Function = TypeVar("Function", bound=Callable[..., Any])


class Scope:
    """Baggage for as long as a block, or a function, runs. May be entered again, and by many at a time.

    Leaving it raises nothing, in whatever thread, task or context that happens (a generator that the garbage collector
    closes, a dependency that another thread ends).
    """

    def __init__(self, entries: Mapping[str, str], *, is_request: bool = False) -> None:
        """`is_request`: whether all that it starts is over with it, unless it names a request id, which says the same."""
        self._entries = dict(entries)
        self._is_request = is_request or not is_missing(self._entries.get(a.REQUEST_ID))
        self._open: deque[Entered] = deque()

    def entries(self) -> Mapping[str, str]:
        """What one entry puts into baggage."""
        return self._entries

    def for_steps(self) -> Scope:
        """The scope of every step of one run of a generator."""
        return self

    def context(self, context: Context | None = None) -> Context:
        """`context` (by default the current one) with this scope's baggage."""
        return self.open(context)[1]

    def open(self, context: Context | None = None, frame: FrameType | None = None) -> tuple[OpenScope, Context]:
        """An entry that its caller closes, and `context` (by default the current one) inside it."""
        outside_context = otel_context.get_current() if context is None else context
        scope = OpenScope(self.entries(), current(outside_context), is_request=self._is_request, frame=frame)
        return scope, in_scope(outside_context, scope)

    def __enter__(self) -> None:
        scope, context = self.open(None, generator_frame(sys._getframe(1)))
        entered: Entered = self, scope, otel_context.attach(context)
        self._open.append(entered)
        entered_scopes.set((*(other for other in entered_scopes.get() if other[1].is_open), entered))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        entered = self._pop()
        if entered is None:
            return
        entered[1].close()
        with suppress(ValueError, RuntimeError, LookupError):  # of another context: there it is over, too
            otel_context._RUNTIME_CONTEXT.detach(entered[2])

    def _pop(self) -> Entered | None:
        """The entry that is left now: the innermost of this scope in this context, else the last one anywhere."""
        entries = entered_scopes.get()
        for entered in reversed(entries):
            if entered[0] is self:
                entered_scopes.set(tuple(other for other in entries if other is not entered))
                with suppress(ValueError):
                    self._open.remove(entered)
                return entered
        return self._open.pop() if self._open else None

    def __call__(self, function: Function) -> Function:
        """Run `function` inside this scope, whatever its colour."""
        wrapper: Any
        if inspect.isasyncgenfunction(function):
            wrapper = self._async_generator(function)
        elif inspect.iscoroutinefunction(function):
            wrapper = self._coroutine(function)
        elif inspect.isgeneratorfunction(function):
            wrapper = self._generator(function)
        else:
            wrapper = self._function(function)
        return cast("Function", functools.wraps(function)(wrapper))

    def _function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self:
                value = function(*args, **kwargs)
            if inspect.iscoroutine(value):  # of a function that is no `async def` itself
                return self._coroutine(lambda: value)()
            if inspect.isgenerator(value):
                return self._generator(lambda: value)()
            return self._async_generator(lambda: value)() if inspect.isasyncgen(value) else value

        return wrapper

    def _coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await function(*args, **kwargs)

        return wrapper

    def _generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            scope = self.for_steps()
            inner = function(*args, **kwargs)
            step: Callable[[Any], Any] = inner.send
            argument: Any = None
            try:
                while True:
                    with scope:
                        try:
                            value = step(argument)
                        except StopIteration as end:
                            return end.value
                    try:
                        argument = yield value
                        step = inner.send
                    except GeneratorExit:
                        raise
                    except BaseException as error:  # noqa: BLE001 - handed on to the generator
                        step, argument = inner.throw, error
            finally:
                with scope:
                    inner.close()

        return wrapper

    def _async_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            scope = self.for_steps()
            inner = function(*args, **kwargs)
            step: Callable[[Any], Any] = inner.asend
            argument: Any = None
            try:
                while True:
                    with scope:
                        try:
                            value = await step(argument)
                        except StopAsyncIteration:
                            return
                    try:
                        argument = yield value
                        step = inner.asend
                    except GeneratorExit:
                        raise
                    except BaseException as error:  # noqa: BLE001 - handed on to the generator
                        step, argument = inner.athrow, error
            finally:
                with scope:
                    await inner.aclose()

        return wrapper


class _BusinessUnit(Scope):
    """A scope with an id of its own each time it is entered."""

    def entries(self) -> Mapping[str, str]:
        return {**super().entries(), a.UNIT_ID: secrets.token_hex(8)}

    def for_steps(self) -> Scope:
        return Scope(self.entries())


class _Carried(Scope):
    """Takes the place of all attribution outside."""

    def open(self, context: Context | None = None, frame: FrameType | None = None) -> tuple[OpenScope, Context]:
        outside_context = otel_context.get_current() if context is None else context
        outside = current(outside_context)
        others = {key: "" for key in outside.entries if is_attribution_key(key)}
        scope = OpenScope(merged(others, self.entries()), outside, is_request=self._is_request, frame=frame)
        return scope, in_scope(outside_context, scope)


def attribution(*, labels: Mapping[str, str | None] | None = None, **dimensions: Unpack[Attribution]) -> Scope:
    """A scope, and a decorator, for the calls made inside; what is None stays as it was outside.

    Args:
        labels: anything that is not a dimension, at most 16 (`spanledger.label.<name>`).
        dimensions: user (an opaque id), feature, tenant (a customer), tier (its plan), request_id (a request of the
            application), session, conversation, team, project (`Attribution`).

    Raises:
        TypeError: a keyword is not a dimension.
    """
    if unknown := dimensions.keys() - DIMENSIONS.keys():
        raise TypeError(
            f"{', '.join(sorted(unknown))}: not a dimension; use {', '.join(DIMENSIONS)}, or labels={{...}}"
        )
    # False or blank text is nobody, whoever is set outside.
    entries = {
        DIMENSIONS[name].attribute: "" if is_missing(value) else str(value)
        for name, value in dimensions.items()
        if value is not None
    }
    entries.update({f"{a.LABEL_PREFIX}{k}": str(value) for k, value in (labels or {}).items() if value is not None})
    return Scope(entries)


def feature(name: str) -> Scope:
    """`attribution(feature=name)`, for the most common case.

    Raises:
        TypeError: the name is no text (a decorator without it: `@spanledger.feature`).
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
        raise TypeError(f'{name!r} is no name of a feature: write @spanledger.feature("summarize")')
    return attribution(feature=name)


def unit(name: str, *, quantity: float = 1, unit: str = "") -> Scope:
    """A unit of the application's work whose cost is asked for, e.g. a document of 50 pages.

    Args:
        name: what it is ("pdf"); the view `unit_cost` groups by it.
        quantity: how much of it, > 0.
        unit: of what ("page").

    Raises:
        ValueError: quantity is not greater than 0.
    """
    if not quantity > 0:
        raise ValueError(f"a unit of {quantity!r} has no cost of one: quantity must be greater than 0")
    return _BusinessUnit({a.UNIT_NAME: name, a.UNIT_QUANTITY: repr(float(quantity)), a.UNIT_MEASURE: unit})


def carry() -> dict[str, str]:
    """The current attribution as a dict of strings, for a job queue that carries no OpenTelemetry context
    (RQ's `job.meta`, arq's arguments, the arguments of a spawned process)."""
    return {
        key: str(value) for key, value in current().entries.items() if is_attribution_key(key) and not is_missing(value)
    }


def carried(entries: Mapping[str, str] | None) -> Scope:
    """The scope of what `carry` gave elsewhere: that, and nothing of what is outside. None changes nothing; what is no dict names
    nobody, and is logged."""
    if entries is None:
        return Scope({})
    if not isinstance(entries, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
        log.warning("carried() takes what carry() gave, a dict, and got a %s: it names nobody", type(entries).__name__)
        entries = {}
    return _Carried({str(k): str(v) for k, v in entries.items() if is_attribution_key(str(k)) and not is_missing(v)})
