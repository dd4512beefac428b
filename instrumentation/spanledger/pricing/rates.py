"""Rate card: compiles a table entry into rates, and applies them to a usage; independent of model names.

Field names are parsed by a grammar, not looked up in a list: LiteLLM adds new thresholds and tiers within
months (`_above_12hr`, `_above_100k_tokens`, `_ultrafast` all did in 2026). All arithmetic is in integer
attodollars; each component is rounded half-even to picodollars once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Final, NamedTuple, cast

from spanledger.pricing.price import Component, round_half_even
from spanledger.runtime.untrusted_json import Json, items, label, mapping
from spanledger.semconv.evidence import (
    BATCH_ESTIMATED,
    GEO_UNKNOWN,
    RATE_MISSING,
    SPEED_UNKNOWN,
    TIER_ESTIMATED,
    TIER_UNKNOWN,
)
from spanledger.semconv.usage import (
    INPUT_RATE,
    METERS,
    OUTPUT,
    OUTPUT_RATE,
    READ_RATE,
    TOKEN_METERS,
    Usage,
    counts_of,
)

ATTO: Final = 10**18
DIGITS: Final = Context(prec=12, rounding=ROUND_HALF_EVEN)
"""Table values carry float noise (4.2000000000000006E-8); 12 significant digits are enough."""

GRAMMAR: Final = re.compile(
    r"(?P<base>(?:input|output)_cost_per_(?:[a-z]+_)?token|cache_(?:read|creation)_input_(?:[a-z]+_)?token_cost)"
    r"(?:_above_(?P<hours>\d+)hr)?(?:_above_(?P<kilo>\d+)k_tokens)?"
    r"(?:_(?P<tier>batches|flex|priority|balanced|ultrafast|decisions))?"
)


def _chain(prices: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """Fields of the table as (rate, hours to live).

    Raises:
        ValueError: there is none, or one is not the plain rate of a kind of token.
    """
    matches = [GRAMMAR.fullmatch(name) for name in prices]
    chain = tuple((m["base"], int(m["hours"] or 0)) for m in matches if m and not m["kilo"] and not m["tier"])
    if not chain or len(chain) < len(prices):
        raise ValueError(f"{prices}: a meter of tokens needs fields that price one token")
    return chain


RATE_CHAINS: Final = {name: _chain(meter.prices) for name, meter in METERS.items() if meter.counts_tokens}
"""Meter of tokens -> the (rate, hours to live) that price it, the next one where the table lacks the first (R5)."""

CHARGED_METERS: Final = (*(name for name in TOKEN_METERS if name != OUTPUT), OUTPUT)
"""In the order in which they are components; the output is charged without its reasoning, which comes last."""
_charged_counts: Final = counts_of(*CHARGED_METERS)

STANDARD_TIERS: Final = frozenset({
    "", "default", "standard", "auto", "on_demand", "standard_only", "unspecified", "traffic_type_unspecified",
})  # fmt: skip
"""Service tiers at the standard price."""
PREPAID_TIERS: Final = frozenset({"scale", "provisioned_throughput", "reserved"})
"""Service tiers of capacity that is paid by time: OpenAI's Scale Tier, Vertex's and Bedrock's."""

TIERS: Final = {
    "batch": "batches",
    "batches": "batches",
    "flex": "flex",
    "on_demand_flex": "flex",
    "priority": "priority",
    "fast": "priority",
    "on_demand_priority": "priority",
    "balanced": "balanced",
    "ultrafast": "ultrafast",
    "decisions": "decisions",
}
"""Service tier as providers spell it (lower case) -> suffix of the table; anything else is priced as standard (R8)."""

FALLBACK_FACTORS: Final = {
    ("fireworks_ai", READ_RATE, INPUT_RATE): (1, 2),  # docs.fireworks.ai/serverless/pricing: cached input at half
}
"""(LiteLLM's provider, rate, the rate in whose place it stands) -> the factor that the provider states."""
USUALLY_EQUAL: Final = frozenset(
    {"input", "input_image", "input_video", "cache_read_image", "cache_read_video", "reasoning", "output"}
)
"""Meters whose rate is that of text where the table states none: providers count their tokens so that it fits."""


class Rate(NamedTuple):
    atto: int
    """Attodollars a token."""
    field: str
    estimated: str | None = None
    """Why this rate is an estimate: tier_estimated, batch_estimated or rate_missing."""


Fields = dict[tuple[str, int, int, str], Rate]
"""(base, hours to live, threshold in tokens, tier suffix) -> rate."""


@dataclass(slots=True)
class Entry:
    """One model of the table, its fields parsed."""

    key: str
    provider: str
    """LiteLLM's provider name, e.g. "bedrock_converse"."""
    json: Json
    fields: Fields
    thresholds: tuple[int, ...]
    """Tokens of input above which the whole request has other rates, ascending."""
    brackets: tuple[tuple[int, int, Fields], ...]
    """`tiered_pricing`: (more than, at most, fields)."""
    off_peak: Fields
    former_entries: tuple[tuple[date, Entry], ...] = ()
    """Former prices: (first day on which the price was no longer valid, the entry), oldest first."""
    rates_cache: dict[tuple[str, int, int, bool], dict[str, Rate | None]] = field(
        default_factory=dict[tuple[str, int, int, bool], dict[str, "Rate | None"]]
    )

    def valid_at(self, moment: datetime) -> Entry:
        """The entry that was valid at `moment`."""
        day = moment.astimezone(UTC).date()
        return next((entry for until, entry in self.former_entries if day < until), self)


def attousd(text: object) -> int | None:
    """A table number, as text or int, in attodollars; None if it is not a finite number >= 0."""
    if isinstance(text, bool) or not isinstance(text, str | int):
        return None
    try:
        value = DIGITS.plus(Decimal(text))
    except (InvalidOperation, ValueError):
        return None
    if not value.is_finite() or value < 0:
        return None
    return int((value * ATTO).to_integral_value(ROUND_HALF_EVEN))


def compile_entry(key: str, entry: Json) -> Entry:
    """Parse the fields of a table entry once."""
    fields = _fields(entry)
    brackets: list[tuple[int, int, Fields]] = []
    for index, bracket in enumerate(items(entry, "tiered_pricing")):
        low, high = (attousd(bound) or 0 for bound in (*items(bracket, "range"), "0", "0")[:2])
        brackets.append((low // ATTO, high // ATTO, _fields(mapping(bracket), f"tiered_pricing[{index}].")))
    return Entry(
        key,
        label(entry, "litellm_provider") or "",
        entry,
        fields,
        tuple(sorted({threshold for _, _, threshold, _ in fields} - {0})),
        tuple(brackets),
        _fields(mapping(entry, "off_peak_pricing"), "off_peak_pricing."),
        _former_entries(key, entry),
    )


def _former_entries(key: str, entry: Json) -> tuple[tuple[date, Entry], ...]:
    """`_history` of an entry: former fields, each with `_until`, the day on which they were replaced.

    A field that a former table lacked was not known, which is no other price: it has the value with which it first came,
    also within a field that is an object.
    """
    former_entries: list[tuple[date, Entry]] = []
    for former in items(entry, "_history"):
        fields: Json = {**entry}
        for name, value in mapping(former).items():
            inner = mapping(former, name)
            fields[name] = {**mapping(entry, name), **inner} if inner else value
        fields.pop("_history", None)
        try:
            until = date.fromisoformat(str(fields.pop("_until", "")))
        except ValueError:
            continue
        former_entries.append((until, compile_entry(key, fields)))
    return tuple(sorted(former_entries, key=lambda part: part[0]))


def _fields(entry: Json, prefix: str = "") -> Fields:
    rates: Fields = {}
    for name, value in entry.items():
        match = GRAMMAR.fullmatch(name)
        rate = attousd(value) if match else None
        if match and rate is not None:
            threshold = int(match["kilo"] or 0) * 1000
            rates[match["base"], int(match["hours"] or 0), threshold, match["tier"] or ""] = Rate(rate, prefix + name)
    # A zero above a threshold beside a price below it is a gap in the table, not a free tier (Vertex 128k keys).
    return {
        key: rate
        for key, rate in rates.items()
        if rate.atto or not key[2] or not (below := rates.get((key[0], key[1], 0, key[3]))) or not below.atto
    }


def components(
    entry: Entry, usage: Usage, tier: str, *, geo: str = "", speed: str = "", completed_at: datetime | None = None
) -> tuple[list[Component], set[str]] | None:
    """The token components of `usage` and flags, or None if the entry lacks a required rate.

    `tier` is the served service tier as the provider spells it, `geo` a processing region or
    geography, `speed` Anthropic's, `completed_at` the time of completion (for off-peak rates).
    """
    suffix = TIERS.get(tier.lower(), "") if tier else ""
    total = usage.total_input
    crossed = 0
    for threshold in entry.thresholds:
        if total > threshold or (total == threshold and entry.provider == "xai"):
            crossed = threshold
    bracket = _bracket(entry, total)
    off_peak = is_off_peak(entry.json, completed_at or datetime.now(UTC)) if entry.off_peak else False
    rates = rates_for(entry, suffix, crossed, bracket, off_peak)
    numerator, denominator = multiplier(entry.json, geo, speed) if geo or speed else (1, 1)
    parts: list[Component] = []
    flags = unknown_modifiers(entry, tier, geo, speed) if tier or geo or speed else set[str]()
    for meter, quantity in _charged_quantities(usage):
        rate = rates[meter]
        if rate is None:
            return None
        atto = rate.atto * numerator
        amount = round_half_even(quantity * atto, denominator)
        parts.append(Component(meter, quantity, atto // denominator, rate.field, amount))
        if rate.estimated:
            flags.add(rate.estimated)
    return parts, flags


def _charged_quantities(usage: Usage) -> list[tuple[str, int]]:
    """(meter, quantity) pairs that are charged; reasoning is subtracted from the output that includes it."""
    *counts, output = _charged_counts(usage)
    reasoning = min(usage.reasoning, output)
    quantities = zip((*CHARGED_METERS, "reasoning"), (*counts, output - reasoning, reasoning), strict=True)
    return [(meter, quantity) for meter, quantity in quantities if quantity]


def rates_for(
    entry: Entry, suffix: str, crossed: int = 0, bracket: int = -1, off_peak: bool = False
) -> dict[str, Rate | None]:
    """The rate of every meter for one tier, threshold, bracket and time of day."""
    rates = entry.rates_cache.get((suffix, crossed, bracket, off_peak))
    if rates is None:
        rates = entry.rates_cache[suffix, crossed, bracket, off_peak] = _compile_rates(
            entry, suffix, crossed, bracket, off_peak
        )
    return rates


def _compile_rates(entry: Entry, suffix: str, crossed: int, bracket: int, off_peak: bool) -> dict[str, Rate | None]:
    fields = entry.fields
    if bracket >= 0:
        fields = {**fields, **entry.brackets[bracket][2]}
    if off_peak:
        fields = {**fields, **entry.off_peak}
    thresholds = [t for t in reversed(entry.thresholds) if t <= crossed]
    lookup = _Lookup(entry, fields, thresholds, suffix)
    rates: dict[str, Rate | None] = {meter: lookup.first_rate(chain, meter) for meter, chain in RATE_CHAINS.items()}
    rates["reasoning"] = lookup.reasoning_rate()
    return rates


@dataclass(frozen=True, slots=True)
class _Lookup:
    """Rules R4 to R7: the field that holds a rate, and its fallbacks."""

    entry: Entry
    fields: Fields
    thresholds: list[int]
    """Crossed ones, highest first."""
    tier: str

    def first_rate(self, chain: tuple[tuple[str, int], ...], meter: str) -> Rate | None:
        for position, (base, hours) in enumerate(chain):
            rate = self.batch_rate(base, hours) if self.tier == "batches" else self.service_tier_rate(base, hours)
            if rate is not None:
                factor = FALLBACK_FACTORS.get((self.entry.provider, chain[0][0], base)) if position else None
                if factor is not None:
                    return Rate(rate.atto * factor[0] // factor[1], rate.field, rate.estimated)
                is_usual = meter in USUALLY_EQUAL and not (meter.startswith("cache_read") and base == INPUT_RATE)
                is_missing = position and not is_usual and rate.atto
                return Rate(rate.atto, rate.field, rate.estimated or RATE_MISSING) if is_missing else rate
        # An embedding's output is its vector, which no table prices: counted by some servers, sold by none.
        return (
            Rate(0, "(no output price)")
            if chain[-1][0] == OUTPUT_RATE and self.entry.json.get("mode") == "embedding"
            else None
        )

    def service_tier_rate(self, base: str, hours: int) -> Rate | None:
        """(threshold, tier) -> (threshold, standard) -> lower thresholds -> (tier) -> (standard)."""
        for threshold in (*self.thresholds, 0):
            rate = self.fields.get((base, hours, threshold, self.tier))
            if rate is not None:
                return rate
            rate = self.fields.get((base, hours, threshold, ""))
            if rate is not None:
                return Rate(rate.atto, rate.field, TIER_ESTIMATED)
        return None

    def batch_rate(self, base: str, hours: int) -> Rate | None:
        """`*_batches`, else half of standard (R7); cache reads keep their price where that is lower.

        The batch rate below a threshold counts above it, too, where there is no other; but then it is an estimate.
        """
        standard = None
        for threshold in (*self.thresholds, 0):
            rate = self.fields.get((base, hours, threshold, "batches"))
            if rate is not None:
                return rate if standard is None else rate._replace(estimated=BATCH_ESTIMATED)
            standard = standard or self.fields.get((base, hours, threshold, ""))
        if standard is None:
            return None
        if base.startswith("cache_read") and "claude" not in self.entry.key:
            whole = self.batch_rate(INPUT_RATE, 0)
            cheapest = min(standard.atto, whole.atto) if whole else standard.atto
            return Rate(cheapest, standard.field, BATCH_ESTIMATED)
        return Rate(standard.atto // 2, standard.field, BATCH_ESTIMATED)

    def reasoning_rate(self) -> Rate | None:
        """Tier's reasoning rate -> tier's output rate -> reasoning rate -> output rate (R6)."""
        if self.tier:
            for base, _ in RATE_CHAINS["reasoning"]:
                for threshold in (*self.thresholds, 0):
                    rate = self.fields.get((base, 0, threshold, self.tier))
                    if rate is not None:
                        return rate
        return self.first_rate(RATE_CHAINS["reasoning"], "reasoning")


def _bracket(entry: Entry, total: int) -> int:
    """Index of the `tiered_pricing` bracket with more than .. at most; beyond the last, the last."""
    if not entry.brackets:
        return -1
    for index, (_, high, _) in enumerate(entry.brackets):
        if total <= high:
            return index
    return len(entry.brackets) - 1


def unknown_modifiers(entry: Entry, tier: str, geo: str, speed: str) -> set[str]:
    """Flags for what decides the price and is not in the table of this model."""
    flags: set[str] = set()
    lower = tier.lower()
    if lower not in TIERS and lower not in STANDARD_TIERS and lower not in PREPAID_TIERS:
        flags.add(TIER_UNKNOWN)
    factors = mapping(entry.json, "provider_specific_entry")
    if geo not in ("", "global", "not_available") and geo not in factors:
        regions = [name for name in entry.json if name.startswith(REGIONAL_UPLIFT)]
        if entry.provider == "anthropic" or (regions and f"{REGIONAL_UPLIFT}{geo}" not in regions):
            flags.add(GEO_UNKNOWN)
    if speed not in ("", "standard") and not (speed == "fast" and "fast" in factors):
        flags.add(SPEED_UNKNOWN)
    return flags


REGIONAL_UPLIFT: Final = "regional_processing_uplift_multiplier_"


def multiplier(entry: Mapping[str, object], geo: str, speed: str) -> tuple[int, int]:
    """The product of the uplifts for a geography and a speed, as a fraction (R9)."""
    fields = cast("Json", entry)
    factors = [
        mapping(fields, "provider_specific_entry").get(geo),
        fields.get(f"{REGIONAL_UPLIFT}{geo}"),
    ]
    if geo and geo != "global":
        factors.append(fields.get("regional_endpoint_uplift_multiplier"))
    if speed == "fast":
        factors.append(mapping(fields, "provider_specific_entry").get("fast"))
    numerator, denominator = 1, 1
    for factor in factors:
        atto = attousd(factor)
        if atto:
            top, bottom = Decimal(atto).scaleb(-18).as_integer_ratio()
            numerator, denominator = numerator * top, denominator * bottom
    return numerator, denominator


def is_off_peak(entry: Json, moment: datetime) -> bool:
    """Whether `moment` lies in a window of `off_peak_pricing` (UTC; weekday 1 is Monday)."""
    now = moment.astimezone(UTC)
    minute = now.hour * 60 + now.minute
    for window in items(entry, "off_peak_pricing", "windows"):
        days = {str(day) for day in items(window, "weekdays")}
        if days and str(now.isoweekday()) not in days:
            continue
        hours = mapping(window).get("hours_utc")
        for span in cast("list[object]", hours) if isinstance(hours, list) else [hours]:
            start, end = (_minute(part) for part in str(span).partition("-")[::2])
            if start <= minute < (end or 24 * 60) or (end and end < start and (minute >= start or minute < end)):
                return True
    return False


def _minute(clock: str) -> int:
    hours, _, minutes = clock.strip().partition(":")
    return int(hours) * 60 + int(minutes) if hours.isdigit() and minutes.isdigit() else 0
