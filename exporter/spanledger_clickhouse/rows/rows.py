"""Maps an OTLP span to a row of `llm_calls`; shared by every ingestion path.

Takes spans (`otlp.py`) and gives tuples in the order of `COLUMNS`. Pure and total: a value of the wrong type becomes
the column's empty value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from itertools import islice
from operator import itemgetter
from typing import Any, Final, NamedTuple, cast

from spanledger.pricing import BilledCall, Price
from spanledger.runtime.untrusted_json import Json
from spanledger.semconv import attributes as a
from spanledger.semconv import vendors
from spanledger.semconv.dimensions import DIMENSIONS
from spanledger.semconv.evidence import READING_FLAGS
from spanledger.semconv.usage import COST_ATTRIBUTES, METERS, USAGE_ATTRIBUTES, Usage, from_attributes
from spanledger_clickhouse.rows.otlp import (
    MAX_JSON,
    MAX_TEXT,
    Span,
    as_list,
    display_text,
    natural,
    real,
    spans_from_json,
    text,
    texts,
)
from spanledger_clickhouse.rows.result_lines import expanded

Row = tuple[object, ...]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MAX_TIMESTAMP_SECONDS: Final = 4_102_444_800
"""The year 2100: a later time is not valid."""
MAX_DURATION_NS: Final = 366 * 86_400 * 10**9
"""Maximum duration of a call in nanoseconds."""
MAX_ATTRIBUTES: Final = 128
"""Labels, and further attributes, of a row."""
MAX_PICO: Final = 10**18 - 1
"""Decimal(18, 12) holds less than a million dollars a row."""

TOKENS: Final = tuple((meter.column, name) for name, meter in METERS.items())
"""(column, field of `Usage`) of every meter."""

COSTS: Final = (
    ("cost_usd", a.COST_TOTAL),
    *((f"{group}_cost_usd", attribute) for group, attribute in COST_ATTRIBUTES.items()),
)
"""(column, attribute) of every sum."""
PRICE_LABELS: Final = (
    ("price_status", a.PRICE_STATUS),
    ("price_key", a.PRICE_KEY),
    ("price_source", a.PRICE_SOURCE),
    ("price_version", a.PRICE_VERSION),
    ("price_flags", a.PRICE_FLAGS),
)
"""(column, attribute) of what describes a price."""

TEXT: Final = "String"
LOW: Final = "LowCardinality(String)"
LOWS: Final = "Array(LowCardinality(String))"
NULLABLE: Final = "Nullable(String)"
LOW_NULLABLE: Final = "LowCardinality(Nullable(String))"
MONEY: Final = "Nullable(Decimal(18, 12))"
MAP: Final = "Map(LowCardinality(String), String)"

NULLABLE_DIMENSIONS: Final = tuple(dimension for dimension in DIMENSIONS.values() if not dimension.is_key)
"""All but the tenant, which is a part of the sorting key: '' where it is missing."""

COLUMNS: Final[dict[str, str]] = {
    "tenant_id": LOW,
    "start_time": "DateTime64(6, 'UTC')",
    "trace_id": TEXT,
    "span_id": TEXT,
    "parent_span_id": TEXT,
    "response_id": TEXT,
    "process_id": TEXT,
    "sequence": "Nullable(UInt64)",
    "service": LOW,
    "environment": LOW_NULLABLE,
    **{d.column: NULLABLE if d.is_identifier else LOW_NULLABLE for d in NULLABLE_DIMENSIONS},
    "labels": MAP,
    "unit_name": LOW_NULLABLE,
    "unit_id": TEXT,
    "unit_quantity": "Nullable(Float64)",
    "unit_measure": LOW,
    "attribution_reason": LOW,
    "context_lost_at": LOW,
    "code_file": TEXT,
    "code_line": "UInt32",
    "code_function": TEXT,
    "provider": LOW,
    "operation": LOW,
    "request_model": LOW,
    "response_model": LOW,
    "server_address": LOW,
    "service_tier": LOW,
    "inference_geo": LOW,
    "speed": LOW,
    "media_size": LOW,
    "media_quality": LOW,
    "is_streaming": "Bool",
    "is_batch": "Bool",
    "temperature": "Nullable(Float64)",
    "max_tokens": "Nullable(UInt32)",
    "prompt_name": LOW,
    "prompt_hash": TEXT,
    **{column: "UInt32" for column, _ in TOKENS},
    "reported_total_tokens": "Nullable(UInt64)",
    "usage_source": LOW,
    **{column: MONEY for column, _ in COSTS},
    "computed_cost_usd": MONEY,
    "avoided_cost_usd": MONEY,
    "low_cost_usd": MONEY,
    "high_cost_usd": MONEY,
    "price_status": LOW,
    "price_key": LOW,
    "price_source": LOW,
    "price_version": LOW,
    "price_flags": LOWS,
    "duration_us": "UInt64",
    "time_to_first_chunk_us": "Nullable(UInt64)",
    "outcome": LOW,
    "error_type": LOW,
    "finish_reasons": LOWS,
    "attempts": "UInt16",
    "attempt_status": LOWS,
    "attempt_duration_us": "Array(UInt64)",
    "attempt_billed": LOWS,
    "job_id": TEXT,
    "usage_json": TEXT,
    "attributes": MAP,
    "scope": LOW,
    "source": LOW,
}
"""Column of `llm_calls` -> its type, in the order of a row."""

MAPPED_ATTRIBUTES: Final = (
    {value for name, value in vars(a).items() if name.isupper() and isinstance(value, str)}
    | {entry.attribute for entry in (*DIMENSIONS.values(), *METERS.values())}
) - {
    a.JOB_SERVER,
    a.PROVIDER_PROJECT,
    a.USAGE_UNREAD,
    a.USAGE_DOUBTS,
    a.BILLED_TO,
    a.BUDGET_WARNINGS,
    a.REQUESTED_MODEL,
    a.DOWNGRADE_REASON,
    a.REFUSAL,
    a.CACHE_HIT,
    a.AGENT_NAME,
    a.WORKFLOW_NAME,
    a.RUN_PATH,
    a.REQUEST_REASONING_LEVEL,
    a.REQUEST_CHOICE_COUNT,
    a.REQUEST_PREVIOUS_RESPONSE_ID,
}
"""Attributes that have a column (or are derived from one); any other is kept in `attributes`."""


EVENT_COLUMNS: Final[dict[str, str]] = {
    "process_id": TEXT,
    "kind": LOW,
    "at": "DateTime64(6, 'UTC')",
    "service": LOW,
    "host": LOW,
    "sequence": "Nullable(UInt64)",
    "lost_rows": "UInt64",
    "lost_from": "Nullable(UInt64)",
    "lost_to": "Nullable(UInt64)",
    "lost_cost_usd": "Decimal(18, 12)",
    "recorded_cost_usd": "Nullable(Decimal(38, 12))",
}
"""Column of `ledger_events` -> its type, in the order of an event."""


ATTRIBUTION_COLUMNS: Final[dict[str, object]] = {
    **dict.fromkeys((d.column for d in NULLABLE_DIMENSIONS), None),
    "unit_name": None,
    **dict.fromkeys(
        ("unit_id", "unit_measure", "attribution_reason", "context_lost_at", "code_file", "code_line", "code_function"),
        "",
    ),
}
"""Columns of a call that say who caused it, beside the tenant -> their empty value."""

JOB_COLUMNS: Final[dict[str, str]] = {
    "tenant_id": LOW,
    "provider": LOW,
    "job_id": TEXT,
    "parent_id": TEXT,
    "server": TEXT,
    "began_at": "DateTime64(6, 'UTC')",
    "attribution": MAP,
}
"""Column of `llm_jobs` -> its type, in the order of a job."""

UNDATED: Final = "spanledger.job.undated"
"""Among the `attributes` of a result whose answer does not say when it was made: its time is that of its job."""


OUTCOME_COLUMNS: Final[dict[str, str]] = {
    "tenant_id": LOW,
    "kind": LOW,
    "outcome_id": TEXT,
    "status": LOW,
    "accepted": "UInt8",
    "value_usd": "Nullable(Decimal(18, 6))",
    "request_id": TEXT,
    "unit_id": TEXT,
    "trace_id": TEXT,
    "at": "DateTime64(6, 'UTC')",
}
"""Column of `outcomes` -> its type, in the order of an outcome."""


class Contents(NamedTuple):
    """Rows and markers of one line."""

    rows: list[Row]
    events: list[Row]
    """Markers that a process reports about itself (`ledger_events`)."""
    jobs: Sequence[Row] = ()
    """Who began which job (`llm_jobs`)."""
    outcomes: Sequence[Row] = ()
    """What became of requests and units of work (`outcomes`)."""


def contents(line: bytes | str, source: str = "spool") -> Contents:
    """The rows and markers of one OTLP JSON line.

    Raises:
        ValueError: the line is not a JSON object.
    """
    document: object = json.loads(line)
    if not isinstance(document, dict) or "resourceSpans" not in document:
        raise ValueError("an OTLP JSON line must be an object with resourceSpans")
    rows: list[Row] = []
    events: list[Row] = []
    jobs: list[Row] = []
    outcomes: list[Row] = []
    for span in spans_from_json(cast("Json", document)):
        if span.scope == a.MARKER_SCOPE:
            events.append(event(span))
        elif is_job(span):
            jobs.append(job(span))
        elif is_outcome(span):
            outcomes.append(outcome(span))
        elif span.scope.startswith(a.SCOPE_PREFIX):
            rows += [row(call, source) for call in expanded(span)]
    return Contents(rows, events, jobs, outcomes)


def is_job(span: Span) -> bool:
    """Whether a span says who began a job, and is no call."""
    return span.scope.startswith(a.SCOPE_PREFIX) and span.attributes.get(a.MARKER) == "job"


def is_outcome(span: Span) -> bool:
    """Whether a span says what became of a request, and is no call."""
    return span.scope.startswith(a.SCOPE_PREFIX) and span.attributes.get(a.MARKER) == "outcome"


def outcome(span: Span) -> Row:
    """What became of a request, in the order of `OUTCOME_COLUMNS`."""
    attributes = span.attributes
    try:
        value = Decimal(str(attributes[a.OUTCOME_VALUE])) if a.OUTCOME_VALUE in attributes else None
    except InvalidOperation:
        value = None
    return (
        text(attributes.get(a.TENANT_ID)),
        text(attributes.get(a.OUTCOME_KIND)),
        text(attributes.get(a.OUTCOME_ID)),
        text(attributes.get(a.OUTCOME_STATUS)),
        int(attributes.get(a.OUTCOME_ACCEPTED) is True),
        value if value is not None and abs(value) < MAX_VALUE else None,
        text(attributes.get(a.REQUEST_ID)),
        text(attributes.get(a.UNIT_ID)),
        span.trace_id,
        EPOCH + timedelta(microseconds=min(span.start, MAX_TIMESTAMP_SECONDS * 10**9) // 1000),
    )


MAX_VALUE: Final = Decimal(10) ** 12


def job(span: Span) -> Row:
    """Who began a job, in the order of `JOB_COLUMNS`."""
    values = dict(zip(COLUMNS, row(span, ""), strict=True))
    created = natural(span.attributes.get(a.JOB_CREATED))
    return (
        values["tenant_id"],
        values["provider"],
        values["job_id"],
        text(span.attributes.get(a.JOB_PARENT)),
        text(span.attributes.get(a.JOB_SERVER)),
        EPOCH + timedelta(seconds=created) if created and created < MAX_TIMESTAMP_SECONDS else values["start_time"],
        {column: str(values[column]) for column in ATTRIBUTION_COLUMNS if values[column]},
    )


def rows(line: bytes | str, source: str = "spool") -> list[Row]:
    """The rows of one OTLP JSON line; raises as `contents` does."""
    return contents(line, source).rows


def event(span: Span) -> Row:
    """One marker, in the order of `EVENT_COLUMNS`."""
    attributes, resource = span.attributes, span.resource
    return (
        text(attributes.get(a.PROCESS_ID)),
        text(attributes.get(a.MARKER)),
        EPOCH + timedelta(microseconds=min(span.start, MAX_TIMESTAMP_SECONDS * 10**9) // 1000),
        text(resource.get(a.SERVICE_NAME)),
        text(resource.get(a.HOST_NAME)),
        natural(attributes.get(a.SEQUENCE)),
        natural(attributes.get(a.LOST_ROWS)) or 0,
        natural(attributes.get(a.LOST_FROM)),
        natural(attributes.get(a.LOST_TO)),
        money(attributes.get(a.COST_TOTAL), True),
        _recorded(attributes.get(a.RECORDED_COST)),
    )


def _recorded(value: object) -> Decimal | None:
    """What a process has recorded so far, in USD; more than a call may cost."""
    return Decimal(value).scaleb(-12) if type(value) is int and 0 <= value < 2**63 else None


def row(span: Span, source: str) -> Row:
    """One span as a row, in the order of `COLUMNS`.

    The attributes that a span has are a quarter of what a row can hold: each is put into its column, the others stay empty.
    """
    attributes, resource = span.attributes, span.resource
    values = _empty_row()
    further: list[str] = []
    for name, value in attributes.items():
        reader = READERS.get(name)
        if reader is not None:
            values[reader[0]] = reader[1](value)
        elif name not in NOT_COLUMNS:
            further.append(name)
    others = {
        text(name): display_text(attributes[name])
        for name in islice((name for name in further if not name.startswith(a.LABEL_PREFIX)), MAX_ATTRIBUTES)
    }
    usage = from_attributes(attributes)
    if usage is not None:
        values[TOKENS_BEGIN:TOKENS_END] = TOKEN_COUNTS(usage)
    elif not attributes.keys().isdisjoint(USAGE_ATTRIBUTES):
        values[INDEX["usage_source"]] = "missing"
    if natural(attributes.get(a.COST_TOTAL)) is not None:  # a missing component of a priced call is zero
        for index in (index for index in COST_INDEXES if values[index] is None):
            values[index] = ZERO
    trace_id, span_id, start = span.trace_id, span.span_id, span.start
    job_id = text(attributes.get(a.JOB_ID))
    if job_id:
        # Any process may poll an async job: the same job of a tenant is the same row, whichever process saw it finish.
        digest = hashlib.sha256(f"{_id_space(attributes)}:{job_id}".encode()).hexdigest()
        trace_id, span_id = digest[:32], digest[32:48]
        created = natural(attributes.get(a.JOB_CREATED))
        start = created * 10**9 if created and created < MAX_TIMESTAMP_SECONDS else start
        if not attributes.get(a.JOB_CREATED):
            others[UNDATED] = "true"
    values[INDEX["start_time"] : INDEX["start_time"] + 4] = (
        EPOCH + timedelta(microseconds=min(start, MAX_TIMESTAMP_SECONDS * 10**9) // 1000),
        trace_id,
        span_id,
        span.parent_span_id,
    )
    values[INDEX["service"]] = text(resource.get(a.SERVICE_NAME))
    values[INDEX["environment"]] = text(resource.get(a.ENVIRONMENT) or resource.get(a.ENVIRONMENT_DEPRECATED)) or None
    values[INDEX["labels"]] = {
        text(name.removeprefix(a.LABEL_PREFIX)): text(attributes[name])
        for name in islice((name for name in further if name.startswith(a.LABEL_PREFIX)), MAX_ATTRIBUTES)
    }
    values[INDEX["duration_us"]] = min(max(0, span.end - span.start), MAX_DURATION_NS) // 1000
    values[INDEX["attributes"]] = others
    values[INDEX["scope"]] = text(span.scope)
    values[INDEX["source"]] = source
    return tuple(values)


def _empty_row() -> list[object]:
    values = list(EMPTY_ROW)
    for index in LIST_INDEXES:
        values[index] = []
    return values


def _text_or_none(value: object) -> str | None:
    return text(value) or None


def _path(value: object) -> str:
    return text(value, MAX_TEXT)


def _usage_json(value: object) -> str:
    return text(value, MAX_JSON)


def _is_true(value: object) -> bool:
    return value is True


def _uint32(value: object) -> int | None:
    return natural(value, 32)


def _sum(value: object) -> Decimal | None:
    return money(value, False)


def _id_space(attributes: Mapping[str, Any]) -> str:
    """Within what the id of a record is not given twice: the provider, or one server and its file of results."""
    provider, server = text(attributes.get(a.PROVIDER)), text(attributes.get(a.JOB_SERVER))
    file = text(attributes.get(a.RESULT_FILE))
    return f"{provider}@{server}/{file}" if server or file else provider


def billed_call(values: Mapping[str, Any]) -> BilledCall:
    """What a row says about the price of its call.

    Args:
        values: column -> value; times are aware.
    """
    return BilledCall(
        values["provider"],
        values["response_model"] or None,
        None
        if values["usage_source"] == "missing"
        else Usage(
            **{field: values[column] for column, field in TOKENS}, reported_total=values["reported_total_tokens"]
        ),
        request_model=values["request_model"] or None,
        tier="batch" if values["is_batch"] else values["service_tier"],
        geo=values["inference_geo"],
        speed=values["speed"],
        host=values["server_address"],
        provider_cost_usd=None,
        size=values["media_size"],
        quality=values["media_quality"],
        completed_at=values["start_time"] + timedelta(microseconds=values["duration_us"]),
        doubts=tuple(flag for flag in values["attributes"].get(a.USAGE_DOUBTS, "").split(",") if flag in READING_FLAGS),
    )


def price_columns(price: Price) -> dict[str, Any]:
    """A price as the columns of a row."""
    priced = price.total_picousd is not None
    costs = {
        "cost_usd": price.total_picousd,
        **{f"{name}_cost_usd": cost for name, cost in price.group_costs().items()},
    }
    return {
        **{column: money(costs.get(column), priced) for column, _ in COSTS},
        "low_cost_usd": money(price.low_picousd, False),
        "high_cost_usd": money(price.high_picousd, False),
        "price_status": price.status,
        "price_key": price.key or "",
        "price_source": price.source or "",
        "price_version": price.version or "",
        "price_flags": list(price.flags),
    }


def seconds_to_us(value: object) -> int | None:
    seconds = real(value)
    return int(seconds * 1e6) if seconds is not None and 0 <= seconds < 1e12 else None


def money(value: object, priced: bool) -> Decimal | None:
    """Picodollars as USD; a missing component of a priced call is zero."""
    if type(value) is int and abs(value) <= MAX_PICO:
        return Decimal(value).scaleb(-12)
    return Decimal(0) if priced else None


READERS_OF_COLUMNS: Final[dict[str, tuple[str, Callable[[Any], object]]]] = {
    "tenant_id": (a.TENANT_ID, text),
    "response_id": (a.RESPONSE_ID, text),
    "process_id": (a.PROCESS_ID, text),
    "sequence": (a.SEQUENCE, natural),
    **{dimension.column: (dimension.attribute, _text_or_none) for dimension in NULLABLE_DIMENSIONS},
    "unit_name": (a.UNIT_NAME, _text_or_none),
    "unit_id": (a.UNIT_ID, text),
    "unit_quantity": (a.UNIT_QUANTITY, real),
    "unit_measure": (a.UNIT_MEASURE, text),
    "attribution_reason": (a.ATTRIBUTION_REASON, text),
    "context_lost_at": (a.CONTEXT_LOST_AT, text),
    "code_file": (a.CODE_FILE, _path),
    "code_line": (a.CODE_LINE, lambda value: natural(value, 32) or 0),
    "code_function": (a.CODE_FUNCTION, text),
    "provider": (a.PROVIDER, text),
    "operation": (a.OPERATION, text),
    "request_model": (a.REQUEST_MODEL, text),
    "response_model": (a.RESPONSE_MODEL, text),
    "server_address": (a.SERVER_ADDRESS, text),
    "service_tier": (a.SERVICE_TIER, text),
    "inference_geo": (a.INFERENCE_GEO, text),
    "speed": (a.SPEED, text),
    "media_size": (a.MEDIA_SIZE, text),
    "media_quality": (a.MEDIA_QUALITY, text),
    "is_streaming": (a.REQUEST_STREAM, _is_true),
    "is_batch": (a.BATCH, _is_true),
    "temperature": (a.REQUEST_TEMPERATURE, real),
    "max_tokens": (a.REQUEST_MAX_TOKENS, _uint32),
    "prompt_name": (a.PROMPT_NAME, text),
    "prompt_hash": (a.PROMPT_HASH, text),
    "reported_total_tokens": (a.REPORTED_TOTAL, natural),
    "usage_source": (a.USAGE_SOURCE, text),
    **{column: (name, _sum) for column, name in COSTS},
    "computed_cost_usd": (a.COST_COMPUTED, _sum),
    "avoided_cost_usd": (a.COST_AVOIDED, _sum),
    "low_cost_usd": (a.COST_LOW, _sum),
    "high_cost_usd": (a.COST_HIGH, _sum),
    "price_status": (a.PRICE_STATUS, text),
    "price_key": (a.PRICE_KEY, text),
    "price_source": (a.PRICE_SOURCE, text),
    "price_version": (a.PRICE_VERSION, text),
    "price_flags": (a.PRICE_FLAGS, texts),
    "time_to_first_chunk_us": (a.RESPONSE_TIME_TO_FIRST_CHUNK, seconds_to_us),
    "outcome": (a.OUTCOME, text),
    "error_type": (a.ERROR_TYPE, text),
    "finish_reasons": (a.RESPONSE_FINISH_REASONS, texts),
    "attempts": (a.ATTEMPTS, lambda value: natural(value, 16) or 0),
    "attempt_status": (a.ATTEMPT_STATUS, texts),
    "attempt_duration_us": (a.ATTEMPT_DURATION_US, lambda value: [natural(part) or 0 for part in as_list(value)]),
    "attempt_billed": (a.ATTEMPT_BILLED, texts),
    "job_id": (a.BEGUN_JOB_ID, text),
    "usage_json": (a.USAGE_RAW, _usage_json),
}
"""Column -> the attribute that it holds, and how that is read."""
INDEX: Final = {column: index for index, column in enumerate(COLUMNS)}
READERS: Final = {name: (INDEX[column], read) for column, (name, read) in READERS_OF_COLUMNS.items()}
NOT_COLUMNS: Final = frozenset((MAPPED_ATTRIBUTES | vendors.NAMES) - READERS.keys() - {a.LABEL_PREFIX})
"""Attributes from which columns are made in other ways."""
EMPTY_ROW: Final = tuple(
    read(None) if (read := READERS_OF_COLUMNS.get(column, ("", None))[1]) else 0 for column in COLUMNS
)
LIST_INDEXES: Final = tuple(index for index, value in enumerate(EMPTY_ROW) if isinstance(value, list))
TOKENS_BEGIN: Final = INDEX[TOKENS[0][0]]
TOKENS_END: Final = TOKENS_BEGIN + len(TOKENS)
TOKEN_COUNTS: Final = itemgetter(*(Usage._fields.index(field) for _, field in TOKENS))
COST_INDEXES: Final = tuple(INDEX[column] for column, _ in COSTS)
ZERO: Final = Decimal(0)
