"""What past calls would have cost otherwise: without a cache, in another tier or batched, or with another model.

Each call is priced again from its own meters, by its own time, as a call is. It is a comparison of prices, not a forecast: another
model writes other answers, and a batch comes later. So nothing here is called saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from spanledger.pricing import Price
from spanledger.pricing.calculator import BilledCall
from spanledger.semconv.usage import METERS, READ_PARTS, WRITE_PARTS, Usage
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.prices.repricing import NOT_REPRICED
from spanledger_clickhouse.rows.rows import COLUMNS, billed_call

READ_AS: Final = {"cache_read": "input", **{name: name.replace("cache_read", "input") for name in READ_PARTS}}
"""Meter of what was read from a cache -> the meter that it would have been in without one."""
TIERS: Final = ("batch", "flex", "priority", "standard")


@dataclass(frozen=True)
class Change:
    """What is different.

    Attributes:
        without_cache: everything that was read from a cache, or written to it, is plain input.
        tier: "batch", "flex", "priority" or "standard"; "" for the call's own.
        model: another model, as its provider spells it; "" for the call's own.
        provider: `gen_ai.provider.name` of that model; "" for the call's own.
    """

    without_cache: bool = False
    tier: str = ""
    model: str = ""
    provider: str = ""

    def of(self, call: BilledCall) -> BilledCall:
        """The call as it would have been."""
        if self.without_cache and call.usage is not None:
            call = call._replace(usage=_without_cache(call.usage))
        if self.tier:
            call = call._replace(tier="" if self.tier == "standard" else self.tier)
        if self.model:
            # a host's region and an answer's doubts are those of the model that answered
            call = call._replace(
                provider=self.provider or call.provider,
                model=self.model,
                request_model=self.model,
                host="",
                geo="",
                doubts=(),
            )
        return call


@dataclass
class Comparison:
    """The calls of one feature: what they cost, and what they would have. USD."""

    feature: str | None
    calls: int = 0
    cost_usd: Decimal = Decimal(0)
    otherwise_usd: Decimal = Decimal(0)
    not_comparable: int = 0
    """Calls that have no price, or would have none: they are in neither sum."""
    estimated: int = 0
    """Calls whose other price is an estimate: the table lacks a rate of theirs."""


def compare(
    ledger: Ledger,
    since: datetime,
    until: datetime,
    change: Change,
    *,
    now_model: str = "",
    progress: Callable[[int, int], None] = lambda _, __: None,
) -> list[Comparison]:
    """The calls of a window that a provider has sold, by feature, the largest difference first.

    Args:
        ledger: an open ledger.
        since: start of the window, inclusive.
        until: end of the window, exclusive.
        change: what would have been different.
        now_model: only calls whose request or response model is this one; "" for all.
        progress: called with (days done, days in total).

    Raises:
        DatabaseError: the ledger could not be queried.
    """
    by_feature: dict[str | None, Comparison] = {}
    text = statement("prices/calls", db=f"`{ledger.target.database}`", columns=", ".join(COLUMNS))
    days = max(1, -(-(until - since) // timedelta(days=1)))
    for number in range(days):
        begin = since + timedelta(days=number)
        window = {"since": begin, "until": min(begin + timedelta(days=1), until)}
        parameters: dict[str, Any] = {**window, "model": now_model, "excluded": list(NOT_REPRICED)}
        _add(by_feature, ledger.query(text, parameters).rows, change)
        progress(number + 1, days)
    return sorted(by_feature.values(), key=lambda c: -abs(c.otherwise_usd - c.cost_usd))


def _add(by_feature: dict[str | None, Comparison], rows: Sequence[tuple[Any, ...]], change: Change) -> None:
    for row in rows:
        values = dict(zip(COLUMNS, row, strict=True))
        comparison = by_feature.setdefault(values["feature"], Comparison(values["feature"]))
        comparison.calls += 1
        price: Price = change.of(billed_call(values)).price()
        if price.total_picousd is None or values["cost_usd"] is None:
            comparison.not_comparable += 1
            continue
        comparison.cost_usd += values["cost_usd"]
        comparison.otherwise_usd += Decimal(price.total_picousd).scaleb(-12)
        comparison.estimated += "estimated" in price.flags


def _without_cache(usage: Usage) -> Usage:
    """The usage with everything cached as plain input of its modality."""
    counts = {name: getattr(usage, name) for name in METERS}
    for cached, plain in (*READ_AS.items(), *dict.fromkeys(("cache_write", *WRITE_PARTS), "input").items()):
        counts[plain] += counts.pop(cached)
    return Usage(**counts, reported_total=usage.reported_total)
