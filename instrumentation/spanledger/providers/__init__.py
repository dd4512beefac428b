"""Provider-neutral `Request` and `Response`, and the protocol of the modules that read a provider's wire format.

A provider is a module of pure functions over parsed JSON. It knows no SDK and no OpenTelemetry, so
the same functions serve every SDK generation, call style, recorded body and batch file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol, cast

from spanledger.runtime.untrusted_json import Json, label
from spanledger.semconv.usage import Usage

UNKNOWN_OPERATION: Final = "unknown"
"""The operation of an endpoint that no table names but whose answer carries usage."""

COMPACT: Final = json.JSONEncoder(separators=(",", ":")).encode
LONG_STRING: Final = re.compile(r'"[^"]{65,}"')
"""A string too long to be a name: it could be content."""


class Request(NamedTuple):
    """The accounting fields of a request. No content: only a hash of the system prompt is kept."""

    operation: str
    """`gen_ai.operation.name`, or "unknown" for an endpoint that counts only if its answer has usage."""
    model: str | None = None
    stream: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    service_tier: str | None = None
    prompt_hash: str | None = None
    """First 12 hex digits of the SHA-256 of the system prompt."""
    include_usage: bool | None = None
    """OpenAI chat streams: what the caller said of `stream_options.include_usage`."""
    expected_usage: Usage | None = None
    """What the request itself says is sold of one thing made, for answers that do not count (characters,
    seconds of a video, images)."""
    size: str | None = None
    """Of an image or a video: "1024x1024", "1080p"."""
    quality: str | None = None
    is_poll: bool = False
    """The response reports the status of an earlier request: it counts once, when that request has finished."""
    is_json_lines: bool = False
    """The answer is JSON lines, each of which may be billed by itself (the results of a batch)."""
    parent_id: str | None = None
    """The id in the path that the answer's parts belong to (a batch)."""
    starts_job: bool = False
    """The request starts a job that is billed later and then polled (a batch, a video, a background response)."""
    batch: bool = False
    """It begins a batch: each of its lines is billed, and seen, by itself."""
    billed_to: str | None = None
    """Who is billed, where that is somebody else's account (Anthropic's `bill_to`)."""
    reasoning_level: str | None = None
    """How hard to think, as the provider spells it."""
    choice_count: int | None = None
    """How many answers, where that is not one."""
    previous_response_id: str | None = None

    @property
    def deferred(self) -> bool:
        """Whether only the answer shows that there is anything to record."""
        return self.is_poll or self.is_json_lines or self.operation == UNKNOWN_OPERATION


class Response(NamedTuple):
    """The accounting fields of a response, complete or as far as a stream got."""

    id: str | None = None
    model: str | None = None
    finish_reasons: tuple[str, ...] = ()
    usage: Usage | None = None
    service_tier: str | None = None
    """The tier served, as the provider spells it."""
    inference_geo: str | None = None
    speed: str | None = None
    provider_cost_usd: str | None = None
    """The provider's own statement of the cost (OpenRouter, xAI), a decimal string in USD."""
    raw_usage: str | None = None
    """The usage object as the provider sent it, JSON, without long strings."""
    complete: bool = True
    """False where a stream ended before the provider said that it was finished."""
    operation: str | None = None
    """Where it is not the request's."""
    quantity: int = 1
    """Quantity produced, in units of the request's expected usage."""
    size: str | None = None
    quality: str | None = None
    batch: bool = False
    job_id: str | None = None
    """Job id, where a result can be seen more than once (a poll, batch results): it is counted once."""
    created: int | None = None
    """Creation time of the job in Unix seconds, the same whenever the job is seen."""
    pending_job_id: str | None = None
    """The id of the pending job under which the result will be seen later; until then nothing is billed."""
    cancelled_job_id: str | None = None
    """The id of a pending job that was cancelled or failed: it is not billed."""
    begun_job_id: str | None = None
    """The job whose result this is, where that is not `job_id` itself (the batch of a line)."""
    result_names: tuple[str, ...] = ()
    """Of a batch: the ids of the files in which its results are."""
    extras: tuple[Response, ...] = ()
    """Further billed responses in the same HTTP response, each with its own model."""
    unread: str | None = None
    """Names of numbers in the usage object that are not read, with commas: its price may lack something."""
    doubts: tuple[str, ...] = ()
    """What else the answer leaves open that can cost money (`semconv/evidence.py`)."""
    session_model: tuple[str, str] | None = None
    """A session and the model that serves it: the session's requests do not name it."""
    grows: bool = False
    """Whether `usage` is what `job_id` has used so far: a later statement replaces an earlier one."""
    containers: tuple[str, ...] = ()
    """Ids of the containers that it ran code in, each billed once for a session."""


class Provider(Protocol):
    """The functions of a provider module."""

    @property
    def NAME(self) -> str:  # noqa: N802 - a constant of the module
        """`gen_ai.provider.name` where the host says nothing else."""
        ...

    def request(self, method: str, path: str, body: object) -> Request | None:
        """Read a request; None for one that can never be billed (a GET, say)."""
        ...

    def fold(self, body: Json, event: Json) -> Json:
        """Fold one stream event into the body an unstreamed call would have had. Folding an event
        twice changes nothing; only what accounting reads is kept, so memory does not grow."""
        ...

    def response(self, body: Json, request: Request | None = None, provider: str = "") -> Response:
        """Read an answer, what `fold` made of a stream, or one line of an answer in lines.

        `provider`: `gen_ai.provider.name` of the server, where one format has several dialects.
        """
        ...


RESULT_FIELDS: Final = ("response", "result", "error", "status")


def is_result(line: Json) -> bool:
    """Whether the first line of a file is a batch's result, of any of the three providers: named, and with an answer."""
    return ("custom_id" in line or "key" in line) and any(name in line for name in RESULT_FIELDS) and "body" not in line


def several(choices: int | None) -> int | None:
    """How many answers are asked for, where the conventions want it said: not for one."""
    return None if choices == 1 else choices


def prompt_hash(texts: Iterable[object]) -> str | None:
    """First 12 hex digits of the SHA-256 of the system prompt's texts, None where there is none."""
    digest = None
    for text in texts:
        if isinstance(text, str) and text:
            digest = digest or hashlib.sha256(usedforsecurity=False)
            digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:12] if digest else None


def texts(content: object) -> Iterable[object]:
    """The text of a content value in the shapes the three APIs share: a string, or blocks with `text`."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for block in cast("list[object]", content):
            if isinstance(block, dict):
                yield cast("Json", block).get("text")
            else:
                yield block


def compact_usage(usage: Json) -> str | None:
    """`usage` as compact JSON of at most 2,000 characters with numbers and short names only."""
    if not usage:
        return None
    try:
        text = COMPACT(usage)
        if LONG_STRING.search(text):
            text = COMPACT(_without_long_strings(usage, 4))
    except (ValueError, RecursionError):
        return None
    return text if len(text) <= 2000 else None


def _without_long_strings(value: object, depth: int) -> object:
    if isinstance(value, dict):
        if not depth:
            return None
        return {k[:64]: _without_long_strings(v, depth - 1) for k, v in cast("Json", value).items()}
    if isinstance(value, list):
        return [_without_long_strings(v, depth - 1) for v in cast("list[object]", value)[:64]] if depth else None
    if isinstance(value, str):
        return label(value) if len(value) <= 64 else None
    return value
