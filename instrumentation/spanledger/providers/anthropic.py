"""Anthropic's wire format: messages, streamed or not, in the API, on Bedrock and on Vertex.

Counts are additive: `input_tokens` leaves cache reads and writes out (anthropic 2.13 `types/message.py`);
`output_tokens` includes thinking. A stream states its input, tier and geography in `message_start`
only; `message_delta` overwrites the counts cumulatively.
"""

from __future__ import annotations

import re
from typing import Final, cast
from urllib.parse import unquote

from spanledger.providers import UNKNOWN_OPERATION, Request, Response, compact_usage, prompt_hash, texts
from spanledger.providers.unread import unread_names
from spanledger.runtime.untrusted_json import Json, count, flag, get_path, items, label, mapping, number, unix_seconds
from spanledger.semconv import usage as usages
from spanledger.semconv.dialects import stated_cost
from spanledger.semconv.evidence import CREDIT_APPLIED, FEE_UNKNOWN
from spanledger.semconv.usage import Usage

NAME: Final = "anthropic"

MESSAGE_FIELDS: Final = ("id", "model", "stop_reason")
MODEL_REQUEST: Final = "span.model_request_end"
"""The event of a managed agent's session that carries usage; the session's own figures are sums of these."""


COUNTED: Final = (
    "input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens_details.thinking_tokens",
    "cache_creation.ephemeral_5m_input_tokens", "cache_creation.ephemeral_1h_input_tokens",
)  # fmt: skip
KNOWN: Final = frozenset({
    *COUNTED, *(f"iterations.{name}" for name in COUNTED), "server_tool_use.web_search_requests", "server_tool_use.web_fetch_requests",
    "cost", "cost_details.*",
})  # fmt: skip
"""Numbers of a usage object that are read, or cost nothing (fetching a page; OpenRouter's own cost, which is stated apart)."""

BILLED_PATH: Final = re.compile(
    r"/messages$|/complete$"  # the API; what follows is how Vertex and Bedrock spell it
    r"|/models/(?P<vertex>[^/]+):(?:streamR|r)awPredict$|/model/(?P<bedrock>[^/]+)/invoke(?:-with-response-stream)?$"
)
BATCH_PATH: Final = re.compile(r"/messages/batches/(?P<batch>[^/]+)(?P<lines>/results)?$")
SESSION_PATH: Final = re.compile(
    r"/sessions(?:/(?P<session>[^/]+))?(?P<events>(?:/threads/[^/]+)?/events(?:/stream)?)?$"
)
"""Sessions of managed agents, and their events."""
SNAPSHOT: Final = "session.usage"
"""The event of a session that states what it has used so far."""
DREAM_PATH: Final = re.compile(r"/dreams(?:/(?P<dream>[^/]+))?$")
"""A dream reorganizes a memory store: a job, whose tokens it states (anthropic 2.14 `types/beta/beta_dream.py`)."""
DREAMT: Final = frozenset({"completed", "failed", "canceled"})
UNBILLED_PATH: Final = re.compile(
    r"/messages/(?:count_tokens|batches)|count-tokens:rawPredict"
    r"|/(?:agents|deployments|environments|files|memory_stores|models|organizations|sessions|skills|vaults|tunnels|user_profiles)\b"
    r"|/dreams/"
)
"""Paths that sell nothing; a session sells by its events, and its own usage is their sum."""


def request(method: str, path: str, body: object) -> Request | None:
    endpoint = "/" + unquote(path.partition("?")[0]).strip("/")
    results = BATCH_PATH.search(endpoint)
    if results is not None:
        return _poll_request("chat", body, results["batch"], lines=results["lines"] is not None)
    dream = DREAM_PATH.search(endpoint)
    if dream is not None and (method.upper() == "GET" or dream["dream"] is None):
        return Request("invoke_agent", is_poll=True, parent_id=dream["dream"], starts_job=dream["dream"] is None)
    session = SESSION_PATH.search(endpoint)
    if session is not None:
        begins = method.upper() == "POST" and session["session"] is None
        # Not a job with one result: whoever began it is known for what it will use.
        return Request("invoke_agent", is_poll=True, parent_id=session["session"], starts_job=begins, batch=begins)
    if method.upper() == "POST" and endpoint.endswith("/messages/batches"):
        return Request("chat", is_poll=True, starts_job=True, batch=True)
    billed = BILLED_PATH.search(endpoint)
    if method.upper() != "POST" or (billed is None and UNBILLED_PATH.search(endpoint)):
        return None
    fields = mapping(body)
    operation = UNKNOWN_OPERATION if billed is None else "text_completion" if endpoint.endswith("/complete") else "chat"
    model = (billed["vertex"] or billed["bedrock"]) if billed is not None else None
    return Request(
        operation,
        label(fields, "model") or model,
        flag(fields, "stream") or "stream" in endpoint,
        count(fields, "max_tokens") or count(fields, "max_tokens_to_sample"),
        number(fields, "temperature"),
        label(fields, "service_tier"),
        prompt_hash(texts(fields.get("system"))),
        billed_to=_billed_to(fields),
        reasoning_level=label(fields, "output_config", "effort"),
    )


def _billed_to(fields: Json) -> str | None:
    """The customer whose account is billed (anthropic 2.14 `types/beta/beta_billing_policy_param.py`)."""
    name = label(fields, "billing_policy", "bill_to") if "billing_policy" in fields else None
    return None if name == "self" else name


def _poll_request(operation: str, body: object, subject: str | None, *, lines: bool) -> Request:
    """A poll for the result of an earlier request."""
    return Request(operation, label(body, "model"), is_poll=not lines, is_json_lines=lines, parent_id=subject)


def fold(body: Json, event: Json) -> Json:
    kind = event.get("type")
    if kind == "content_block_delta":
        return body
    if kind == "message_start":
        message = mapping(event, "message")
        body.update({key: message.get(key) for key in MESSAGE_FIELDS}, streamed=True)
        body["usage"] = dict(mapping(message, "usage"))
        if message.get("container"):
            body["container"] = message["container"]
    elif kind == "message_delta":
        container = get_path(event, "delta", "container")
        if container:
            body["container"] = container
        changed = {key: value for key, value in mapping(event, "usage").items() if value is not None}
        body["usage"] = {**mapping(body, "usage"), **changed}
        body["stop_reason"] = get_path(event, "delta", "stop_reason")
        body["finished"] = body["stop_reason"] is not None  # with the last counts; some readers stop here
    elif kind == "message_stop":
        body["finished"] = True
    elif kind in (MODEL_REQUEST, SNAPSHOT):
        cast("list[Json]", body.setdefault("data", [])).append(event)
    return body


def response(body: Json, request: Request | None = None, provider: str = "") -> Response:  # noqa: ARG001 - one dialect
    if request is not None and request.is_json_lines:
        return _read_batch_line(body, request)
    if request is not None and request.is_poll:
        return _read_poll(body, request)
    usage_fields = mapping(body, "usage")
    model = label(body, "model")
    reason = label(body, "stop_reason")
    main, others = _by_model(usage_fields, model)
    return Response(
        label(body, "id"),
        model,
        (reason,) if reason else (),
        main,
        label(usage_fields, "service_tier"),
        label(usage_fields, "inference_geo"),
        label(usage_fields, "speed"),
        stated_cost(usage_fields),
        compact_usage(usage_fields),
        body.get("streamed") is not True or body.get("finished") is True,
        extras=tuple(
            Response(
                f"{label(body, 'id')}#{other}",
                other,
                (),
                usage,
                label(usage_fields, "service_tier"),
                label(usage_fields, "inference_geo"),
                label(usage_fields, "speed"),
            )
            for other, usage in others.items()
        ),
        unread=unread_names(usage_fields, KNOWN),
        doubts=_doubts(body, usage_fields),
    )


def _doubts(body: Json, usage_fields: Json) -> tuple[str, ...]:
    """A credit that was redeemed without its amount; a container that code ran in, which is billed by the hour."""
    doubts: list[str] = []
    if get_path(usage_fields, "fallback_credit", "status", "type") == "redeemed":
        doubts.append(CREDIT_APPLIED)
    if mapping(body, "container"):
        doubts.append(FEE_UNKNOWN)
    return tuple(doubts)


def _by_model(usage_fields: Json, model: str | None) -> tuple[Usage | None, dict[str, Usage]]:
    """The usage at the answer's model, and at others that took part (an advisor, a model that declined).

    Without a fallback the top level is the sum of the answer's own iterations; compaction is apart from it.
    With one, the iterations say which model did what (anthropic 2.13 `types/beta/beta_usage.py`).
    """
    if count(usage_fields, "input_tokens") is None and count(usage_fields, "output_tokens") is None:
        return None, {}
    iterations: list[object] = [part for part in items(usage_fields, "iterations")[:256] if isinstance(part, dict)]
    if not iterations:
        return _usage([usage_fields], usage_fields), {}
    fell_back = any(get_path(part, "type") == "fallback_message" for part in iterations)
    fallbacks = [label(part, "model") for part in iterations if get_path(part, "type") == "fallback_message"]
    answering = fallbacks[-1] if fallbacks else model
    own: list[object] = [] if fell_back else [usage_fields]
    others: dict[str, list[object]] = {}
    for part in iterations:
        kind, at_model = get_path(part, "type"), label(part, "model")
        if at_model is not None and at_model not in (model, answering) and (fell_back or kind == "advisor_message"):
            others.setdefault(at_model, []).append(part)
        elif fell_back or kind == "compaction":
            own.append(part)
    return _usage(own or [usage_fields], usage_fields), {name: _usage(parts, {}) for name, parts in others.items()}


def _usage(parts: list[object], tools: Json) -> Usage:
    """The sum of usage objects."""
    plain, read, written, written_1h, output, thinking = map(sum, zip(*map(_counts, parts), strict=True))
    return usages.from_totals(
        plain + read + written,
        output,
        cache_read=read,
        cache_write=written,
        cache_write_1h=written_1h,
        reasoning=thinking,
        web_searches=count(tools, "server_tool_use", "web_search_requests") or 0,
    )


def _counts(part: object) -> tuple[int, int, int, int, int, int]:
    """Plain input, cache read, cache written (all), of which for an hour, output, of which thinking."""
    usage_fields = cast("Json", part)
    long = count(usage_fields, "cache_creation", "ephemeral_1h_input_tokens") or 0
    short = count(usage_fields, "cache_creation", "ephemeral_5m_input_tokens") or 0
    written = max(count(usage_fields, "cache_creation_input_tokens") or 0, long + short)
    return (
        count(usage_fields, "input_tokens") or 0,
        count(usage_fields, "cache_read_input_tokens") or 0,
        written,
        long,
        count(usage_fields, "output_tokens") or 0,
        count(usage_fields, "output_tokens_details", "thinking_tokens") or 0,
    )


def _read_batch_line(line: Json, request: Request) -> Response:
    """One line of a batch's results: {"custom_id", "result": {"type": "succeeded", "message": {...}}}."""
    message = mapping(line, "result", "message")
    name = label(line, "custom_id")
    if not message or name is None:
        return Response()
    return response(message)._replace(batch=True, job_id=f"{request.parent_id}:{name}")


def _read_poll(body: Json, request: Request) -> Response:
    """A batch states when it was created; a session's events state what each of its model requests used."""
    created = unix_seconds(body, "created_at")
    if body.get("type") == "dream":
        return _read_dream(body, created)
    if request.operation == "invoke_agent":
        return _read_session(body, request, created)
    if request.starts_job:
        return Response(pending_job_id=label(body, "id"), created=created)
    if request.parent_id is not None:
        return Response(job_id=request.parent_id, pending_job_id=request.parent_id, created=created)
    return Response()


def _read_session(body: Json, request: Request, created: int | None) -> Response:
    """A session, a list of sessions, or a session's events: each model request, and the last statement of what it used so far."""
    extras: list[Response] = []
    if body.get("type") == "session":
        extras.append(_session_usage(label(body, "id"), mapping(body, "usage"), created))
    last: Json = {}
    for item in items(body, "data"):
        kind = get_path(item, "type")
        if kind == MODEL_REQUEST:
            extras.append(_model_request(cast("Json", item)))
        elif kind == SNAPSHOT:
            last = max(last, mapping(item, "usage"), key=_session_ms)
        elif kind == "session":
            usage = mapping(item, "usage")
            extras.append(_session_usage(label(item, "id"), usage, unix_seconds(cast("Json", item), "created_at")))
    if last:
        extras.append(_session_usage(request.parent_id, last, None))
    return Response(
        pending_job_id=label(body, "id") if request.starts_job else None,
        created=created,
        session_model=_session_model(body),
        extras=tuple(extra for extra in extras if extra.usage is not None),
    )


def _session_model(body: Json) -> tuple[str, str] | None:
    """A session and its agent's model; None where several agents, whose models may differ, take part."""
    session, model = label(body, "id"), label(body, "agent", "model", "id")
    is_alone = body.get("type") == "session" and not mapping(body, "agent", "multiagent")
    return (session, model) if session and model and is_alone else None


def _session_ms(usage_fields: Json) -> int:
    """How long a session was running, in milliseconds (anthropic 2.14 `types/beta/beta_managed_agents_session_usage.py`)."""
    seconds = number(usage_fields, "active_seconds")
    return round(seconds * 1000) if seconds is not None and 0 < seconds < MAX_SECONDS else 0


MAX_SECONDS: Final = 4_000_000


def _session_usage(session: str | None, usage_fields: Json, created: int | None) -> Response:
    """The runtime of a session and its searches, which its model requests do not state; its tokens are theirs."""
    usage = Usage(
        session_ms=_session_ms(usage_fields),
        web_searches=count(usage_fields, "server_tool_use", "web_search_requests") or 0,
    )
    return Response(
        f"{session}#runtime",
        usage=usage if session and any(usage[:-1]) else None,
        raw_usage=compact_usage(usage_fields),
        job_id=f"{session}#runtime",
        created=created,
        begun_job_id=session,
        grows=True,
    )


def _read_dream(body: Json, created: int | None) -> Response:
    """A dream counts once, when it is over; until then its figures grow."""
    name = label(body, "id")
    usage_fields = mapping(body, "usage")
    usage = _usage([usage_fields], {}) if usage_fields else None
    if label(body, "status") not in DREAMT:
        return Response(pending_job_id=name, created=created)
    if usage is None or not usage.total:
        return Response(cancelled_job_id=name)
    return Response(
        name,
        label(body, "model", "id") or label(body, "model"),
        (),
        usage,
        raw_usage=compact_usage(usage_fields),
        job_id=name,
        created=created,
        unread=unread_names(usage_fields, KNOWN),
    )


def _model_request(event: Json) -> Response:
    name = label(event, "id")
    usage_fields = mapping(event, "model_usage")
    usage = _usage([usage_fields], usage_fields) if usage_fields else None
    created = unix_seconds(event, "processed_at")
    speed = label(usage_fields, "speed")
    return Response(
        name,
        label(event, "model"),
        usage=usage,
        speed=speed,
        raw_usage=compact_usage(usage_fields),
        unread=unread_names(usage_fields, KNOWN),
        operation="chat",
        job_id=name,
        created=created,
    )
