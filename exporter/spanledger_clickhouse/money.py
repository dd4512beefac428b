"""Amounts for people: one function for reports, alerts and commands, in US dollars or in the currency of a report."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from typing import Any, Final, NamedTuple

SIGNS: Final = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥"}
WHOLE: Final = frozenset({"JPY", "KRW"})
"""Currencies without a smaller unit."""


CENTS_OF_CENTS: Final = 4
"""Decimals of an amount below one."""

SMALLEST: Final = Decimal(1).scaleb(-12)


class Shown(NamedTuple):
    currency: str = "USD"
    per_usd: Decimal = Decimal(1)


DOLLARS: Final = Shown()
_shown: Final[ContextVar[Shown]] = ContextVar("spanledger_currency", default=DOLLARS)


@contextmanager
def shown_in(currency: str, per_usd: Decimal) -> Generator[None]:
    """Show amounts in another currency: `per_usd` is what one US dollar costs in it."""
    token = _shown.set(Shown(currency, per_usd))
    try:
        yield
    finally:
        _shown.reset(token)


def currency_note() -> str:
    """What has to be said of amounts that are not in US dollars; "" of dollars."""
    shown = _shown.get()
    return (
        ""
        if shown == DOLLARS
        else f"Amounts in {shown.currency}: one US dollar was {shown.per_usd:.4f} {shown.currency} on average."
    )


def currency_sign() -> str:
    """The sign of the amounts that are shown, or the code of their currency."""
    currency = _shown.get().currency
    return SIGNS.get(currency, currency)


def usd(amount: Any) -> str:
    """An amount in US dollars: two decimals, four below one, three digits below a cent; "-" if it is unknown, "-$0.02"."""
    if amount is None:
        return "-"
    shown = _shown.get()
    value = Decimal(str(amount)) * shown.per_usd
    size = abs(value)
    if size >= 1 or size == 0:
        places = 0 if shown.currency in WHOLE else 2
    elif size >= Decimal("0.01"):
        places = CENTS_OF_CENTS
    else:
        places = min(12, 2 - size.adjusted())
    text = f"{size:,.{places}f}"
    if places > CENTS_OF_CENTS:
        text = text.rstrip("0") if size >= SMALLEST else "0.00"
    sign = "-" if value < 0 and any(digit in "123456789" for digit in text) else ""
    symbol = SIGNS.get(shown.currency)
    return f"{sign}{symbol}{text}" if symbol else f"{sign}{text} {shown.currency}"
