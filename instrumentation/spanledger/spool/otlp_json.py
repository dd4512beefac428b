"""Spans as OTLP JSON lines, OpenTelemetry's file-exporter format.

Written out by hand: OpenTelemetry's own JSON encoder (opentelemetry-exporter-otlp-json-common 0.66b1) takes
95 us a span where this takes about 10, and a call may cost 100 in all (docs/decisions/0003). A test holds the
two against each other.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Final, cast

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import StatusCode

from spanledger.runtime.span_attributes import copy_attributes
from spanledger.semconv import attributes as a

KINDS: Final = {0: 1, 1: 2, 2: 3, 3: 4, 4: 5}
"""opentelemetry-api SpanKind.value -> OTLP's SPAN_KIND number."""


class Encoder:
    """Spans as OTLP JSON lines. Resource and scope are encoded once.

    Args:
        without: attributes that are left out.
    """

    def __init__(self, without: frozenset[str] = frozenset()) -> None:
        self._without = without
        self._heads: dict[tuple[int, int], tuple[Resource, InstrumentationScope | None, str]] = {}

    def line(self, span: ReadableSpan) -> bytes:
        """One `{"resourceSpans": [...]}` line holding `span`."""
        context = span.get_span_context()
        if context is None:
            raise ValueError("a span without a context")
        parent = f',"parentSpanId":"{span.parent.span_id:016x}"' if span.parent else ""
        own = copy_attributes(span)
        if self._without:
            own = {name: value for name, value in own.items() if name not in self._without}
        attributes = _attributes(own)
        status = ""
        if span.status.status_code is StatusCode.ERROR:
            status = f',"status":{{"message":{quoted(span.status.description or "")},"code":2}}'
        return (
            f'{self._head(span)}"traceId":"{context.trace_id:032x}","spanId":"{context.span_id:016x}"{parent}'
            f',"flags":{int(context.trace_flags)},"name":{quoted(span.name)},"kind":{KINDS[span.kind.value]}'
            f',"startTimeUnixNano":"{span.start_time}","endTimeUnixNano":"{span.end_time}"'
            f',"attributes":[{attributes}]{status}}}]}}]}}]}}\n'
        ).encode("ascii")

    def marker(self, resource: Resource, attributes: Mapping[str, Any]) -> bytes:
        """A process marker (a.MARKER), encoded as a span so that every ingestion path carries it."""
        now = time.time_ns()
        resource_attributes = _attributes(resource.attributes)
        return (
            f'{{"resourceSpans":[{{"resource":{{"attributes":[{resource_attributes}]}},"scopeSpans":[{{"scope":{{"name":"{a.MARKER_SCOPE}"}}'
            f',"spans":[{{"traceId":"{secrets.token_hex(16)}","spanId":"{secrets.token_hex(8)}","name":"spanledger.marker"'
            f',"kind":1,"startTimeUnixNano":"{now}","endTimeUnixNano":"{now}"'
            f',"attributes":[{_attributes(attributes)}]}}]}}]}}]}}\n'
        ).encode("ascii")

    def _head(self, span: ReadableSpan) -> str:
        resource, scope = span.resource, span.instrumentation_scope
        cache_entry = self._heads.get((id(resource), id(scope)))
        if cache_entry is not None:
            return cache_entry[2]
        resource_attributes = _attributes(resource.attributes)
        name, version = (scope.name, scope.version) if scope else ("", None)
        versioned = f',"version":{quoted(version)}' if version else ""
        head = (
            f'{{"resourceSpans":[{{"resource":{{"attributes":[{resource_attributes}]}},"scopeSpans":[{{"scope":'
            f'{{"name":{quoted(name)}{versioned}}},"spans":[{{'
        )
        self._heads[id(resource), id(scope)] = (resource, scope, head)  # holding both keeps the ids theirs
        return head


def _attributes(attributes: Mapping[str, object]) -> str:
    shape = (*attributes, *map(type, attributes.values()))
    template = _templates.get(shape)
    if template is None:
        template = ",".join(map(_template, attributes, attributes.values()))
        if len(_templates) < MAX_TEMPLATES:
            _templates[shape] = template
    fillings = [
        quoted(value) if type(value) is str else value if type(value) is int else _value(value)
        for value in attributes.values()
    ]
    return template % tuple(fillings)


_templates: dict[tuple[object, ...], str] = {}
"""Keys and types of attributes -> their JSON with a place for each value: calls come in few shapes."""

MAX_TEMPLATES: Final = 500


def _template(key: str, value: object) -> str:
    opening = f'{{"key":{quoted(key)},"value":{{'.replace("%", "%%")
    kind = type(value)
    inside = '"stringValue":%s' if kind is str else '"intValue":"%d"' if kind is int else "%s"
    return f"{opening}{inside}}}}}"


def _value(value: Any) -> str:
    """The inside of an OTLP AnyValue: 64-bit integers are strings in OTLP JSON."""
    if isinstance(value, bool):
        return f'"boolValue":{"true" if value else "false"}'
    if isinstance(value, int):
        return f'"intValue":"{value}"'
    if isinstance(value, float):
        return f'"doubleValue":{_double(value)}'
    if isinstance(value, tuple | list):
        parts = ",".join(f"{{{_value(part)}}}" for part in cast("Sequence[object]", value))
        return f'"arrayValue":{{"values":[{parts}]}}'
    return f'"stringValue":{quoted(str(value))}'


def _double(value: float) -> str:
    """Infinities and NaN as proto-JSON spells them."""
    if math.isnan(value):
        return '"NaN"'
    if math.isinf(value):
        return '"Infinity"' if value > 0 else '"-Infinity"'
    return repr(value)
