"""`quote`: one usage at one model, priced."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Final

from spanledger import hosts
from spanledger import usage as usages
from spanledger.pricing import price as p
from spanledger.pricing import tools
from spanledger.pricing.price import Component, Price
from spanledger.pricing.resolve import Match, Unresolved, canonical, resolve
from spanledger.pricing.rules import components
from spanledger.pricing.table import Prices, prices
from spanledger.usage import Usage

REPORTING: Final = frozenset({"openrouter", "x_ai"})
"""Providers whose own statement of the cost is the price (R12)."""

NO_COMPONENTS: Final[tuple[Component, ...]] = ()
BEDROCK: Final = "aws.bedrock"


def quote(
    provider: str,
    model: str | None,
    usage: Usage | Mapping[str, int] | None,
    *,
    request_model: str | None = None,
    tier: str = "",
    geo: str = "",
    speed: str = "",
    host: str = "",
    provider_cost_usd: str | None = None,
    at: datetime | None = None,
    table: Prices | None = None,
) -> Price:
    """Price a usage.

    Args:
        provider: `gen_ai.provider.name`, or LiteLLM's name of the provider.
        model: the model that answered, as the provider spells it.
        usage: the meters, or a mapping of inclusive totals {input, output, cache_read, cache_write,
            cache_write_1h, cache_write_12h, reasoning, audio_in, audio_out, image_in, image_out,
            cached_audio} in tokens; None where it is not known.
        request_model: the model that was asked for.
        tier: the service tier served (batch, flex, priority, ...), as the provider spells it.
        geo: Anthropic's inference_geo, OpenAI's processing region (eu, us) or Vertex's location.
        speed: Anthropic's speed ("fast").
        host: where the request went; a private host serves its own models for nothing.
        provider_cost_usd: what the provider itself says the call cost, in USD.
        at: when the call completed (default: now); decides off-peak rates.
        table: the prices to use (default: those in force).

    Returns:
        The price. `total_picousd` is None, never 0, where the call cannot be priced; `status` says why.
    """
    if isinstance(usage, Mapping):
        usage = from_mapping(usage)
    if provider_cost_usd is not None and canonical(provider) in REPORTING:
        return _reported(provider, provider_cost_usd, usage, model or request_model, tier, table)
    if usage is None:
        return Price(p.NO_USAGE)
    if not model and not request_model:
        return Price(p.NO_MODEL)
    found = _resolve(table or prices(), provider, model or "", request_model or "", geo, host)
    if isinstance(found, Price):
        return found
    return _price(found, usage, tier, geo or _geo(host) if host else geo, speed, at)


def _price(found: Match, usage: Usage, tier: str, geo: str, speed: str, at: datetime | None) -> Price:
    entry, table = found.entry, found.table
    priced = components(entry, usage, tier, geo=geo, speed=speed, at=at)
    extra = tools.components(entry, usage) if tools.used(usage) else NO_COMPONENTS
    if priced is None or extra is None:
        return Price(p.NO_PRICE, key=entry.key, source=table.source, version=table.version, flags=found.flags)
    parts, flags = priced
    parts.extend(extra)
    total = 0
    for part in parts:
        total += part.amount
    status = p.PRICED if total or not parts else p.ZERO_PRICE
    all_flags = (*found.flags, *sorted(flags)) if flags else found.flags
    return Price(status, total, tuple(parts), entry.key, table.source, table.version, all_flags)


@lru_cache(maxsize=4096)
def _resolve(table: Prices, provider: str, model: str, request_model: str, geo: str, host: str) -> Match | Price:
    """The entry, or the price of a call that needs none."""
    # Bedrock's bodies name the vendor's model; the id in the request carries the Bedrock price.
    ordered = (request_model, model) if canonical(provider) == BEDROCK else (model, request_model)
    names = tuple(dict.fromkeys(name for name in ordered if name))
    found = resolve(table, provider, names, _region(geo, host))
    if host and hosts.is_private(host):
        if not isinstance(found, Match) or not {"exact", "alias"} & set(found.flags):
            return Price(p.SELF_HOSTED, 0, source="self_hosted")
        return Match(found.entry, found.table, ("proxy",))  # a vendor's model cannot run here: this is a proxy
    if isinstance(found, Unresolved):
        return Price(p.NEEDS_MAPPING if found.needs_mapping else p.NO_MODEL)
    return found


def _reported(
    provider: str, cost: str, usage: Usage | None, model: str | None, tier: str, table: Prices | None
) -> Price:
    """The provider's figure as the price, the table's beside it."""
    try:
        picousd = int((Decimal(cost) * 10**12).to_integral_value())
    except (InvalidOperation, ValueError):
        return quote(provider, model, usage, tier=tier, table=table)
    computed = quote(provider, model, usage, tier=tier, table=table)
    part = Component("provider", 1, picousd * p.ATTO_PER_PICO, "usage.cost", picousd)
    return Price(p.PROVIDER_REPORTED, picousd, (part,), computed.key, "provider", None, (), computed.total_picousd)


def _geo(host: str) -> str:
    """The processing region that a host implies: eu.api.openai.com, europe-west4-aiplatform.googleapis.com."""
    if host.endswith(".api.openai.com"):
        return host.partition(".")[0]
    if host.endswith("-aiplatform.googleapis.com"):
        return host.removesuffix("-aiplatform.googleapis.com")
    return ""


def _region(geo: str, host: str) -> str:
    """The region in a Bedrock host (bedrock-runtime.us-east-1.amazonaws.com), which may be a part of the key."""
    if host.startswith("bedrock") and host.endswith(".amazonaws.com"):
        return host.split(".")[1]
    return geo


def from_mapping(found: Mapping[str, int]) -> Usage:
    """A usage given as inclusive totals by the short names of `spanledger prices quote`."""
    n = {key: value for key, value in found.items() if type(value) is int and value > 0}
    cached_audio = n.get("cached_audio", 0)
    cached_image = n.get("cached_image", 0)
    return usages.from_totals(
        n.get("input", 0),
        n.get("output", 0),
        cache_read=n.get("cache_read", 0),
        cache_write=n.get("cache_write", 0),
        cache_write_1h=n.get("cache_write_1h", 0),
        cache_write_12h=n.get("cache_write_12h", 0),
        reasoning=n.get("reasoning", 0),
        input_audio=max(0, n.get("audio_in", 0) - cached_audio),
        input_image=max(0, n.get("image_in", 0) - cached_image),
        cache_read_audio=cached_audio,
        cache_read_image=cached_image,
        output_audio=n.get("audio_out", 0),
        output_image=n.get("image_out", 0),
        web_searches=n.get("web_searches", 0),
        file_searches=n.get("file_searches", 0),
        code_sessions=n.get("code_sessions", 0),
        maps_queries=n.get("maps_queries", 0),
    )
