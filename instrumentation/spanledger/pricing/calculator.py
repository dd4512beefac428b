"""Price calculator: `quote` prices one usage of one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

from spanledger.pricing import non_token_meters, tool_fees
from spanledger.pricing import price as p
from spanledger.pricing.model_names import Match, Unresolved, canonical, is_vendor_model, resolve
from spanledger.pricing.price import Component, Price
from spanledger.pricing.price_table import Prices, prices
from spanledger.pricing.rates import (
    BATCH_ESTIMATED,
    CHARGED_METERS,
    PREPAID_TIERS,
    TIER_ESTIMATED,
    TIERS,
    components,
    multiplier,
    rates_for,
    unknown_modifiers,
)
from spanledger.runtime.untrusted_json import MAX_COUNT
from spanledger.semconv import evidence, provider_hosts
from spanledger.semconv import usage as usages
from spanledger.semconv.usage import CACHE_WRITE, METERS, TOOLS, Usage, counts_of, non_token_counts

COST_REPORTING_PROVIDERS: Final = frozenset({"openrouter", "x_ai", "perplexity", "deepinfra", "vercel_ai_gateway"})
"""Providers whose reported cost is the price (R12); so is that of a gateway of one's own."""

MAX_REPORTED: Final = 10**18
"""Picodollars, a million dollars: no single call costs as much."""

BEDROCK: Final = "aws.bedrock"
MANTLE: Final = "bedrock_mantle"
"""Bedrock's other API, which has prices of its own in the table (`bedrock-mantle.<region>.api.aws`)."""


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
    doubts: tuple[str, ...] = (),
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
        size: of the image or video made ("1024x1024", "1080p"), or of the container that code ran in ("4g").
        quality: of the image made ("hd", "low"), or the type of the search tool used ("web_search_preview").
        at: when the call completed (default: now); decides off-peak rates, and which price was valid.
        doubts: what is not known of the usage (`evidence.READING_FLAGS`).
        table: the prices to use (default: those in force).

    Returns:
        The price. `total_picousd` is None, never 0, where the call cannot be priced; `status` says why. Its flags have `exact` only
        if everything which can cost money was understood, else `estimated` and why.
    """
    if type(usage) is not Usage and isinstance(usage, Mapping):
        usage = usage_from_totals(usage)
    if provider_cost_usd is not None and (
        canonical(provider) in COST_REPORTING_PROVIDERS or (host and not provider_hosts.is_listed(host))
    ):
        table_price = quote(
            provider, model, usage, request_model=request_model, tier=tier, geo=geo, speed=speed, host=host, size=size,
            quality=quality, at=at, doubts=doubts, table=table,
        )  # fmt: skip
        return _reported(provider_cost_usd, table_price)
    if usage is None:
        return Price(p.NO_USAGE)
    table = table or prices()
    is_prepaid = bool(tier) and tier.lower() in PREPAID_TIERS
    terms = (provider, model or "", request_model or "", "" if is_prepaid else tier, geo, speed, host)
    price = _by_table(table, usage, terms, size, quality, at, doubts)
    return _prepaid(price) if is_prepaid else price


def _prepaid(price: Price) -> Price:
    """What is left of a price where capacity is paid by time: the tools, which it does not pay for."""
    fees = tuple(part for part in price.components if p.GROUP_OF.get(part.meter) == TOOLS)
    total = sum(part.amount for part in fees)
    flags = price.flags if evidence.ESTIMATED in price.flags else ()
    return Price(p.PREPAID, total, fees, price.key, price.source, price.version, flags, price.total_picousd)


_Named = tuple[str, str, str, str, str, str, str]
"""Provider, model, requested model, tier, geography, speed, host."""


def _by_table(
    table: Prices, usage: Usage, named: _Named, size: str, quality: str, at: datetime | None, doubts: tuple[str, ...]
) -> Price:
    """The price of a usage by the table."""
    provider, model, request_model, tier, geo, speed, host = named
    if not model and not request_model:
        standalone = tool_fees.standalone_components(canonical(provider), usage, size)
        if standalone is None:
            return Price(p.NO_MODEL)
        if host and provider_hosts.is_private(host) and not provider_hosts.is_billed(host, provider):
            return Price(p.NEEDS_MAPPING)
        total, live = sum(c.amount for c in standalone), table.live
        price = Price(p.PRICED, total, tuple(standalone), None, live.source, live.version, ("exact",))
        return _estimate(price, set(doubts), usage, lambda _: None) if doubts else price
    rates = _flat_rates(table, *named)
    if rates is not None and not doubts and (at is None or not rates.entry.former_entries):
        priced = rates.price(usage)
        if priced is not None:
            return priced
    by_other_meters = usage.total == 0 and non_token_meters.uses_non_token_meters(usage)
    media = (size, quality) if by_other_meters else ("", "")
    resolution = _resolve(table, provider, model, request_model, geo, host, *media)
    if isinstance(resolution, Price):
        is_mapped = resolution.status == p.SELF_HOSTED and evidence.GATEWAY in doubts
        return Price(p.NEEDS_MAPPING, flags=(evidence.GATEWAY,)) if is_mapped else resolution
    doubts = tuple(doubt for doubt in doubts if doubt != evidence.GATEWAY)
    place = geo or _host_geo(host) if host else geo
    price = _price(resolution, usage, tier, place, speed, at, size if by_other_meters else None, size, doubts, quality)
    return _with_router(price, table, request_model, usage) if canonical(provider) in AZURE else price


def _with_router(price: Price, table: Prices, request_model: str, usage: Usage) -> Price:
    """The price with the fee of Azure's model router, where that has chosen the model."""
    router = tool_fees.router_component(table.live, request_model, usage)
    if router is None or price.total_picousd is None or price.key == router.field.rpartition(".")[0]:
        return price
    low, high = (None if bound is None else bound + router.amount for bound in (price.low_picousd, price.high_picousd))
    return price._replace(
        total_picousd=price.total_picousd + router.amount,
        components=(*price.components, router),
        low_picousd=low,
        high_picousd=high,
    )


AZURE: Final = ("azure.ai.openai", "azure.ai.inference")


def _estimate(price: Price, flags: set[str], usage: Usage, priced_as: Callable[[Usage], int | None]) -> Price:
    """A price that is not exact: with what is not understood, and bounds where they are known."""
    total = price.total_picousd
    low = high = None
    if flags == {evidence.TOTALS_DISAGREE}:
        beyond = (usage.reported_total or 0) - usage.total
        if beyond > 0:
            dearer = [usage._replace(output=usage.output + beyond), usage._replace(input=usage.input + beyond)]
            low, high = total, max((cost for part in dearer if (cost := priced_as(part)) is not None), default=None)
        else:
            high = total
    elif flags == {evidence.MODALITY_UNKNOWN}:
        low = priced_as(usage._replace(output=usage.output + usage.output_image, output_image=0))
        high = total
    elif flags <= {evidence.FEE_UNKNOWN, evidence.USAGE_UNREAD}:
        low = total  # what is not known costs nothing, or more
    own = (flag for flag in price.flags if flag != "exact")
    return price._replace(flags=(evidence.ESTIMATED, *own, *sorted(flags)), low_picousd=low, high_picousd=high)


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
    doubts: tuple[str, ...] = ()

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
            doubts=self.doubts,
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
        self._price_fields = (self.entry.key, table.source, table.version, match.flags, None, None, None)

    def price(self, usage: Usage) -> Price | None:
        """The price, or None if the fast path does not apply: another threshold, a non-token meter, no rate."""
        if usage.total_input > self._limit or any(non_token_counts(usage)):
            return None
        parts: list[Component] = []
        total = 0
        reasoning = usage.reasoning
        counts = _flat_counts(usage)
        reported = usage.reported_total
        if reported is not None and reported != sum(counts):
            return None
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
    if entry.former_entries and entry.former_entries[-1][0] > datetime.now(UTC).date():
        return None
    if entry.off_peak or entry.brackets or ((geo or speed) and multiplier(entry.json, geo, speed) != (1, 1)):
        return None
    if unknown_modifiers(entry, tier, geo, speed) or request_model.startswith(tool_fees.ROUTER):
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
    match: Match,
    usage: Usage,
    tier: str,
    geo: str,
    speed: str,
    completed_at: datetime | None,
    size: str | None,
    container: str = "",
    doubts: tuple[str, ...] = (),
    search_tool: str = "",
) -> Price:
    """`size` is None for a call that is priced by its tokens, `container` that of what code ran in."""
    terms = _Terms(tier, geo, speed, completed_at, size, container, search_tool)
    price, flags = _charged(match, usage, terms)
    if price.total_picousd is None:
        return price
    flags.update(doubts)
    if usage.reported_total is not None and usage.reported_total != usage.total and size is None:
        flags.add(evidence.TOTALS_DISAGREE)
    return (
        _estimate(price, flags, usage, lambda other: _charged(match, other, terms)[0].total_picousd) if flags else price
    )


class _Terms(NamedTuple):
    """What a price depends on beside model and usage: the arguments of `_price`."""

    tier: str
    geo: str
    speed: str
    completed_at: datetime | None
    size: str | None
    container: str
    search_tool: str


def _charged(match: Match, usage: Usage, terms: _Terms) -> tuple[Price, set[str]]:
    """The price, and what makes it an estimate."""
    tier, geo, speed, completed_at, size, container, search_tool = terms
    entry, table, match_flags = match
    if entry.former_entries:
        entry = entry.valid_at(completed_at or datetime.now(UTC))
        match_flags = match_flags if entry is match.entry else (*match_flags, "former")
    priced = components(entry, usage, tier, geo=geo, speed=speed, completed_at=completed_at)
    if size is not None and priced is not None:
        suffix = TIERS.get(tier.lower(), "")
        others = non_token_meters.components(entry, usage, suffix, size)
        if others is not None and suffix and not all(part.field.endswith(f"_{suffix}") for part in others):
            priced[1].add(BATCH_ESTIMATED if suffix == "batches" else TIER_ESTIMATED)
        priced = None if others is None else (others, priced[1])
    if priced is None:
        unpriced = Price(p.NO_PRICE, key=entry.key, source=table.source, version=table.version, flags=match_flags)
        return unpriced, set()
    parts, flags = priced
    if tool_fees.uses_tools(usage):
        fees, complete = tool_fees.components(entry, usage, container, search_tool)
        parts.extend(fees)
        if not complete:
            flags.add(evidence.FEE_UNKNOWN)
    total = 0
    for part in parts:
        total += part.amount
    status = p.PRICED if total or not parts else p.ZERO_PRICE
    return Price(status, total, tuple(parts), entry.key, table.source, table.version, match_flags), flags


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
    resolution = resolve(
        table, MANTLE if host.startswith("bedrock-mantle.") else provider, names, _bedrock_region(geo, host)
    )
    if host and provider_hosts.is_private(host):
        if isinstance(resolution, Match) and {"exact", "alias"} & set(resolution.flags):
            # A vendor's model cannot run here: this is a proxy, of that vendor's API if the user says so.
            return resolution if provider_hosts.is_billed(host, provider) else resolution._replace(flags=("proxy",))
        if provider_hosts.is_proxy(host) or is_vendor_model(table, names):
            return Price(p.NEEDS_MAPPING)  # also a proxy, but the vendor is unknown
        if not provider_hosts.is_billed(host, provider):
            return Price(p.SELF_HOSTED, 0, source="self_hosted")
    if isinstance(resolution, Unresolved):
        return Price(p.NEEDS_MAPPING if resolution.needs_mapping else p.NO_MODEL)
    if provider_hosts.is_unknown(host) and resolution.table.source != "override":
        return resolution._replace(flags=("proxy", *(flag for flag in resolution.flags if flag != "exact")))
    return resolution


def _reported(cost: str, computed: Price) -> Price:
    """The provider's reported cost as the price, with the table's figure for comparison."""
    try:
        picousd = int((Decimal(cost) * 10**12).to_integral_value())
    except (InvalidOperation, ValueError, OverflowError):
        picousd = MAX_REPORTED
    if not 0 <= picousd < MAX_REPORTED:  # not a cost, and more than the ledger's column holds
        return computed
    part = Component("provider", 1, picousd * p.ATTO_PER_PICO, "usage.cost", picousd)
    return Price(p.PROVIDER_REPORTED, picousd, (part,), computed.key, "provider", None, (), computed.total_picousd)


def _host_geo(host: str) -> str:
    """The processing region that a host implies: eu.api.openai.com, europe-west4-aiplatform.googleapis.com,
    aiplatform.eu.rep.googleapis.com."""
    if host.endswith(".api.openai.com"):
        return host.partition(".")[0]
    if host.startswith("bedrock-runtime."):
        return host.split(".")[1]
    vertex = provider_hosts.VERTEX_HOST.match(host)
    return (vertex["location"] or vertex["multiregion"] or "") if vertex else ""


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
