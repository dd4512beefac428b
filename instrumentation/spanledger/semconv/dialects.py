"""How those who speak OpenAI's format count: where usage stands, which names mean what, and what includes what. Data.

OpenAI's own usage is inclusive: what was read from or written to the cache is a part of the prompt, reasoning is a part of the
completion. Others deviate, and some of them only for some models, so a deviation is believed where the answer's own total shows it
(`settled`), and for those providers and models of which it is known.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Final, NamedTuple, cast

from spanledger.runtime.untrusted_json import Json, get_path, items, mapping


class Dialect(NamedTuple):
    """What is different in one provider's usage."""

    source: str
    """Who says so: a page of the provider's, or a recorded answer."""
    usage: tuple[tuple[str, ...], ...] = ()
    """Where it stands, beside `usage`; the first choice's is `choices`."""
    cache_read: tuple[str, ...] = ()
    """Its names, beside `cached_tokens` of the details."""
    cache_write: tuple[str, ...] = ()
    """Its names, beside `cache_write_tokens` of the details; "*" stands for the details of the prompt."""
    has_cache_kinds: bool = False
    """Whether it has several caches with a rate each, and does not say which of them was read."""
    is_reasoning_apart: bool = False
    """Whether `completion_tokens` leaves reasoning out; `total_tokens` includes it."""
    informs: tuple[str, ...] = ()
    """Further numbers in usage that are not read: they cost nothing, or are a part of what the answer states as its cost."""


DIALECTS: Final[dict[str, Dialect]] = {
    "x_ai": Dialect(
        "docs.x.ai/docs/guides/reasoning: reasoning tokens stand beside completion_tokens",
        is_reasoning_apart=True,
        informs=("num_sources_used", "num_server_side_tools_used", "server_side_tool_usage_details.*"),
    ),
    "gcp.gemini": Dialect("recorded: Gemini behind /openai/ leaves thoughts out", is_reasoning_apart=True),
    "gcp.vertex_ai": Dialect("recorded: as gcp.gemini", is_reasoning_apart=True),
    "deepseek": Dialect(
        "api-docs.deepseek.com/guides/kv_cache",
        cache_read=("prompt_cache_hit_tokens",),
        informs=("prompt_cache_miss_tokens",),
    ),
    "mistral_ai": Dialect(
        "recorded: num_cached_tokens; audio in prompt_audio_seconds, billed in tokens (docs.mistral.ai/capabilities/audio)",
        cache_read=("num_cached_tokens",),
        informs=("prompt_audio_seconds",),
    ),
    "together_ai": Dialect("recorded: cached_tokens beside prompt_tokens", cache_read=("cached_tokens",)),
    "moonshot_ai": Dialect(
        "platform.moonshot.ai/docs: usage of a stream stands in its last choice; cached_tokens beside prompt_tokens",
        usage=(("choices",),),
        cache_read=("cached_tokens",),
    ),
    "groq": Dialect("console.groq.com/docs/api-reference: x_groq.usage of a stream", usage=(("x_groq", "usage"),)),
    "dashscope": Dialect(
        "help.aliyun.com/zh/model-studio/context-cache: cache_creation_input_tokens is a part of the prompt; what was read from the implicit "
        "cache costs 20 % of input, from the explicit one 10 %",
        has_cache_kinds=True,
        cache_write=("*.cache_creation_input_tokens",),
        informs=("*.cache_creation.*",),
    ),
    "databricks": Dialect(
        "docs.databricks.com/machine-learning/model-serving: Claude's names beside prompt_tokens",
        cache_read=("cache_read_input_tokens",),
        cache_write=("cache_creation_input_tokens",),
    ),
    "openrouter": Dialect(
        "openrouter.ai/docs/guides/administration/usage-accounting",
        informs=("cost", "cost_details.*", "server_tool_use.*"),
    ),
    "vercel_ai_gateway": Dialect(
        "vercel.com/docs/ai-gateway: usage.cost is what it charges, market_cost what the model's provider does",
        informs=("cost", "market_cost", "cost_details.*"),
    ),
    "deepinfra": Dialect("deepinfra.com/docs/openai_api: usage.estimated_cost", informs=("estimated_cost",)),
    "perplexity": Dialect(
        "docs.perplexity.ai/api-reference: usage.cost is the sum",
        informs=("cost.*", "citation_tokens", "num_search_queries"),
    ),
    "litellm": Dialect(
        "docs.litellm.ai/docs/completion/prompt_caching: cache_creation_tokens, also Claude's names beside prompt_tokens",
        cache_read=("cache_read_input_tokens",),
        cache_write=("*.cache_creation_tokens", "cache_creation_input_tokens"),
    ),
}
"""`gen_ai.provider.name`, or the software that speaks so -> its dialect."""

REASONING_APART_MODELS: Final = ("gemini", "grok")
"""Parts of model names whose reasoning is apart whoever serves them (gateways pass it on)."""

USAGE_PATHS: Final = tuple(dict.fromkeys(path for dialect in DIALECTS.values() for path in dialect.usage))
READ_NAMES: Final = tuple(dict.fromkeys(name for dialect in DIALECTS.values() for name in dialect.cache_read))
WRITE_NAMES: Final = tuple(dict.fromkeys(name for dialect in DIALECTS.values() for name in dialect.cache_write))
"""Everybody's, in one list: they are names of one thing, and gateways pass on the usage of many."""


def usage_of(answer: Json) -> Json:
    """The usage of an answer or of an event, wherever it stands; {} where there is none."""
    usage_fields = answer.get("usage")
    if isinstance(usage_fields, dict) and usage_fields:
        return usage_fields  # pyright: ignore[reportUnknownVariableType]
    for path in USAGE_PATHS:
        if path == ("choices",):
            choices = items(answer, "choices")
            used = mapping(choices[0], "usage") if choices else {}
        else:
            used = mapping(answer, *path) if path[0] in answer else {}
        if used:
            return used
    return {}


class Totals(NamedTuple):
    """Tokens, inclusive: all that was read and written within `prompt`, reasoning within `completion`."""

    prompt: int
    completion: int
    reasoning: int


def settled(
    provider: str, model: str, prompt: int, completion: int, cached: int, reasoning: int, total: int | None
) -> Totals:
    """What the stated counts mean, where they leave something out.

    Args:
        provider: `gen_ai.provider.name`, "" where it is not known.
        model: any of its names.
        prompt: tokens as stated.
        completion: tokens as stated.
        cached: tokens read from the cache and written to it.
        reasoning: tokens as stated.
        total: the answer's own total.
    """
    is_apart = _is_reasoning_apart(provider, model)
    sums_with_reasoning = is_apart and total == prompt + completion + reasoning
    if cached > prompt or (cached and total == prompt + cached + completion and not sums_with_reasoning):
        prompt += cached  # as Claude's own format counts, which gateways in front of it pass on
    beyond = (total or 0) - prompt - completion
    if beyond > 0 and (beyond == reasoning or is_apart):
        return Totals(prompt, completion + beyond, max(reasoning, beyond))
    return Totals(prompt, completion, reasoning)


def _is_reasoning_apart(provider: str, model: str) -> bool:
    dialect = DIALECTS.get(provider)
    return (dialect is not None and dialect.is_reasoning_apart) or any(
        name in model.lower() for name in REASONING_APART_MODELS
    )


FEES_OF_TOOLS: Final = (
    "num_search_queries", "citation_tokens", "server_tool_use", "search_context_size", "num_sources_used", "num_server_side_tools_used",
    "server_side_tool_usage_details",
)  # fmt: skip
"""What Perplexity and xAI count of searches and tools, which they bill beside the tokens."""


def unstated_fees(usage_fields: Json) -> bool:
    """Whether tools were used that are billed, and the answer does not state its cost."""
    return stated_cost(usage_fields) is None and any(_is_used(usage_fields.get(name)) for name in FEES_OF_TOOLS)


def _is_used(value: object) -> bool:
    """Whether a count, or one of several, is not 0."""
    return any(cast("Json", value).values()) if isinstance(value, dict) else bool(value)


INTO: Final = ("prompt_tokens_details", "prompt_token_details", "input_tokens_details", "input_token_details")
OUT: Final = ("completion_tokens_details", "output_tokens_details", "output_token_details")
COUNTED: Final = (
    "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens", "seconds", "cost_in_usd_ticks", "cost",
)  # fmt: skip
COUNTED_INTO: Final = (
    "cached_tokens", "cache_write_tokens", "cache_write_tokens_details.ttl_30m_tokens", "cache_write_tokens_details.ttl_12h_tokens",
    "cached_tokens_details.audio_tokens", "cached_tokens_details.image_tokens", "cached_tokens_details.text_tokens", "audio_tokens",
    "image_tokens", "text_tokens", "video_tokens",
)  # fmt: skip
COUNTED_OUT: Final = (
    "reasoning_tokens", "audio_tokens", "image_tokens", "text_tokens", "video_tokens", "accepted_prediction_tokens",
    "rejected_prediction_tokens",
)  # fmt: skip


@lru_cache(maxsize=256)
def known_names(provider: str) -> frozenset[str]:
    """Dotted names of all numbers in a provider's usage that are read, or cost nothing; "*" at the end stands for anything.

    What is read of everybody is known of everybody; what only informs, of the provider that says so.
    """
    names = {*COUNTED}
    names.update(f"{details}.{name}" for details in INTO for name in COUNTED_INTO)
    names.update(f"{details}.{name}" for details in OUT for name in COUNTED_OUT)
    own = DIALECTS.get(provider)
    for name in (*READ_NAMES, *WRITE_NAMES, *(own.informs if own is not None else ())):
        names.update(name.replace("*.", f"{details}.", 1) for details in INTO)
    return frozenset(names)


def stated_cost(usage_fields: Json) -> str | None:
    """The provider's own statement of what the answer costs, a decimal string in USD; None where it makes none.

    OpenRouter: `cost`, and with a key of one's own, what that key was charged (`cost_details.upstream_inference_cost`), which is
    no part of it. xAI: `cost_in_usd_ticks` of 1e-10 USD. Perplexity: `cost.total_cost`. DeepInfra: `estimated_cost`.
    """
    ticks = usage_fields.get("cost_in_usd_ticks")
    if type(ticks) is int and ticks > 0:
        return f"{ticks}E-10"
    cost: object = usage_fields.get("cost", usage_fields.get("estimated_cost"))
    if isinstance(cost, dict):
        cost = get_path(usage_fields, "cost", "total_cost")  # pyright: ignore[reportUnknownVariableType]
    charged = _amount(cost)
    if charged is None:
        return None
    if usage_fields.get("is_byok") is True:
        upstream = _amount(get_path(usage_fields, "cost_details", "upstream_inference_cost"))
        upstream = _amount(usage_fields.get("market_cost")) if upstream is None else upstream
        return None if upstream is None else str(charged + upstream)  # the fee alone would be a wrong price
    return str(charged)


def _amount(value: object) -> Decimal | None:
    """An amount in USD, which some state as text; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or len(str(value)) > MAX_DIGITS:
        return None
    try:
        amount = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and amount >= 0 else None


MAX_DIGITS: Final = 40
