"""Normalizes LLM spans of other instrumentors to the semantic conventions that Spanledger's own spans follow.

Read in the releases of 2026-11: the official opentelemetry-instrumentation-genai-* 1.3b0, openllmetry 0.62, openinference
(openai 0.1.66, anthropic 3.1, google-genai 1.4), openlit 1.45, pydantic-ai 2.68, logfire 5.4, anthropic 2.x's own
tracing. Only spans marked as calls count: agents, chains, workflows and tools repeat the usage of their calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from spanledger.semconv import attributes as a
from spanledger.semconv import dialects
from spanledger.semconv.dimensions import BAGGAGE_KEYS
from spanledger.semconv.provider_hosts import provider_for_host
from spanledger.semconv.usage import USAGE_ATTRIBUTES, exact_count
from spanledger_clickhouse.rows.otlp import Attributes, Span, Value, natural, text, texts
from spanledger_clickhouse.rows.rows import MAPPED_ATTRIBUTES

BILLED_OPERATIONS: Final = frozenset({
    "chat", "generate_content", "text_completion", "embeddings", "image", "image_generation", "audio", "speech_to_text", "text_to_speech",
    "model_request", "completion", "fill_in_middle", "generate", "realtime", "interactions.create",
})  # fmt: skip
"""Values of gen_ai.operation.name that are billed; `fetch_response` reports what was billed before."""

OPENINFERENCE_KIND: Final = "openinference.span.kind"
OPENINFERENCE_OPERATIONS: Final = {"LLM": "chat", "EMBEDDING": "embeddings"}
"""Values of openinference.span.kind that are calls -> the operation."""
LEGACY_REQUEST_TYPE: Final = "llm.request.type"
LEGACY_OPERATIONS: Final = {"chat": "chat", "completion": "text_completion", "embedding": "embeddings"}
"""Values of llm.request.type (openllmetry before it took over the convention) -> the operation."""

TRACELOOP_KIND: Final = "traceloop.span.kind"
"""On workflows, tasks, agents and tools of openllmetry, never on a call."""
COMPACTION: Final = {
    a.INPUT_TOKENS: "anthropic.usage.compaction.input_tokens",
    a.OUTPUT_TOKENS: "anthropic.usage.compaction.output_tokens",
}
"""Billed beside the totals, by the Anthropic SDK's own spans."""

ALIASES: Final[dict[str, tuple[str, ...]]] = {
    a.PROVIDER: ("gen_ai.system", "llm.provider", "llm.system"),
    a.REQUEST_MODEL: ("llm.request.model", "llm.model_name", "embedding.model_name"),
    a.RESPONSE_MODEL: ("llm.response.model",),
    a.RESPONSE_ID: ("llm.response.id", "llm.output_messages.id"),
    a.INPUT_TOKENS: ("gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens", "llm.token_count.prompt"),
    a.OUTPUT_TOKENS: ("gen_ai.usage.completion_tokens", "llm.usage.completion_tokens", "llm.token_count.completion"),
    a.CACHE_READ_TOKENS: (
        "gen_ai.usage.cache_read_input_tokens", "gen_ai.usage.prompt_tokens_details.cached_tokens", "llm.token_count.prompt_details.cache_read",
        "gen_ai.usage.details.cache_read_tokens", "gen_ai.usage.details.cached_tokens",
    ),
    a.CACHE_WRITE_TOKENS: (
        "gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_creation_input_tokens", "llm.token_count.prompt_details.cache_write",
        "gen_ai.usage.prompt_tokens_details.cache_creation_tokens", "gen_ai.usage.details.cache_write_tokens",
    ),
    a.CACHE_WRITE_1H_TOKENS: ("anthropic.usage.cache_creation.ephemeral_1h_input_tokens", "gen_ai.usage.details.cache_write_1h_tokens"),
    a.REASONING_TOKENS: (
        "gen_ai.usage.reasoning_tokens", "llm.token_count.completion_details.reasoning", "gen_ai.usage.details.reasoning_tokens",
        "gen_ai.usage.completion_tokens_details.reasoning_tokens",
    ),
    a.AUDIO_INPUT_TOKENS: ("llm.token_count.prompt_details.audio", "gen_ai.usage.details.input_audio_tokens"),
    a.AUDIO_OUTPUT_TOKENS: (
        "llm.token_count.completion_details.audio", "gen_ai.usage.completion_tokens_details.audio_tokens",
        "gen_ai.usage.details.output_audio_tokens",
    ),
    a.REPORTED_TOTAL: ("gen_ai.usage.total_tokens", "llm.usage.total_tokens", "llm.token_count.total"),
    a.SERVICE_TIER: ("openai.response.service_tier", "anthropic.response.service_tier", "gen_ai.openai.response.service_tier"),
    a.REQUEST_STREAM: ("gen_ai.request.is_stream", "llm.is_streaming"),
    a.SERVER_ADDRESS: ("net.peer.name",),
}  # fmt: skip
"""Attribute -> its aliases in other conventions; its own name has precedence."""

ALIAS_NAMES: Final = frozenset(alias for aliases in ALIASES.values() for alias in aliases)

PROVIDERS: Final = {
    "openai": "openai",
    "azure": "azure.ai.openai",
    "azure_openai": "azure.ai.openai",
    "az.ai.openai": "azure.ai.openai",
    "az.ai.inference": "azure.ai.inference",
    "anthropic": "anthropic",
    "google": "gcp.gemini",
    "gemini": "gcp.gemini",
    "google_generativeai": "gcp.gemini",
    "gcp.gen_ai": "gcp.gemini",
    "google-gla": "gcp.gemini",
    "vertex_ai": "gcp.vertex_ai",
    "vertexai": "gcp.vertex_ai",
    "google-vertex": "gcp.vertex_ai",
    "google-cloud": "gcp.vertex_ai",
    "aws": "aws.bedrock",
    "bedrock": "aws.bedrock",
    "aws_bedrock": "aws.bedrock",
    "xai": "x_ai",
    "mistralai": "mistral_ai",
}
"""Provider alias in lower case -> gen_ai.provider.name; any other name is kept."""


@dataclass(frozen=True)
class Quirk:
    """Deviation of an instrumentor from the usage convention."""

    scope: str
    """Prefix of the scope's name."""
    input_without_cache: tuple[str, ...] = ()
    """Providers whose input tokens exclude cache reads and writes."""
    output_without_reasoning: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    """Only these operations; all if empty."""
    usage_on_second_span: bool = False
    """A second span repeats a call without usage, with its usage: logfire's log of a finished stream."""


GOOGLE: Final = ("gcp.gemini", "gcp.vertex_ai")
NATIVE: Final = ("anthropic", "aws.bedrock", *GOOGLE)
"""Providers with formats of their own, which the instrumentors' quirks are about; all others speak a dialect of OpenAI's."""
QUIRKS: Final = (
    Quirk("openlit", input_without_cache=("anthropic", "aws.bedrock"), output_without_reasoning=GOOGLE),
    Quirk("opentelemetry.instrumentation.bedrock", input_without_cache=("aws.bedrock",)),
    Quirk("opentelemetry.instrumentation.google_generativeai", output_without_reasoning=GOOGLE),
    Quirk(
        "opentelemetry.instrumentation.google_genai",
        output_without_reasoning=GOOGLE,
        operations=("interactions.create",),
    ),
    Quirk("logfire.", usage_on_second_span=True),
)
NO_QUIRK: Final = Quirk("")


def normalized(span: Span) -> Span | None:
    """The span with normalized attributes if it is a billed call; else None.

    Usage follows the convention: input with all that was cached, output with reasoning.
    """
    original = span.attributes
    operation = _operation(original)
    if operation is None or TRACELOOP_KIND in original:
        return None
    attributes: dict[str, Value] = dict(original)
    for name, others in () if ALIAS_NAMES.isdisjoint(original) else ALIASES.items():
        for other in others:
            value = attributes.pop(other, None)
            if name not in original and value not in (None, ""):
                attributes.setdefault(name, value)
    _read_counts(attributes)
    attributes[a.OPERATION] = operation
    provider = text(attributes.get(a.PROVIDER))
    attributes[a.PROVIDER] = PROVIDERS.get(provider.lower(), provider)
    if attributes[a.PROVIDER] == "openai":  # most instrumentors name the client; the server bills the call
        attributes[a.PROVIDER] = provider_for_host(text(attributes.get(a.SERVER_ADDRESS))[:253]) or "openai"
    quirk = next(
        (q for q in QUIRKS if span.scope.startswith(q.scope) and (not q.operations or operation in q.operations)),
        NO_QUIRK,
    )
    read, written = natural(attributes.get(a.INPUT_TOKENS)), natural(attributes.get(a.OUTPUT_TOKENS))
    source = "exact" if read is not None else "partial" if written is not None else "missing"
    if quirk.usage_on_second_span and source == "missing" and not span.is_error:
        return None
    _correct_totals(attributes, quirk)
    for name, canonical in BAGGAGE_KEYS.items():
        if attributes.get(name) and not attributes.get(canonical):
            attributes[canonical] = attributes[name]
    attributes[a.USAGE_SOURCE] = source
    attributes[a.OUTCOME] = "error" if span.is_error or original.get(a.ERROR_TYPE) else "ok"
    attributes[a.ATTEMPTS] = 1
    attributes[a.RESPONSE_FINISH_REASONS] = _finish_reasons(original)
    if not (attributes.get(a.FEATURE) or attributes.get(a.USER_ID)):
        attributes[a.ATTRIBUTION_REASON] = "no_baggage"
    return span._replace(attributes={key: value for key, value in attributes.items() if _is_retained(key, value)})


COUNTED: Final = frozenset(USAGE_ATTRIBUTES)


def _read_counts(attributes: dict[str, Value]) -> None:
    """Make whole numbers of counts that were sent as 12.0 or "12"; what is not a count stays as it is."""
    for name in attributes.keys() & COUNTED:
        exact = exact_count(attributes[name])
        if exact is not None:
            attributes[name] = exact


def _operation(attributes: Attributes) -> str | None:
    operation = attributes.get(a.OPERATION)
    if isinstance(operation, str) and operation:
        return operation if operation in BILLED_OPERATIONS else None
    if OPENINFERENCE_KIND in attributes:
        return OPENINFERENCE_OPERATIONS.get(text(attributes.get(OPENINFERENCE_KIND)).upper())
    return LEGACY_OPERATIONS.get(text(attributes.get(LEGACY_REQUEST_TYPE)))


def _correct_totals(attributes: dict[str, Value], quirk: Quirk) -> None:
    """Correct the totals of an instrumentor that deviates from the convention."""
    provider = text(attributes.get(a.PROVIDER))

    def tokens(name: str) -> int:
        return natural(attributes.get(name)) or 0

    for name, beside in COMPACTION.items():
        if tokens(beside):
            attributes[name] = tokens(name) + tokens(beside)
    if provider in quirk.input_without_cache:
        attributes[a.INPUT_TOKENS] = tokens(a.INPUT_TOKENS) + tokens(a.CACHE_READ_TOKENS) + tokens(a.CACHE_WRITE_TOKENS)
        attributes.pop(a.REPORTED_TOTAL, None)
    elif attributes.get(a.REPORTED_TOTAL) is not None and provider not in NATIVE:
        totals = dialects.settled(
            provider,
            text(attributes.get(a.RESPONSE_MODEL)) or text(attributes.get(a.REQUEST_MODEL)),
            tokens(a.INPUT_TOKENS),
            tokens(a.OUTPUT_TOKENS),
            tokens(a.CACHE_READ_TOKENS) + tokens(a.CACHE_WRITE_TOKENS),
            tokens(a.REASONING_TOKENS),
            natural(attributes.get(a.REPORTED_TOTAL)),
        )
        if totals != (tokens(a.INPUT_TOKENS), tokens(a.OUTPUT_TOKENS), tokens(a.REASONING_TOKENS)):
            attributes[a.INPUT_TOKENS], attributes[a.OUTPUT_TOKENS], attributes[a.REASONING_TOKENS] = totals
    if provider in quirk.output_without_reasoning:
        thought = tokens(a.REASONING_TOKENS) or max(
            0, tokens(a.REPORTED_TOTAL) - tokens(a.INPUT_TOKENS) - tokens(a.OUTPUT_TOKENS)
        )
        attributes[a.OUTPUT_TOKENS] = tokens(a.OUTPUT_TOKENS) + thought
        attributes[a.REASONING_TOKENS] = thought


def _finish_reasons(attributes: Attributes) -> list[Value]:
    reasons = attributes.get(a.RESPONSE_FINISH_REASONS)
    if isinstance(reasons, str):
        return [reasons]
    single = text(attributes.get("llm.finish_reason") or attributes.get("anthropic.message.stop_reason"))
    return [*texts(reasons)] or ([single] if single else [])


RETAINED_TEXTS: Final = frozenset(
    {"gen_ai.agent.id", "gen_ai.agent.name", "gen_ai.workflow.name", "gen_ai.output.type", "openai.api.type"}
)
"""Further text attributes that are kept: none of them is ever a prompt or a response."""


def _is_retained(name: str, value: Value) -> bool:
    """Whether the ledger may keep an attribute. Conventions store content in attributes of many names, so text is kept
    by an allow list of names; numbers contain no content."""
    return (
        name in MAPPED_ATTRIBUTES
        or name in RETAINED_TEXTS
        or name.startswith(a.LABEL_PREFIX)
        or isinstance(value, int | float)
    )
