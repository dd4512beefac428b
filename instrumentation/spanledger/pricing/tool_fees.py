"""Prices server-side tools (web search, file search, code execution, maps) as separate components.

Free allowances (so many searches a day, shared by a project) are never applied to a call: they belong
to the account, and reconciliation shows them (rule R10).
"""

from __future__ import annotations

from typing import Final

from spanledger.pricing.price import Component, round_half_even
from spanledger.pricing.rates import Entry, attousd
from spanledger.runtime.untrusted_json import mapping
from spanledger.semconv.usage import NON_TOKEN_METERS, Usage

FILE_SEARCH: Final = ("file_search $0.0025 a call", 25 * 10**14)
"""OpenAI's price list; LiteLLM has it as a constant of its code (1.109.1 `tool_call_cost_tracking.py`)."""

CODE_SESSION: Final = {"azure": ("azure/container.code_interpreter_cost_per_session", 33 * 10**15)}
CODE_SESSION_DEFAULT: Final = ("openai/container.code_interpreter_cost_per_session", 3 * 10**16)

MAPS: Final = "google_maps_grounding_cost_per_query"
SEARCH: Final = "search_context_cost_per_query"
SIZE: Final = "search_context_size_medium"


def uses_tools(usage: Usage) -> bool:
    """Whether the call used a server-side tool (most do not)."""
    return bool(usage.web_searches or usage.file_searches or usage.code_sessions or usage.maps_queries)


def standalone_components(provider: str, usage: Usage) -> list[Component] | None:
    """The components of a call that used only tools with a per-call price, independent of the model; else None."""
    if usage.total or any(getattr(usage, meter) for meter in NON_TOKEN_METERS if meter not in PER_CALL_METERS):
        return None
    return _per_call_components("azure" if provider.startswith("azure") else provider, usage) or None


PER_CALL_METERS: Final = ("file_searches", "code_sessions")


def _per_call_components(provider: str, usage: Usage) -> list[Component]:
    parts: list[Component] = []
    if usage.file_searches:
        parts.append(_component("file_searches", usage.file_searches, *FILE_SEARCH))
    if usage.code_sessions:
        price = CODE_SESSION.get(provider, CODE_SESSION_DEFAULT)
        parts.append(_component("code_sessions", usage.code_sessions, *price))
    return parts


def components(entry: Entry, usage: Usage) -> list[Component] | None:
    """One component per tool used; None if the table lacks the price of one of them."""
    parts: list[Component] = []
    if usage.web_searches:
        rate = attousd(mapping(entry.json, SEARCH).get(SIZE))
        if rate is None:
            return None
        billed = usage.web_searches
        if (
            entry.provider.startswith(("gemini", "vertex_ai"))
            and entry.json.get("web_search_billing_unit") != "per_query"
        ):
            billed = 1  # Google: one fee a prompt, however many queries the model made of it
        parts.append(_component("web_searches", billed, f"{SEARCH}.{SIZE}", rate))
    parts += _per_call_components(entry.provider, usage)
    if usage.maps_queries:
        rate = attousd(entry.json.get(MAPS))
        if rate is None:
            return None
        parts.append(_component("maps_queries", usage.maps_queries, MAPS, rate))
    return parts


def _component(meter: str, quantity: int, field: str, rate: int) -> Component:
    return Component(meter, quantity, rate, field, round_half_even(quantity * rate))
