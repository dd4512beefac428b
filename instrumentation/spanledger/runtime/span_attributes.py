"""Fast path into the SDK's span attributes: sets and copies dozens of attributes at once.

`Span.set_attributes` checks and copies every value (about 1 us each on the way of a call), and reading
goes through two proxies. Ours are clean already, so where the SDK's attribute store is the one we know
(opentelemetry-sdk 1.38 to 1.45) they are put there at once; anywhere else the public methods serve.
The measurements stand in docs/decisions/0004.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

FACTS: Final = "_spanledger_facts"
ALWAYS_ENOUGH: Final = 128
"""OpenTelemetry's own limit of a span's attributes; ours are fewer."""


def set_attributes_fast(span: Any, attributes: Mapping[str, Any]) -> None:
    """Set attributes whose values are strings, numbers, booleans or tuples of them."""
    store: Any = getattr(span, "_attributes", None)
    attribute_dict: Any = getattr(store, "_dict", None)
    if (
        isinstance(attribute_dict, dict)
        and span.is_recording()
        and getattr(store, "max_value_len", 0) is None
        and (store.maxlen is None or len(cast("dict[str, Any]", attribute_dict)) + len(attributes) <= store.maxlen)
    ):
        cast("dict[str, Any]", attribute_dict).update(attributes)
        if store.maxlen is not None and store.maxlen < ALWAYS_ENOUGH:
            _keep(span, attributes)
    else:
        span.set_attributes(attributes)
        _keep(span, attributes)


def keep_whole(span: Any, attributes: Mapping[str, Any]) -> None:
    """Keep the attributes with which a span was started, where the application's limits may have cut or dropped some.

    OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT and its kin are for what the application exports: in the ledger two users must not become one.
    """
    store: Any = getattr(span, "_attributes", None)
    maximum = getattr(store, "maxlen", None)
    if getattr(store, "max_value_len", None) is not None or (maximum is not None and maximum < ALWAYS_ENOUGH):
        _keep(span, attributes)


def _keep(span: Any, attributes: Mapping[str, Any]) -> None:
    """Beside the attributes, in the object that all views of the span share."""
    store: Any = getattr(span, "_attributes", None)
    if store is not None and span.is_recording():
        store.__dict__.setdefault(FACTS, {}).update(attributes)


def whole_attribute(span: Any, name: str) -> Any:
    """An attribute as it was set."""
    facts = getattr(getattr(span, "_attributes", None), FACTS, None)
    if facts is not None and name in facts:
        return facts[name]
    attributes: Any = getattr(span, "attributes", None)
    return None if attributes is None else attributes.get(name)


def set_whole(span: Any, name: str, value: str | float) -> None:
    """Set an attribute that is of no use if it is cut, whatever limit the application has put on values."""
    attribute_dict: Any = getattr(getattr(span, "_attributes", None), "_dict", None)
    if isinstance(attribute_dict, dict) and span.is_recording():
        attribute_dict[name] = value
    else:
        span.set_attribute(name, value)


def before_end(span: Any, act: Callable[[], object]) -> None:
    """Run `act` just before a span ends, once, while its attributes can still be set (docs/decisions/0002)."""

    def end(end_time: int | None = None) -> None:
        span.__dict__.pop("end", None)  # the span's own again, and no cycle left for the garbage collector
        if span.is_recording():
            act()
        span.end(end_time)

    span.end = end


def stash_usage(span: Any, usage: Any, chunk_times: Any = None) -> None:
    """Stash the usage on the span, so that its reader need not parse it from attributes.

    `chunk_times`: when the chunks of a stream came, which is for its metrics alone.
    """
    span.__dict__["_spanledger_usage"] = usage
    span.__dict__["_spanledger_chunk_times"] = chunk_times


def stashed_usage(span: Any) -> Any:
    return span.__dict__.get("_spanledger_usage")


def stashed_chunk_times(span: Any) -> Any:
    return span.__dict__.get("_spanledger_chunk_times")


def copy_attributes(span: Any) -> dict[str, Any]:
    """A copy of a span's attributes as a dict, as they were set."""
    attributes: Any = span.attributes
    copied = attributes.copy() if hasattr(attributes, "copy") else dict(attributes or {})
    facts = getattr(getattr(span, "_attributes", None), FACTS, None)
    return copied if facts is None else {**copied, **facts}
