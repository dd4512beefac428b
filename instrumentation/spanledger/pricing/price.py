"""The result of pricing: components in integer picodollars (1e-12 USD) whose plain sum is the total."""

from __future__ import annotations

from typing import Final, NamedTuple

from spanledger.semconv.usage import METERS, OTHER

PRICED: Final = "priced"
ZERO_PRICE: Final = "zero_price"
"""The price table lists this model as free."""
SELF_HOSTED: Final = "self_hosted"
"""Self-hosted server: an explicit zero."""
PROVIDER_REPORTED: Final = "provider_reported"
NOT_BILLED: Final = "not_billed"
"""The provider returned an error: nothing was billed, and no price is needed."""
CACHE_HIT: Final = "cache_hit"
"""A cache gave the answer: an explicit zero."""
NO_MODEL: Final = "unpriced:no_model"
NO_PRICE: Final = "unpriced:no_price"
NO_USAGE: Final = "unpriced:no_usage"
NEEDS_MAPPING: Final = "unpriced:needs_mapping"
PREPAID: Final = "prepaid"
"""It ran on capacity that is paid by time: no money for the call itself, and `computed_picousd` says what it would have cost."""
BILLED_ELSEWHERE: Final = "billed_elsewhere"
"""Somebody else pays for it (Anthropic's `bill_to`): `computed_picousd` says how much."""

ERROR: Final = "unpriced:error"
"""Pricing itself failed; `reprice` tries again."""

ATTO_PER_PICO: Final = 10**6

GROUP_OF: Final = {name: meter.group for name, meter in METERS.items()}
"""Meter -> its cost group; anything else that is charged (a provider's own total) is `OTHER`."""


class Component(NamedTuple):
    """quantity x rate = amount, rounded once."""

    meter: str
    """The usage meter that was charged, e.g. "cache_read"."""
    quantity: int
    """Tokens (or calls) of that meter."""
    rate: int
    """Attodollars (1e-18 USD) a unit, multipliers included."""
    field: str
    """The field of the price table that gave the rate."""
    amount: int
    """Picodollars."""


class Price(NamedTuple):
    """The cost of one call, or the reason why it is unpriced."""

    status: str
    """priced | zero_price | self_hosted | provider_reported | not_billed | cache_hit | unpriced:<reason>."""
    total_picousd: int | None = None
    """Picodollars; None exactly when the call is unpriced or was not billed."""
    components: tuple[Component, ...] = ()
    key: str | None = None
    """The table's key of the model."""
    source: str | None = None
    """Which table: override | file | litellm | bundled | retired | provider."""
    version: str | None = None
    flags: tuple[str, ...] = ()
    """exact, or the reason for a weaker match: alias, variant, home_vendor, archived, former (a price that held at the time of the call),
    tier_estimated, batch_estimated, proxy; `estimated` and what is not understood."""
    computed_picousd: int | None = None
    """The cost by the price table, where something else is the price (the provider's own figure, capacity that is paid)."""
    low_picousd: int | None = None
    high_picousd: int | None = None
    """Bounds of an estimate, where they are known."""

    @property
    def priced(self) -> bool:
        return self.total_picousd is not None

    def group_costs(self) -> dict[str, int]:
        """Cost group -> the sum of its components, in picodollars; groups without one are left out."""
        costs: dict[str, int] = {}
        for part in self.components:
            group = GROUP_OF.get(part.meter, OTHER)
            costs[group] = costs.get(group, 0) + part.amount
        return costs


def round_half_even(attousd: int, denominator: int = 1) -> int:
    """Attodollars, divided by the denominator, as picodollars: rounded once, ties to even."""
    unit = ATTO_PER_PICO * denominator
    quotient, rest = divmod(attousd, unit)
    return quotient + (rest * 2 > unit or (rest * 2 == unit and quotient & 1 == 1))
