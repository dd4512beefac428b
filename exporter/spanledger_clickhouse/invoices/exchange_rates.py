"""Exchange rates of days, from a table in the ledger: never a constant.

A rate is what one US dollar costs in another currency, on a day. They are imported from the files of the European Central Bank
(`eurofxref-hist.csv`: Date, USD, JPY, ...: what one euro costs), or from a CSV of day, currency, rate. On a day without a rate (a
weekend) that of the last day before it counts, for at most ten days.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final

from spanledger_clickhouse.database.connection import DatabaseError, reason
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.invoices.lines import InvoiceError, parse_amount, parse_day

USD: Final = "USD"
MAX_AGE_DAYS: Final = 10
"""Age of a rate up to which it counts: the longest holidays."""
PLACES: Final = Decimal(1).scaleb(-12)


@dataclass(frozen=True)
class ExchangeRates:
    """Rates by currency and day."""

    per_usd: dict[str, dict[date, Decimal]] = field(default_factory=dict[str, "dict[date, Decimal]"])
    """Currency -> day -> what one US dollar costs in it."""

    def usd(self, amount: Decimal, currency: str, day: date) -> Decimal:
        """An amount of another currency in US dollars, at the rate of the day.

        Raises:
            InvoiceError: there is no rate of that currency for that day.
        """
        return amount if currency in (USD, "$") else amount / self.rate(currency, day)

    def rate(self, currency: str, day: date) -> Decimal:
        """What one US dollar costs on a day."""
        if currency == USD:
            return Decimal(1)
        rates = self.per_usd.get(currency, {})
        for back in range(MAX_AGE_DAYS + 1):
            if (rate := rates.get(day - timedelta(days=back))) is not None:
                return rate
        raise InvoiceError(
            f"the amounts are in {currency}, and the ledger has no exchange rate of {currency} for {day}, nor for the ten days before: import the rates "
            "(`spanledger rates import eurofxref-hist.csv`), or add a column currency_conversion_rate"
        )


NO_RATES: Final = ExchangeRates()


def read(data: bytes) -> ExchangeRates:
    """Rates of a file of the European Central Bank, or of a CSV with the columns day, currency, rate (what one US dollar costs).

    Raises:
        InvoiceError: it is neither, or a rate is not a number above 0.
    """
    try:
        text = data.decode("utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        rows = list(csv.DictReader(io.StringIO(text, newline=None), delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvoiceError(f"the file cannot be read: {error}") from error
    per_usd: dict[str, dict[date, Decimal]] = {}
    for row in rows:
        record = {str(name).strip().lower(): str(value).strip() for name, value in row.items() if name and value}
        if {"day", "currency", "rate"} <= record.keys():
            _put(per_usd, record["currency"].upper(), parse_day(record["day"]), _positive(record["rate"], delimiter))
        elif "date" in record and "usd" in record:
            if record["usd"] == "N/A":
                continue
            day, dollar = parse_day(record["date"]), _positive(record["usd"])
            _put(per_usd, "EUR", day, 1 / dollar)
            for name, value in record.items():
                if len(name) == 3 and name != "usd" and value != "N/A":
                    _put(per_usd, name.upper(), day, _positive(value) / dollar)
        else:
            raise InvoiceError(
                "no rates: expected the columns day, currency, rate (what one US dollar costs), or a file of the European "
                "Central Bank (Date, USD, JPY, ...)"
            )
    if not per_usd:
        raise InvoiceError("the file contains no rates")
    return ExchangeRates(per_usd)


def _positive(text: str, delimiter: str = ",") -> Decimal:
    rate = parse_amount(text, decimal_comma=delimiter != "," and "," in text)[0]
    if rate <= 0:
        raise InvoiceError(f"{text!r} is not a rate: it must be above 0")
    return rate


def _put(per_usd: dict[str, dict[date, Decimal]], currency: str, day: date, rate: Decimal) -> None:
    per_usd.setdefault(currency, {})[day] = rate.quantize(PLACES)


def store(ledger: Ledger, rates: ExchangeRates, source: str) -> int:
    """Store rates, in place of earlier ones of the same days; returns how many.

    Raises:
        DatabaseError: ClickHouse refused them.
    """
    from clickhouse_connect.driver.exceptions import Error

    rows = [[day, currency, rate, source] for currency, days in rates.per_usd.items() for day, rate in days.items()]
    try:
        table = f"`{ledger.target.database}`.exchange_rates"
        ledger.client.insert(table, rows, column_names=["day", "currency", "per_usd", "source"])
    except Error as error:
        raise DatabaseError(f"storing the rates failed: {reason(error)}") from error
    return len(rows)


def stored(ledger: Ledger, currencies: Iterable[str] = ()) -> ExchangeRates:
    """The rates of the ledger, of some currencies or of all."""
    query = "SELECT currency, day, per_usd FROM exchange_rates FINAL WHERE empty({some:Array(String)}) OR currency IN {some:Array(String)}"
    per_usd: dict[str, dict[date, Decimal]] = {}
    rows: list[tuple[Any, ...]] = ledger.query(query, {"some": sorted(currencies)}).rows
    for currency, day, rate in rows:
        per_usd.setdefault(str(currency), {})[day] = rate
    return ExchangeRates(per_usd)
