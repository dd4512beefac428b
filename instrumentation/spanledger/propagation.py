"""The guard around the global propagator: what baggage says of a user never reaches an LLM provider.

Instrumentations of HTTP clients put the current baggage into every request they see, those of the SDKs
included. Inside an LLM call (the context has `call.CALL_KEY`) the guard injects with baggage cleared;
everything else passes as it was.
"""

from __future__ import annotations

from typing import Any

from opentelemetry import baggage, propagate
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, Setter, TextMapPropagator, default_getter, default_setter

from spanledger.call import in_call


class GuardedPropagator(TextMapPropagator):
    """Another propagator that keeps baggage to ourselves inside an LLM call."""

    def __init__(self, inner: TextMapPropagator) -> None:
        self.inner = inner

    def extract(self, carrier: Any, context: Context | None = None, getter: Getter[Any] = default_getter) -> Context:
        return self.inner.extract(carrier, context, getter)

    def inject(self, carrier: Any, context: Context | None = None, setter: Setter[Any] = default_setter) -> None:
        if in_call(context):
            context = baggage.clear(context)
        self.inner.inject(carrier, context, setter)

    @property
    def fields(self) -> set[str]:
        return self.inner.fields


def guard() -> None:
    """Wrap the global propagator, once."""
    current = propagate.get_global_textmap()
    if not isinstance(current, GuardedPropagator):
        propagate.set_global_textmap(GuardedPropagator(current))
