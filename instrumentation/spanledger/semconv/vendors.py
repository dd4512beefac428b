"""What other back ends call a call's tokens and cost, so that theirs are those of the ledger: `SPANLEDGER_ALSO_FOR`. Data.

Each reads spans by rules of its own. Most of them add what the conventions say is a part of a total (cached tokens to the input), or
price by a table of theirs. An attribute here is one that the back end itself puts above what it would work out. None of them is in
a row of the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from spanledger.semconv import attributes as a
from spanledger.semconv.usage import COST_ATTRIBUTES, Usage

Names = Mapping[str, str]
"""A name of the back end's -> the quantity of `quantities` that it has."""


class Vendor(NamedTuple):
    """How one back end reads a call."""

    source: str
    """Who says so, and when it was read."""
    attributes: Names = MappingProxyType({})
    """Attributes of the span."""
    objects: Mapping[str, Names] = MappingProxyType({})
    """Attributes that hold a JSON object, and its members."""
    constants: Mapping[str, str] = MappingProxyType({})
    """Attributes that are the same on each call."""


CACHE_CREATION: Final = {"gen_ai.usage.cache_creation.input_tokens": "cache_write_tokens"}
"""What `gen_ai.usage.cache_write.input_tokens` was called until semantic-conventions-genai#440."""

VENDORS: Final[dict[str, Vendor]] = {
    "langfuse": Vendor(
        "langfuse/langfuse packages/shared/src/server/otel/OtelIngestionProcessor.ts (2026-11): usage_details and cost_details stand above "
        "gen_ai.usage.*; members are summed where `total` is missing, so they are disjoint",
        objects={
            "langfuse.observation.usage_details": {
                "input": "input_fresh_tokens", "input_cached_tokens": "cache_read_tokens", "input_cache_creation": "cache_write_tokens",
                "output": "output_visible_tokens", "output_reasoning_tokens": "reasoning_tokens", "total": "total_tokens",
            },
            "langfuse.observation.cost_details": {
                "input": "input_usd", "input_cached_tokens": "cache_read_usd", "input_cache_creation": "cache_write_usd",
                "output": "output_usd", "tools": "tools_usd", "other": "other_usd", "total": "total_usd",
            },
        },
        constants={"langfuse.observation.type": "generation"},
    ),
    "phoenix": Vendor(
        "Arize-ai/openinference spec/semantic_conventions.md (2026-10): token counts are inclusive, llm.cost.* is in USD",
        attributes={
            "llm.token_count.prompt": "input_tokens", "llm.token_count.completion": "output_tokens", "llm.token_count.total": "total_tokens",
            "llm.token_count.prompt_details.cache_read": "cache_read_tokens", "llm.token_count.prompt_details.cache_write": "cache_write_tokens",
            "llm.token_count.completion_details.reasoning": "reasoning_tokens",
            "llm.cost.prompt": "prompt_usd", "llm.cost.completion": "output_usd", "llm.cost.total": "total_usd",
        },
        constants={"openinference.span.kind": "LLM"},
    ),
    "openlit": Vendor(
        "openlit/openlit sdk/python/src/openlit/semcov/__init__.py (2026-11): GEN_AI_USAGE_COST, in USD",
        attributes={"gen_ai.usage.cost": "total_usd", "gen_ai.usage.total_tokens": "total_tokens", **CACHE_CREATION},
    ),
    "signoz": Vendor(
        "signoz.io/docs/ai-observability-telemetry-requirements (2026-11): inclusive input, cache_creation by its former name, the time "
        "to the first chunk in seconds; its own cost is by its pricing rules, ours stands beside it",
        attributes={"gen_ai.server.ttft": "first_chunk_seconds", "gen_ai.usage.cost": "total_usd", **CACHE_CREATION},
    ),
    "logfire": Vendor("pydantic/pydantic-ai and logfire (2026-11): operation.cost, in USD", attributes={"operation.cost": "total_usd"}),
    "datadog": Vendor(
        "docs.datadoghq.com/llm_observability/instrumentation/otel_instrumentation (2026-11): gen_ai.* of semantic conventions 1.37, cache "
        "writes by their name of then; its own cost is its estimate, ours stands beside it as an attribute of the span",
        attributes={"gen_ai.usage.cost": "total_usd", **CACHE_CREATION},
    ),
}  # fmt: skip
"""Name in `SPANLEDGER_ALSO_FOR` (`settings.LISTS`) -> how it reads a call."""

NAMES: Final = frozenset(
    name
    for vendor in VENDORS.values()
    for table in (vendor.attributes, vendor.objects, vendor.constants)
    for name in table
)
"""Every attribute of theirs: rows have none of them."""

COSTS: Final = {f"{group}_usd": attribute for group, attribute in COST_ATTRIBUTES.items()} | {"total_usd": a.COST_TOTAL}


def quantities(facts: Mapping[str, Any], usage: Usage | None) -> dict[str, float]:
    """What a call used and cost, by name: tokens as counts, amounts in USD, seconds. What is not known is missing; a cost that is
    known, but is not made of parts, has its total only.

    Args:
        facts: attributes of the span, priced.
        usage: its meters; None if they are not known.
    """
    amounts: dict[str, float] = {}
    if usage is not None:
        totals = usage.inclusive()
        inputs, outputs, reasoning = totals["input_tokens"], totals["output_tokens"], totals["reasoning.output_tokens"]
        reads, writes = totals["cache_read.input_tokens"], totals["cache_write.input_tokens"]
        amounts = {
            "input_tokens": inputs, "output_tokens": outputs, "total_tokens": inputs + outputs, "cache_read_tokens": reads, "cache_write_tokens": writes,
            "reasoning_tokens": reasoning, "input_fresh_tokens": inputs - reads - writes, "output_visible_tokens": outputs - reasoning,
        }  # fmt: skip
    counted = facts.get(a.COST_COUNTED)
    if counted is not None and a.COST_TOTAL in facts:  # a row that grows: back ends add up what one row replaces
        return {**amounts, "total_usd": (facts[a.COST_TOTAL] - counted) / 1e12}
    for name, attribute in COSTS.items():
        if attribute in facts:
            amounts[name] = facts[attribute] / 1e12
    parts = [amounts[name] for name in ("input_usd", "cache_read_usd", "cache_write_usd") if name in amounts]
    if parts:
        amounts["prompt_usd"] = sum(parts)
    if a.RESPONSE_TIME_TO_FIRST_CHUNK in facts:
        amounts["first_chunk_seconds"] = facts[a.RESPONSE_TIME_TO_FIRST_CHUNK]
    return amounts


def translator(names: tuple[str, ...]) -> Callable[[Mapping[str, Any], Usage | None], dict[str, Any]]:
    """The attributes that these back ends read, of a call's facts and usage.

    Args:
        names: keys of `VENDORS`.
    """
    vendors = [VENDORS[name] for name in names]
    constants = {name: value for vendor in vendors for name, value in vendor.constants.items()}
    plain = {name: quantity for vendor in vendors for name, quantity in vendor.attributes.items()}
    objects = {name: members for vendor in vendors for name, members in vendor.objects.items()}

    def translate(facts: Mapping[str, Any], usage: Usage | None) -> dict[str, Any]:
        amounts = quantities(facts, usage)
        attributes: dict[str, Any] = dict(constants)
        for name, quantity in plain.items():
            if quantity in amounts:
                attributes[name] = amounts[quantity]
        for name, members in objects.items():
            values = {member: amounts[quantity] for member, quantity in members.items() if quantity in amounts}
            if values:
                attributes[name] = json.dumps(values)
        return attributes

    return translate
