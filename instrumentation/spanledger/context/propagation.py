"""Wraps the global propagator: drops untrusted incoming attribution, and keeps baggage away from LLM providers.

Inward: anyone can send `baggage: user.id=victim`. What a carrier says of attribution is dropped, unless
`SPANLEDGER_TRUST_INCOMING_BAGGAGE` is set (a gateway in front says who is asking) or the carrier is a
message broker's, which only our own services write to. What middleware sets afterwards is untouched. What is trusted is read
by the rules of W3C's baggage (`baggage_header.py`), also where OTEL_PROPAGATORS lacks baggage.

Outward: instrumentations of HTTP clients put the current baggage into every request they see, those of the
SDKs included. Inside a request to a provider (the context has `llm_call.CALL_KEY`) the guard injects with baggage cleared;
everywhere else it leaves out our entries that name nobody (None, False, blank) or that are over, and what is not ours passes
as it was; W3C's baggage does so by itself, for those who have a propagator of their own (Temporal). The guard is asked for whenever somebody asks for the global propagator: an application may set its own at any time.
"""

from __future__ import annotations

import sys
from functools import lru_cache, wraps
from types import FrameType
from typing import Any, Final

from opentelemetry import baggage, propagate
from opentelemetry import context as otel_context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, Setter, TextMapPropagator, default_getter, default_setter

from spanledger.context import baggage_header
from spanledger.context.baggage import is_attribution_key, is_missing
from spanledger.context.llm_call import in_call
from spanledger.context.open_scopes import ORDER_KEY, current, merged
from spanledger.runtime import settings
from spanledger.runtime.guard import quietly
from spanledger.runtime.replaced_functions import ReplacedFunctions

HEADER: Final = "baggage"
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
    "faststream",
    "taskiq",
    "temporalio.contrib.opentelemetry",
)
"""Modules that read and write messages of a broker; SPANLEDGER_BROKERS names more."""
MIDDLEWARE: Final = "spanledger.middleware"
"""Its getter and setter are those of a broker, too."""


@lru_cache(maxsize=1)
def _broker_modules() -> tuple[str, ...]:
    more = (name.strip() for name in (settings.setting("brokers") or "").split(","))
    return (*BROKER_MODULES, *(name for name in more if name))


def _is_brokers(accessor: object) -> bool:
    """Whether a carrier is a broker's message: by the module of its getter or setter, or of who has called OpenTelemetry's API."""
    modules = _broker_modules()
    if _is_within(type(accessor).__module__, (*modules, MIDDLEWARE)):
        return True
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in (__name__, propagate.__name__):
        frame = frame.f_back
    return frame is not None and _is_within(str(frame.f_globals.get("__name__", "")), modules)


def _is_within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


class _LiteralPlus(Setter[Any]):
    """Writes a space in baggage as %20: OpenTelemetry's "+" for it is a plus to everybody who follows W3C's rules."""

    def __init__(self, setter: Setter[Any]) -> None:
        self._setter = setter

    def set(self, carrier: Any, key: str, value: str) -> None:
        self._setter.set(carrier, key, value.replace("+", "%20") if key == HEADER else value)


class FilteringPropagator(TextMapPropagator):
    """Wraps a propagator: untrusted carriers set no attribution, and LLM providers receive no baggage."""

    def __init__(self, inner: TextMapPropagator, *, trusting: bool) -> None:
        self.inner = inner
        self._trusts_carriers = trusting

    def extract(self, carrier: Any, context: Context | None = None, getter: Getter[Any] = default_getter) -> Context:
        extracted_context = self.inner.extract(carrier, context, getter)
        with quietly("guarding incoming baggage"):
            is_message = _is_brokers(getter)
            if self._trusts_carriers or is_message:
                replaces = is_message and not getattr(
                    carrier, "is_eager", False
                )  # Celery's: it runs where it was called
                return _with_entries(extracted_context, _of_carrier(carrier, getter), context, replaces=replaces)
            return self._without_untrusted(extracted_context, context)
        return extracted_context

    def _without_untrusted(self, context: Context, before: Context | None) -> Context:
        """`context` with our entries as they were before the carrier was read, in `before` or the current context.

        What our own middleware has said already stays: Flask's instrumentation reads the carrier after a WSGI
        middleware has run, and begins with an empty context (opentelemetry-instrumentation-flask 0.66b1).
        """
        own_entries = {key: value for key, value in current(before).entries.items() if is_attribution_key(key)}
        carrier_entries = {key: value for key, value in baggage.get_all(context).items() if is_attribution_key(key)}
        for key in carrier_entries.keys() - own_entries.keys():
            context = baggage.remove_baggage(key, context)
        for key, value in own_entries.items():
            if carrier_entries.get(key) != value:
                context = baggage.set_baggage(key, value, context)
        return context

    def inject(self, carrier: Any, context: Context | None = None, setter: Setter[Any] = default_setter) -> None:
        if in_call(context) or in_call():
            self.inner.inject(carrier, baggage.clear(context), setter)
            return
        with quietly("guarding outgoing baggage"):
            context = _without_blank_entries(context)
        self.inner.inject(carrier, context, _LiteralPlus(setter))
        with quietly("sending a message's attribution"):
            if HEADER not in self.inner.fields and _is_brokers(setter):
                entries = {k: str(v) for k, v in baggage.get_all(context).items() if is_attribution_key(k)}
                if entries:
                    setter.set(carrier, HEADER, baggage_header.written(entries))

    @property
    def fields(self) -> set[str]:
        return self.inner.fields


def _of_carrier(carrier: Any, getter: Getter[Any]) -> dict[str, str]:
    """Our entries of a carrier that is trusted."""
    headers = getter.get(carrier, HEADER) or []
    texts = [headers] if isinstance(headers, str) else headers
    return {key: value for key, value in baggage_header.read(texts).items() if is_attribution_key(key)}


def _with_entries(context: Context, entries: dict[str, str], before: Context | None, *, replaces: bool) -> Context:
    """`context` with what a carrier says, in the place of what was there before, or within it."""
    own = {key: value for key, value in current(before).entries.items() if is_attribution_key(key)}
    for key in [key for key in baggage.get_all(context) if is_attribution_key(key)]:
        context = baggage.remove_baggage(key, context)
    for key, value in merged({} if replaces else own, entries).items():
        context = baggage.set_baggage(key, value, context)
    return context or otel_context.set_value(ORDER_KEY, 0, context)  # an empty one would not be attached by some


def _without_blank_entries(context: Context | None) -> Context | None:
    """`context` without our entries that name nobody (W3C baggage would write None as the text "None"), or that are over."""
    counts = current(context).entries
    for key, value in baggage.get_all(context).items():
        if is_attribution_key(key) and (is_missing(value) or counts.get(key) != value):
            context = baggage.remove_baggage(key, context)
    for key, value in counts.items():
        if is_attribution_key(key) and not is_missing(value) and baggage.get_baggage(key, context) != value:
            context = baggage.set_baggage(key, value, context)
    return context


def without_attribution(headers: Any) -> Any:
    """The headers of a request, without our entries in its baggage: for a host that serves models."""
    name = next((name for name in headers or () if isinstance(name, str) and name.lower() == HEADER), None)
    if name is None:
        return headers
    members = [m.strip() for m in str(headers[name]).split(",") if not is_attribution_key(m.partition("=")[0].strip())]
    copied = headers.copy()
    del copied[name]
    if members:
        copied[name] = ",".join(members)
    return copied


def wrap_propagator() -> None:
    """Wrap the global propagator, unless it is."""
    current_propagator = _unguarded()
    if not isinstance(current_propagator, FilteringPropagator):
        trusting = settings.enabled("trust_incoming_baggage")
        propagate.set_global_textmap(FilteringPropagator(current_propagator, trusting=trusting))


_unguarded = propagate.get_global_textmap


def _guarded() -> TextMapPropagator:
    with quietly("guarding propagators"):
        wrap_propagator()
    return _unguarded()


def guard_propagators() -> None:
    """Wrap the global propagator now, and whenever somebody asks for it."""
    wrap_propagator()
    propagate.get_global_textmap = _guarded
    if not _patched:
        _patched.replace(W3CBaggagePropagator, "inject", _guarding_inject)


_patched: Final = ReplacedFunctions()


def _guarding_inject(inject: Any) -> Any:
    """For propagators that are not the global one, such as Temporal's own."""

    @wraps(inject)
    def guarded(self: Any, carrier: Any, context: Context | None = None, setter: Setter[Any] = default_setter) -> None:
        if in_call(context) or in_call():
            return
        with quietly("guarding outgoing baggage"):
            context = _without_blank_entries(context)
        inject(self, carrier, context, setter)

    return guarded
