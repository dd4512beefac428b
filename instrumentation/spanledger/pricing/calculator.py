"""Price calculator: `quote` prices one usage of one model."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

from spanledger.pricing import non_token_meters, tool_fees
from spanledger.pricing import price as p
from spanledger.pricing.model_names import Match, Unresolved, canonical, is_vendor_model, resolve
from spanledger.pricing.price import Component, Price
from spanledger.pricing.price_table import Prices, prices
from spanledger.pricing.rates import CHARGED_METERS, TIERS, components, multiplier, rates_for
from spanledger.runtime.untrusted_json import MAX_COUNT
from spanledger.semconv import provider_hosts
from spanledger.semconv import usage as usages
from spanledger.semconv.usage import CACHE_WRITE, METERS, Usage, counts_of, non_token_counts

COST_REPORTING_PROVIDERS: Final = frozenset({"openrouter", "x_ai"})
"""Providers whose reported cost is the price (R12)."""

MAX_REPORTED: Final = 10**18
"""Picodollars, a million dollars: no single call costs as much."""

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
    size: str = "",
    quality: str = "",
    at: datetime | None = None,
    table: Prices | None = None,
) -> Price:
    """Price a usage.

    Args:
        provider: `gen_ai.provider.name`, or LiteLLM's name of the provider.
        model: the model that answered, as the provider spells it.
        usage: the meters, or a mapping of inclusive totals {input, output, cache_read, cache_write,
            cache_write_1h, cache_write_12h, reasoning, audio_in, audio_out, image_in, image_out,
            cached_audio, cached_image} in tokens, and the counts of the other meters of `Usage` (web_searches, images,
            audio_input_ms, characters, ...); None if unknown.
        request_model: the requested model.
        tier: the service tier served (batch, flex, priority, ...), as the provider spells it.
        geo: Anthropic's inference_geo, OpenAI's processing region (eu, us) or Vertex's location.
        speed: Anthropic's speed ("fast").
        host: where the request went; a private host serves its own models at no cost.
        provider_cost_usd: the cost reported by the provider, in USD.
        size: of the image or video made ("1024x1024", "1080p").
        quality: of the image made ("hd", "low").
        at: when the call completed (default: now); decides off-peak rates, and which price was valid.
        table: the prices to use (default: those in force).

    Returns:
        The price. `total_picousd` is None, never 0, where the call cannot be priced; `status` says why.
    """
    if type(usage) is not Usage and isinstance(usage, Mapping):
        usage = usage_from_totals(usage)
    if provider_cost_usd is not None and canonical(provider) in COST_REPORTING_PROVIDERS:
        return _reported(provider, provider_cost_usd, usage, model or request_model, tier, table)
    if usage is None:
        return Price(p.NO_USAGE)
    table = table or prices()
    if not model and not request_model:
        standalone = tool_fees.standalone_components(canonical(provider), usage)
        if standalone is None:
            return Price(p.NO_MODEL)
        live = table.live
        return Price(
            p.PRICED, sum(c.amount for c in standalone), tuple(standalone), None, live.source, live.version, ("exact",)
        )
    rates = _flat_rates(table, provider, model or "", request_model or "", tier, geo, speed, host)
    if rates is not None and (at is None or not rates.entry.former_entries):
        priced = rates.price(usage)
        if priced is not None:
            return priced
    by_other_meters = usage.total == 0 and non_token_meters.uses_non_token_meters(usage)
    media = (size, quality) if by_other_meters else ("", "")
    resolution = _resolve(table, provider, model or "", request_model or "", geo, host, *media)
    if isinstance(resolution, Price):
        return resolution
    return _price(
        resolution, usage, tier, geo or _host_geo(host) if host else geo, speed, at, size if by_other_meters else None
    )


class BilledCall(NamedTuple):
    """What decides the price of a call: the arguments of `quote`. Built from a span or from a row, never by hand."""

    provider: str
    model: str | None
    usage: Usage | None
    request_model: str | None
    tier: str
    geo: str
    speed: str
    host: str
    provider_cost_usd: str | None
    size: str
    quality: str
    completed_at: datetime | None = None
    """None: now."""

    def price(self) -> Price:
        """The price under the prices in force."""
        return quote(
            self.provider,
            self.model,
            self.usage,
            request_model=self.request_model,
            tier=self.tier,
            geo=self.geo,
            speed=self.speed,
            host=self.host,
            provider_cost_usd=self.provider_cost_usd,
            size=self.size,
            quality=self.quality,
            at=self.completed_at,
        )


class _FlatRates:
    """Fast path for models whose price is exactly quantity x rate: all but a few of them.

    It returns what `_price` returns, in a third of the time.
    """

    __slots__ = ("_limit", "_price_fields", "_rates", "entry")

    def __init__(self, match: Match, rates: list[tuple[str, int, str, int] | None], limit: int) -> None:
        self.entry = match.entry
        self._rates = rates
        self._limit = limit
        table = match.table
        self._price_fields = (self.entry.key, table.source, table.version, match.flags, None)

    def price(self, usage: Usage) -> Price | None:
        """The price, or None if the fast path does not apply: another threshold, a non-token meter, no rate."""
        if usage.total_input > self._limit or any(non_token_counts(usage)):
            return None
        parts: list[Component] = []
        total = 0
        reasoning = usage.reasoning
        counts = _flat_counts(usage)
        for quantity, rate in zip((*counts[:-1], counts[-1] - reasoning, reasoning), self._rates, strict=True):
            if quantity:
                if rate is None:
                    return None
                meter, atto, field, pico = rate
                amount = quantity * pico
                total += amount
                parts.append(NEW_TUPLE(Component, (meter, quantity, atto, field, amount)))
        status = p.PRICED if total or not parts else p.ZERO_PRICE
        return NEW_TUPLE(Price, (status, total, tuple(parts), *self._price_fields))


NEW_TUPLE: Final = cast("Any", tuple).__new__
"""A named tuple's own constructor takes twice as long."""

_flat_counts: Final = counts_of(*CHARGED_METERS)


@lru_cache(maxsize=4096)
def _flat_rates(
    table: Prices, provider: str, model: str, request_model: str, tier: str, geo: str, speed: str, host: str
) -> _FlatRates | None:
    """The fast path for a model; None if its price depends on the time, on brackets, or on uplifts."""
    resolution = _resolve(table, provider, model, request_model, geo, host, "", "")
    if isinstance(resolution, Price):
        return None
    entry = resolution.entry
    geo = geo or _host_geo(host)
    if entry.off_peak or entry.brackets or ((geo or speed) and multiplier(entry.json, geo, speed) != (1, 1)):
        return None
    plan = rates_for(entry, TIERS.get(tier.lower(), ""))
    rates = [
        (meter, rate.atto, rate.field, rate.atto // p.ATTO_PER_PICO)
        if (rate := plan[meter]) and not rate.estimated and rate.atto % p.ATTO_PER_PICO == 0
        else None
        for meter in (*CHARGED_METERS, "reasoning")
    ]
    return _FlatRates(resolution, rates, min(entry.thresholds, default=MAX_COUNT * 2) - 1)


def _price(
    match: Match, usage: Usage, tier: str, geo: str, speed: str, completed_at: datetime | None, size: str | None
) -> Price:
    """`size` is None for a call that is priced by its tokens."""
    entry, table, match_flags = match
    if entry.former_entries and completed_at is not None:
        entry = entry.valid_at(completed_at)
        match_flags = match_flags if entry is match.entry else (*match_flags, "former")
    priced = components(entry, usage, tier, geo=geo, speed=speed, completed_at=completed_at)
    if size is not None and priced is not None:
        by_other_meters = non_token_meters.components(entry, usage, TIERS.get(tier.lower(), ""), size)
        priced = None if by_other_meters is None else (by_other_meters, set[str]())
    extra = tool_fees.components(entry, usage) if tool_fees.uses_tools(usage) else NO_COMPONENTS
    if priced is None or extra is None:
        return Price(p.NO_PRICE, key=entry.key, source=table.source, version=table.version, flags=match_flags)
    parts, flags = priced
    parts.extend(extra)
    total = 0
    for part in parts:
        total += part.amount
    status = p.PRICED if total or not parts else p.ZERO_PRICE
    all_flags = (*match_flags, *sorted(flags)) if flags else match_flags
    return Price(status, total, tuple(parts), entry.key, table.source, table.version, all_flags)


@lru_cache(maxsize=4096)
def _resolve(
    table: Prices, provider: str, model: str, request_model: str, geo: str, host: str, size: str, quality: str
) -> Match | Price:
    """The table entry, or the price of a call that needs no entry."""
    # Bedrock's bodies name the vendor's model; the id in the request carries the Bedrock price.
    ordered = (request_model, model) if canonical(provider) == BEDROCK else (model, request_model)
    names = tuple(dict.fromkeys(name for name in ordered if name))
    if size:
        names = (
            *(sized for name in names for sized in non_token_meters.size_specific_names(name, size, quality)),
            *names,
        )
    resolution = resolve(table, provider, names, _bedrock_region(geo, host))
    if host and provider_hosts.is_private(host):
        if isinstance(resolution, Match) and {"exact", "alias"} & set(resolution.flags):
            return Match(
                resolution.entry, resolution.table, ("proxy",)
            )  # a vendor's model cannot run here: this is a proxy
        if provider_hosts.is_proxy(host) or is_vendor_model(table, names):
            return Price(p.NEEDS_MAPPING)  # also a proxy, but the vendor is unknown
        if not provider_hosts.is_billed(host, provider):
            return Price(p.SELF_HOSTED, 0, source="self_hosted")
    if isinstance(resolution, Unresolved):
        return Price(p.NEEDS_MAPPING if resolution.needs_mapping else p.NO_MODEL)
    return resolution


def _reported(
    provider: str, cost: str, usage: Usage | None, model: str | None, tier: str, table: Prices | None
) -> Price:
    """The provider's reported cost as the price, with the table's figure for comparison."""
    try:
        picousd = int((Decimal(cost) * 10**12).to_integral_value())
    except (InvalidOperation, ValueError):
        picousd = MAX_REPORTED
    if not 0 <= picousd < MAX_REPORTED:  # not a cost, and more than the ledger's column holds
        return quote(provider, model, usage, tier=tier, table=table)
    computed = quote(provider, model, usage, tier=tier, table=table)
    part = Component("provider", 1, picousd * p.ATTO_PER_PICO, "usage.cost", picousd)
    return Price(p.PROVIDER_REPORTED, picousd, (part,), computed.key, "provider", None, (), computed.total_picousd)


def _host_geo(host: str) -> str:
    """The processing region that a host implies: eu.api.openai.com, europe-west4-aiplatform.googleapis.com."""
    if host.endswith(".api.openai.com"):
        return host.partition(".")[0]
    if host.endswith("-aiplatform.googleapis.com"):
        return host.removesuffix("-aiplatform.googleapis.com")
    return ""


def _bedrock_region(geo: str, host: str) -> str:
    """The region in a Bedrock host (bedrock-runtime.us-east-1.amazonaws.com), which may be a part of the key."""
    if host.startswith("bedrock") and host.endswith(".amazonaws.com"):
        return host.split(".")[1]
    return geo


SHORT_NAMES: Final = {
    "audio_in": "input_audio",
    "image_in": "input_image",
    "audio_out": "output_audio",
    "image_out": "output_image",
    "cached_audio": "cache_read_audio",
    "cached_image": "cache_read_image",
}
"""Name of a total in `quote` -> meter; any other meter has its own name."""


def usage_from_totals(totals: Mapping[str, int]) -> Usage:
    """A usage given as the totals of `quote`: inclusive, but for a cache write, of which each time to live is a total."""
    counts: dict[str, int] = {}
    for key, value in totals.items():
        name = SHORT_NAMES.get(key, key)
        if name in METERS and type(value) is int and value > 0:
            counts[name] = value
    for name, parts in usages.CACHED_PARTS.items():
        if name in counts:
            counts[name] = max(0, counts[name] - sum(counts.get(part, 0) for part in parts))
    written = sum(counts.get(name, 0) for name in (CACHE_WRITE, *usages.WRITE_PARTS))
    return usages.from_totals(**{**counts, CACHE_WRITE: written})
