"""Prices server-side tools (web search, file search, code execution, maps) as separate components.

Free allowances (so many searches a day, shared by a project) are never applied to a call: they belong
to the account, and reconciliation shows them (rule R10).
"""

from __future__ import annotations

import re
from typing import Final

from spanledger.pricing.price import Component, round_half_even
from spanledger.pricing.price_table import Table
from spanledger.pricing.rates import Entry, attousd
from spanledger.runtime.untrusted_json import get_path
from spanledger.semconv.usage import INPUT_RATE, METERS, NON_TOKEN_METERS, TOOLS, Usage, counts_of

FILE_SEARCH: Final = ("file_search $0.0025 a call", 25 * 10**14)
"""OpenAI's price list; LiteLLM has it as a constant of its code (1.109.1 `tool_call_cost_tracking.py`)."""

WEB_SEARCH: Final = ("web search 10 USD a thousand calls", 10**16)
SEARCHES_OF_ALL_MODELS: Final = ("openai", "anthropic")
"""Whose web search costs the same with all models, where the table has no price of it for the model (developers.openai.com/api/docs/pricing
and platform.claude.com/docs/en/about-claude/pricing)."""

SESSION_HOUR: Final = ("session runtime 0.08 USD an hour", 8 * 10**16)
"""Of a managed agent, by the millisecond in which it runs (platform.claude.com/docs/en/about-claude/pricing)."""

PER_CALL_PRICES: Final = {
    ("openai", "file_searches"): FILE_SEARCH,
    ("azure", "file_searches"): FILE_SEARCH,
    ("openai", "code_sessions"): ("openai/container.code_interpreter_cost_per_session", 3 * 10**16),
    ("azure", "code_sessions"): ("azure/container.code_interpreter_cost_per_session", 33 * 10**15),
    ("anthropic", "session_ms"): SESSION_HOUR,
}
"""(vendor, meter) -> (where the price stands, attodollars): the fee of another's tool of the same kind is not known."""

TOOL_METERS: Final = {name: meter for name, meter in METERS.items() if meter.group == TOOLS}
PER_CALL_METERS: Final = ("file_searches", "code_sessions", "session_ms")
"""Tools whose price does not depend on the model."""
_tool_counts: Final = counts_of(*TOOL_METERS)
_other_counts: Final = counts_of(*(name for name in NON_TOKEN_METERS if name not in (*PER_CALL_METERS, "web_searches")))


def uses_tools(usage: Usage) -> bool:
    """Whether the call used a server-side tool (most do not)."""
    return any(_tool_counts(usage))


def standalone_components(provider: str, usage: Usage, size: str) -> list[Component] | None:
    """The components of a call that used only tools with a per-call price, independent of the model; else None."""
    if usage.total or any(_other_counts(usage)) or (usage.web_searches and provider not in SEARCHES_OF_ALL_MODELS):
        return None
    parts, complete = _per_call_components(provider, usage, size)
    if usage.web_searches:
        parts.append(_component("web_searches", usage.web_searches, *WEB_SEARCH))
    return parts if parts and complete else None


MEMORY: Final = re.compile(r"(\d{1,3})g")
"""The memory of a container; its price is that of 1 GB, times as much (developers.openai.com/api/docs/pricing)."""


def _per_call_components(provider: str, usage: Usage, size: str) -> tuple[list[Component], bool]:
    """Components of the tools whose price no model decides, and whether the provider's price of each is known."""
    vendor = "azure" if provider.startswith("azure") else provider.removeprefix("text-completion-")
    parts: list[Component] = []
    complete = True
    for meter in PER_CALL_METERS:
        quantity = getattr(usage, meter)
        price = PER_CALL_PRICES.get((vendor, meter))
        if quantity and price is not None:
            memory = MEMORY.fullmatch(size) if meter == "code_sessions" else None
            parts.append(_component(meter, quantity, price[0], price[1] * (int(memory[1]) if memory else 1)))
        complete = complete and (not quantity or price is not None)
    return parts, complete


PREVIEW: Final = ("web_search_preview 25 USD a thousand calls", 25 * 10**15)
"""OpenAI's older tool, with models that do not reason (developers.openai.com/api/docs/pricing); with others it costs as `web_search`."""


def components(entry: Entry, usage: Usage, size: str, search_tool: str = "") -> tuple[list[Component], bool]:
    """One component per tool used, and whether the price of each is known.

    `size` is that of a container ("4g"), `search_tool` the type of the search tool that the request named ("web_search").
    """
    parts, complete = _per_call_components(entry.provider, usage, size)
    for name, meter in TOOL_METERS.items():
        quantity = getattr(usage, name)
        if not quantity or name in PER_CALL_METERS:
            continue
        rate, field = _rate(entry, meter.prices)
        if name == "web_searches" and entry.provider == "openai" and search_tool:
            field, rate = _openai_search(entry, search_tool, rate, field)
        if rate is None and name == "web_searches" and entry.provider in SEARCHES_OF_ALL_MODELS:
            rate, field = WEB_SEARCH[1], WEB_SEARCH[0]
        if rate is None:
            complete = False
            continue
        if name in ("web_searches", "maps_queries") and _is_billed_per_prompt(entry):
            quantity = 1
        parts.append(_component(name, quantity, field, rate))
    return parts, complete


REASONS: Final = re.compile(r"(?:^|/)(?:o\d|gpt-(?:[5-9]|\d\d))")
"""Names of OpenAI's models that reason."""


def _openai_search(entry: Entry, tool: str, table_rate: int | None, table_field: str) -> tuple[str, int]:
    """(where it stands, attodollars) of a search: the table has the preview tool's fee, the newer tool's is the same with all models."""
    if not tool.startswith("web_search_preview"):
        return WEB_SEARCH
    if table_rate is not None:
        return table_field, table_rate
    return WEB_SEARCH if REASONS.search(entry.key) else PREVIEW


ROUTER: Final = "model-router"


def router_component(table: Table, request_model: str, usage: Usage) -> Component | None:
    """What Azure's model router charges for choosing a model, on top of that model's price
    (learn.microsoft.com/azure/ai-foundry/openai/concepts/model-router): by tokens of input."""
    if not request_model.startswith(ROUTER):
        return None
    entry = table.entry(f"azure_ai/{request_model}") or table.entry(f"azure_ai/{ROUTER}")
    rate = attousd(entry.json.get(INPUT_RATE)) if entry is not None else None
    if entry is None or rate is None:
        return None
    return _component("model_router", usage.total_input, f"{entry.key}.{INPUT_RATE}", rate)


def _is_billed_per_prompt(entry: Entry) -> bool:
    """Google: one fee a prompt, however many queries the model made of it."""
    return (
        entry.provider.startswith(("gemini", "vertex_ai"))
        and "claude" not in entry.key
        and entry.json.get("web_search_billing_unit") != "per_query"
    )


def _rate(entry: Entry, prices: tuple[str, ...]) -> tuple[int | None, str]:
    """(attodollars a call, the field that says so); a dot in a field's name leads into a table of its own."""
    for field in prices:
        rate = attousd(get_path(entry.json, *field.split(".")))
        if rate is not None:
            return rate, field
    return None, ""


def _component(meter: str, quantity: int, field: str, rate: int) -> Component:
    per = METERS[meter].per if meter in METERS else 1
    return Component(meter, quantity, rate // per, field, round_half_even(quantity * rate, per))
