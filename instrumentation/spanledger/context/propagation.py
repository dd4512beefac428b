"""Wraps the global propagator: drops untrusted incoming attribution, and keeps baggage away from LLM providers.

Inward: anyone can send `baggage: user.id=victim`. What a carrier says of attribution is dropped, unless
`SPANLEDGER_TRUST_INCOMING_BAGGAGE` is set (a gateway in front says who is asking) or the carrier is a
message broker's, which only our own services write to. What middleware sets afterwards is untouched.

Outward: instrumentations of HTTP clients put the current baggage into every request they see, those of the
SDKs included. Inside a request to a provider (the context has `call.CALL_KEY`) the guard injects with baggage cleared;
everywhere else it leaves out our entries that name nobody (None, False, blank), and what is not ours passes as it was.
"""

from __future__ import annotations

from typing import Any, Final

from opentelemetry import baggage, propagate
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, Setter, TextMapPropagator, default_getter, default_setter

from spanledger.context.baggage import is_attribution_key, is_missing
from spanledger.context.llm_call import in_call
from spanledger.runtime import settings
from spanledger.runtime.guard import quietly

BROKER_MODULES: Final = (
    *(
        f"opentelemetry.instrumentation.{name}"
        for name in (
            "aio_pika",
            "aiokafka",
            "boto3sqs",
            "celery",
            "confluent_kafka",
            "kafka",
            "pika",
            "remoulade",
        )
    ),
    "spanledger.middleware",
)
"""Modules whose getters read messages of a broker."""


class FilteringPropagator(TextMapPropagator):
    """Wraps a propagator: untrusted carriers set no attribution, and LLM providers receive no baggage."""

    def __init__(self, inner: TextMapPropagator, *, trusting: bool) -> None:
        self.inner = inner
        self._trusts_carriers = trusting
        self.dropped = 0
        """Number of attribution entries dropped from untrusted carriers."""

    def extract(self, carrier: Any, context: Context | None = None, getter: Getter[Any] = default_getter) -> Context:
        extracted_context = self.inner.extract(carrier, context, getter)
        if not self._trusts_carriers and not type(getter).__module__.startswith(BROKER_MODULES):
            with quietly("guarding incoming baggage"):
                extracted_context = self._without_untrusted(extracted_context, context)
        return extracted_context

    def _without_untrusted(self, context: Context, before: Context | None) -> Context:
        """`found` with our entries as they were before the carrier was read, in `before` or the current context.

        What our own middleware has said already stays: Flask's instrumentation reads the carrier after a WSGI
        middleware has run, and begins with an empty context (opentelemetry-instrumentation-flask 0.66b1).
        """
        own_entries = {key: value for key, value in baggage.get_all(before).items() if is_attribution_key(key)}
        carrier_entries = {key: value for key, value in baggage.get_all(context).items() if is_attribution_key(key)}
        for key in carrier_entries.keys() - own_entries.keys():
            self.dropped += 1
            context = baggage.remove_baggage(key, context)
        for key, value in own_entries.items():
            if carrier_entries.get(key) != value:
                self.dropped += key in carrier_entries
                context = baggage.set_baggage(key, value, context)
        return context

    def inject(self, carrier: Any, context: Context | None = None, setter: Setter[Any] = default_setter) -> None:
        if in_call(context):
            context = baggage.clear(context)
        else:
            with quietly("guarding outgoing baggage"):
                context = _without_blank_entries(context)
        self.inner.inject(carrier, context, setter)

    @property
    def fields(self) -> set[str]:
        return self.inner.fields


def _without_blank_entries(context: Context | None) -> Context | None:
    """`context` without our entries that name nobody: W3C baggage would write None as the text "None"."""
    for key, value in baggage.get_all(context).items():
        if is_missing(value) and is_attribution_key(key):
            context = baggage.remove_baggage(key, context)
    return context


def wrap_propagator() -> None:
    """Wrap the global propagator, once."""
    current = propagate.get_global_textmap()
    if not isinstance(current, FilteringPropagator):
        trusting = settings.enabled("trust_incoming_baggage")
        propagate.set_global_textmap(FilteringPropagator(current, trusting=trusting))
