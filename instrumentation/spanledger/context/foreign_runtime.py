"""Keeps OpenTelemetry's context right where somebody else holds it.

A tracer may replace OpenTelemetry's runtime context by its own. ddtrace's (`DDRuntimeContext`, ddtrace 4.1) keeps of a context only
the span and the baggage, ends neither when a scope is left, and sends that baggage on with every HTTP request it sees, those to
providers included. So there a context variable of our own holds what was attached, and the other runtime is given everything but
the attribution.
"""

from __future__ import annotations

from contextlib import suppress
from contextvars import ContextVar, Token
from typing import Any, Final

from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.baggage import _BAGGAGE_KEY
from opentelemetry.context import Context
from opentelemetry.context.context import _RuntimeContext
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.trace.propagation import _SPAN_KEY

from spanledger.context.baggage import is_attribution_key

_attached: Final[ContextVar[Context]] = ContextVar("spanledger_context", default=Context())  # noqa: B039 - it is never changed


class KeptRuntimeContext(_RuntimeContext):
    """Another runtime context, with what it does not keep."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def attach(self, context: Context) -> Any:
        return self.inner.attach(_without_attribution(context)), _attached.set(context)

    def get_current(self) -> Context:
        found: Context = self.inner.get_current()
        ours = _attached.get()
        entries: dict[str, object] = {**ours, **found}
        if trace.get_current_span(found) is trace.INVALID_SPAN and _SPAN_KEY in ours:
            entries[_SPAN_KEY] = ours[_SPAN_KEY]
        carried = {key: value for key, value in baggage.get_all(found).items() if not is_attribution_key(key)}
        attribution = {key: value for key, value in baggage.get_all(ours).items() if is_attribution_key(key)}
        entries[_BAGGAGE_KEY] = {**carried, **attribution}
        return Context(entries)

    def detach(self, token: Any) -> None:
        inner_token, own_token = token
        with suppress(ValueError, RuntimeError):
            _reset(own_token)
        self.inner.detach(inner_token)


def _reset(token: Token[Context]) -> None:
    _attached.reset(token)


def _without_attribution(context: Context) -> Context:
    entries = {key: value for key, value in baggage.get_all(context).items() if not is_attribution_key(key)}
    return otel_context.set_value(_BAGGAGE_KEY, entries, context)


def keep_context() -> None:
    """Keep what another runtime context loses; where it is OpenTelemetry's own, nothing is changed."""
    runtime = otel_context._RUNTIME_CONTEXT
    if not isinstance(runtime, ContextVarsRuntimeContext | KeptRuntimeContext):
        otel_context._RUNTIME_CONTEXT = KeptRuntimeContext(runtime)
