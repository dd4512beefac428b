"""Decodes OTLP spans from JSON (a spool line, OTLP/HTTP) or protobuf to plain values.

Total: a value of the wrong type becomes the empty value of its field, so that no span can fail a batch; text is made
valid UTF-8. Their meaning is left to `rows.py` and `foreign_spans.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any, Final, NamedTuple, cast

from spanledger.runtime.untrusted_json import MAX_LABEL, Json, items, mapping
from spanledger.semconv.attributes import USAGE_RAW
from spanledger_clickhouse.rows.protobuf import Splitter

MAX_TEXT: Final = 1024
"""Characters of a further attribute, or a path of a file."""
MAX_JSON: Final = 16_384
"""Characters of the provider's own usage object."""

MAX_KEPT_ATTRIBUTES: Final = 256
"""Attributes of a span that is kept as a dead letter, and elements of a list."""

Value = str | int | float | bool | list["Value"] | None
Attributes = Mapping[str, Value]


class Span(NamedTuple):
    """One span with its scope and resource."""

    scope: str
    resource: Attributes
    attributes: Attributes
    trace_id: str
    """32 hex digits; span ids 16."""
    span_id: str
    parent_span_id: str
    name: str
    start: int
    """Nanoseconds since 1970, as `end`."""
    end: int
    is_error: bool
    """Its status is ERROR."""


def spans_from_json(document: Json) -> Iterator[Span]:
    """The spans of an OTLP JSON document (an ExportTraceServiceRequest, or a line of a spool)."""
    for resource_spans in items(document, "resourceSpans"):
        resource = attributes_of(mapping(resource_spans, "resource"))
        for scope_spans in items(resource_spans, "scopeSpans"):
            scope = text(mapping(scope_spans, "scope").get("name"))
            for span_entry in items(scope_spans, "spans"):
                span = mapping(span_entry)
                yield Span(
                    scope,
                    resource,
                    attributes_of(span),
                    text(span.get("traceId")),
                    text(span.get("spanId")),
                    text(span.get("parentSpanId")),
                    text(span.get("name")),
                    nanoseconds(span.get("startTimeUnixNano")),
                    nanoseconds(span.get("endTimeUnixNano")),
                    mapping(span, "status").get("code") in (2, "STATUS_CODE_ERROR"),
                )


def spans_from_protobuf(body: bytes) -> Iterator[Span]:
    """The spans of an ExportTraceServiceRequest in protobuf, decoded one by one: memory is that of a span.

    Raises:
        ValueError: the body is not valid.
        TooManyFieldsError: a message has more fields than any instrumentation writes.
    """
    split = Splitter()
    for resource_spans in split.messages(body, 1):
        resource = _attributes(
            split, _decoded(split, "resource.v1.Resource", split.merged(resource_spans, 1)).attributes
        )
        for scope_spans in split.messages(resource_spans, 2):
            scope = _str(_decoded(split, "common.v1.InstrumentationScope", split.merged(scope_spans, 1)).name)
            for encoded in split.messages(scope_spans, 2):
                span = _decoded(split, "trace.v1.Span", encoded)
                yield Span(
                    scope,
                    resource,
                    _attributes(split, span.attributes),
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    _str(span.name),
                    min(span.start_time_unix_nano, 2**63 - 1),
                    min(span.end_time_unix_nano, 2**63 - 1),
                    span.status.code == 2,
                )


def _decoded(split: Splitter, name: str, encoded: memoryview | bytes) -> Any:
    """A message of OpenTelemetry's protobuf package, e.g. "trace.v1.Span"."""
    from google.protobuf.message import DecodeError

    split.check(encoded, name)
    data = bytes(encoded)
    for decode in _decoders(name):
        try:
            return decode(data)
        except DecodeError:
            continue
    raise ValueError(f"a {name} in it is not valid protobuf")


@cache
def _decoders(name: str) -> tuple[Callable[[bytes], Any], Callable[[bytes], Any]]:
    """Decoders of a message: with text, and with bytes for text. A Collector forwards text that is not UTF-8, which
    Python's protobuf refuses."""
    from google.protobuf import message_factory
    from opentelemetry.proto.trace.v1 import trace_pb2

    full_name = f"opentelemetry.proto.{name}"
    pools: tuple[Any, Any] = (cast("Any", trace_pb2).DESCRIPTOR.pool, _pool_of_bytes())
    decoders = [message_factory.GetMessageClass(pool.FindMessageTypeByName(full_name)).FromString for pool in pools]
    return decoders[0], decoders[1]


@cache
def _pool_of_bytes() -> Any:
    """OpenTelemetry's messages with bytes for strings."""
    from google.protobuf import descriptor_pb2, descriptor_pool
    from opentelemetry.proto.common.v1 import common_pb2
    from opentelemetry.proto.resource.v1 import resource_pb2
    from opentelemetry.proto.trace.v1 import trace_pb2

    pool: Any = descriptor_pool.DescriptorPool()
    modules: tuple[Any, ...] = (common_pb2, resource_pb2, trace_pb2)
    for module in modules:
        file: Any = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        messages = list(file.message_type)
        while messages:
            message = messages.pop()
            messages += message.nested_type
            for field in message.field:
                if field.type == field.TYPE_STRING:
                    field.type = field.TYPE_BYTES
        pool.Add(file)
    return pool


def _attributes(split: Splitter, pairs: Any) -> dict[str, Value]:
    split.spend(len(pairs))
    attributes: dict[str, Value] = {}
    for pair in pairs:
        key, value = pair.key, pair.value
        kind = value.WhichOneof("value")
        if kind == "string_value":
            content = value.string_value
            content = content if isinstance(content, str) else _str(content)
        elif kind == "int_value":
            content = value.int_value
        else:
            content = _value(split, value)
        attributes[key if isinstance(key, str) else _str(key)] = content
    return attributes


def _str(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _value(split: Splitter, value: Any) -> Value:
    """An AnyValue of protobuf."""
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return _str(value.string_value)
    if kind in ("int_value", "bool_value", "double_value"):
        return cast("Value", getattr(value, kind))
    if kind == "array_value":
        split.spend(len(value.array_value.values))
        return [_value(split, part) for part in value.array_value.values]
    if kind == "kvlist_value":
        return json.dumps(_attributes(split, value.kvlist_value.values))
    return None  # bytes, or nothing


def compact(span: Span) -> Span:
    """The span as far as a row can have it: a resource that thousands of spans share is not written thousands of times in
    full."""

    def shortened(attributes: Attributes) -> dict[str, Value]:
        return {
            text(key): text(value, MAX_JSON if key == USAGE_RAW else MAX_TEXT) if isinstance(value, str) else value
            for key, value in islice(attributes.items(), MAX_KEPT_ATTRIBUTES)
            if not isinstance(value, list) or len(value) <= MAX_KEPT_ATTRIBUTES
        }

    resource, attributes = shortened(span.resource), shortened(span.attributes)
    return span._replace(resource=resource, attributes=attributes, name=text(span.name), scope=text(span.scope))


def to_json_line(span: Span) -> bytes:
    """A span as a line of OTLP JSON, which can be stored and read again."""
    document = {
        "resourceSpans": [
            {
                "resource": {"attributes": _pairs(span.resource)},
                "scopeSpans": [
                    {
                        "scope": {"name": span.scope},
                        "spans": [
                            {
                                "traceId": span.trace_id,
                                "spanId": span.span_id,
                                "parentSpanId": span.parent_span_id,
                                "name": span.name,
                                "startTimeUnixNano": str(span.start),
                                "endTimeUnixNano": str(span.end),
                                "status": {"code": 2} if span.is_error else {},
                                "attributes": _pairs(span.attributes),
                            }
                        ],
                    }
                ],
            }
        ]
    }
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _pairs(attributes: Attributes) -> list[dict[str, Any]]:
    return [{"key": key, "value": _any(value)} for key, value in attributes.items()]


def _any(value: Value) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case str():
            return {"stringValue": value}
        case list():
            return {"arrayValue": {"values": [_any(part) for part in value]}}
        case None:
            return {}


def attributes_of(owner: Json) -> dict[str, Value]:
    """The attributes of an OTLP JSON span or resource as plain values."""
    attributes: dict[str, Value] = {}
    for item in items(owner, "attributes"):
        if isinstance(item, dict):
            pair = cast("Json", item)
            key, value = pair.get("key"), pair.get("value")
            if isinstance(key, str) and isinstance(value, dict):
                content = cast("Json", value).get("stringValue")  # most are strings
                attributes[key] = content if isinstance(content, str) else any_value(cast("Json", value))
    return attributes


def any_value(value: Json) -> Value:
    """An AnyValue of OTLP JSON; 64-bit integers come as strings."""
    for kind, content in value.items():
        if kind == "intValue":
            return integer(content)
        if kind == "arrayValue":
            return [any_value(mapping(part)) for part in items(content, "values")]
        if kind == "doubleValue":
            return float(content) if isinstance(content, int | float | str) and _is_float(content) else None
        if kind in ("stringValue", "boolValue"):
            return content if isinstance(content, str | bool) else None
        return json.dumps(content)
    return None


def _is_float(content: float | str) -> bool:
    try:
        float(content)
    except (ValueError, OverflowError):
        return False
    return True


def integer(content: object) -> int | None:
    if isinstance(content, str):
        digits = content.removeprefix("-")
        return integer(int(content)) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None
    return content if type(content) is int and -(2**63) <= content < 2**63 else None


def nanoseconds(value: object) -> int:
    timestamp = integer(value)
    return timestamp if timestamp is not None and 0 <= timestamp < 2**63 else 0


def natural(value: object, bits: int = 63) -> int | None:
    return value if type(value) is int and 0 <= value < 2**bits else None


def real(value: object) -> float | None:
    if isinstance(value, float):
        return value
    return float(value) if type(value) is int and abs(value) < 2**63 else None


def text(value: object, most: int = MAX_LABEL) -> str:
    """A string as every way in cleans it: printable, at most `most` characters; '' for other types.

    No control character reaches a terminal, a file or a report through the ledger, and no line break forges a line.
    """
    if not isinstance(value, str):
        return ""
    if len(value) <= most and value.isprintable():
        return value
    return "".join(c for c in value[: 4 * most] if c.isprintable())[:most]


def as_list(value: object) -> list[object]:
    return list(cast("tuple[object, ...]", value)) if isinstance(value, list | tuple) else []


def texts(value: object) -> list[str]:
    return [text(part) for part in as_list(value)]


def display_text(value: object) -> str:
    return text(value if isinstance(value, str) else json.dumps(value), MAX_TEXT)
