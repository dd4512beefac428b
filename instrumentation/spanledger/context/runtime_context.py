"""Notices raw baggage: whoever attaches a context with another attribution opens a scope, and closes it when he detaches it.

Middleware of one's own sets baggage so (README.md). What it leaves running is known by that to be over, also where no server span
says so. OpenTelemetry's runtime context is wrapped for it; an attach that changes no baggage, as nearly all do, and its detach cost 0.4 us more.

A tracer may have replaced that runtime context by its own. ddtrace's (`DDRuntimeContext`, ddtrace 4.16) keeps of a context only
the span and the baggage, ends neither when a scope is left, and sends that baggage on with every HTTP request it sees, those to
providers included. There a context variable of our own holds what was attached, and the other runtime is given everything but
the attribution.
"""

from __future__ import annotations

from contextlib import suppress
from contextvars import ContextVar, Token
from types import ModuleType
from typing import Any, Final, NamedTuple

import wrapt
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.baggage import _BAGGAGE_KEY
from opentelemetry.context import Context
from opentelemetry.context.context import _RuntimeContext
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.trace.propagation import _SPAN_KEY

from spanledger.context.baggage import is_attribution_key
from spanledger.context.open_scopes import ORDER_KEY, SCOPE_KEY, OpenScope, current, in_scope, merged, next_order
from spanledger.runtime.guard import quietly

_attached: Final[ContextVar[Context]] = ContextVar("spanledger_context", default=Context())  # noqa: B039 - it is never changed


class _RawToken:
    """What undoes an attach that has opened a scope."""

    __slots__ = ("scope", "token")

    def __init__(self, token: Any, scope: OpenScope) -> None:
        self.token = token
        self.scope = scope


class WatchedRuntimeContext(_RuntimeContext):
    """A runtime context in which raw baggage opens scopes."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def attach(self, context: Context) -> Any:
        scope = None
        running = self.get_current()
        if context.get(_BAGGAGE_KEY) is not running.get(_BAGGAGE_KEY):
            with quietly("reading baggage"):
                scope_of_context = context.get(SCOPE_KEY)
                if scope_of_context is running.get(SCOPE_KEY):
                    context, scope = _raw_scope(context, running)
                elif scope_of_context is None:  # made from an empty context
                    context, scope = _raw_scope(context, Context())
                context = otel_context.set_value(ORDER_KEY, next_order(), context)
        token = self._attach(context)
        return token if scope is None else _RawToken(token, scope)

    def detach(self, token: Any) -> None:
        if isinstance(token, _RawToken):
            token.scope.close()
            token = token.token
        self._detach(token)

    def get_current(self) -> Context:
        return self.inner.get_current()

    def _attach(self, context: Context) -> Any:
        return self.inner.attach(context)

    def _detach(self, token: Any) -> None:
        self.inner.detach(token)


class _KeptToken(NamedTuple):
    """What undoes an attach to another's runtime context."""

    inner: Any
    own: Token[Context]


class KeptRuntimeContext(WatchedRuntimeContext):
    """Another's runtime context, with what it does not keep."""

    def get_current(self) -> Context:
        theirs: Context = self.inner.get_current()
        ours = _attached.get()
        entries: dict[str, object] = {**ours, **theirs}
        if trace.get_current_span(theirs) is trace.INVALID_SPAN and _SPAN_KEY in ours:
            entries[_SPAN_KEY] = ours[_SPAN_KEY]
        their_baggage = baggage.get_all(theirs)
        if their_baggage:
            carried = {key: value for key, value in their_baggage.items() if not is_attribution_key(key)}
            attribution = {key: value for key, value in baggage.get_all(ours).items() if is_attribution_key(key)}
            entries[_BAGGAGE_KEY] = {**carried, **attribution}
        elif _BAGGAGE_KEY in ours:
            entries[_BAGGAGE_KEY] = ours[_BAGGAGE_KEY]
        return Context(entries)

    def _attach(self, context: Context) -> Any:
        return _KeptToken(self.inner.attach(_without_attribution(context)), _attached.set(context))

    def _detach(self, token: Any) -> None:
        if not isinstance(token, _KeptToken):  # of an attach before this one was there
            self.inner.detach(token)
            return
        with suppress(ValueError, RuntimeError):
            _attached.reset(token.own)
        self.inner.detach(token.inner)


def _raw_scope(context: Context, running: Context) -> tuple[Context, OpenScope | None]:
    """A context that is attached with other baggage, inside a scope of its own if that is attribution."""
    entries, entries_before = baggage.get_all(context), baggage.get_all(running)
    # What was there already may be over: only what is new was said now.
    added = {key: v for key, v in entries.items() if is_attribution_key(key) and entries_before.get(key) != v}
    if not added:
        return context, None
    before = current(running)
    scope = OpenScope(added, before, is_request=True)
    scope.end_with_task()
    unchanged = {key: v for key, v in before.entries.items() if key in entries or key not in entries_before}
    others = {key: v for key, v in entries.items() if not is_attribution_key(key)}
    scope.after = merged({**unchanged, **others}, added)
    return in_scope(context, scope), scope


def _without_attribution(context: Context) -> Context:
    entries = {key: value for key, value in baggage.get_all(context).items() if not is_attribution_key(key)}
    return otel_context.set_value(_BAGGAGE_KEY, entries, context)


def _watch_temporal(module: ModuleType) -> None:
    """Temporal detaches by itself, a token of contextvars (temporalio 1.35 `contrib/opentelemetry/_context.py`)."""

    def detach(_: Context, token: Any) -> bool:
        try:
            otel_context._RUNTIME_CONTEXT.detach(token)
        except ValueError:  # of another context
            return False
        return True

    module._detach = detach  # pyright: ignore[reportAttributeAccessIssue]


def watch_context() -> None:
    """Wrap the runtime context, OpenTelemetry's own or another's, unless it is."""
    wrapt.register_post_import_hook(_watch_temporal, "temporalio.contrib.opentelemetry._context")
    runtime = otel_context._RUNTIME_CONTEXT
    if isinstance(runtime, ContextVarsRuntimeContext):
        otel_context._RUNTIME_CONTEXT = WatchedRuntimeContext(runtime)
    elif not isinstance(runtime, WatchedRuntimeContext):
        otel_context._RUNTIME_CONTEXT = KeptRuntimeContext(runtime)
