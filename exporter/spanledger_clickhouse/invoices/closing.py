"""Closes a month: seals what the ledger and the invoice said, what explains the difference, and who closed it.

A closed month is not changed. What comes later (late rows, a price that was put right) is an adjustment that the next month to be
closed carries: the sealed costs and the adjustments add up to what the ledger has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final

from spanledger_clickhouse.budgets.audit import actor
from spanledger_clickhouse.budgets.table import insert
from spanledger_clickhouse.database.connection import DatabaseError
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.invoices import reconcile as reconciling
from spanledger_clickhouse.invoices.reconcile import CAUSES, Residual

ZERO: Final = Decimal(0)
COLUMNS: Final = [
    "month", "provider", "invoiced_usd", "ledger_usd", "calls", "adjustments_usd", "causes", "unexplained_usd", "closed_by", "note", "is_open",
]  # fmt: skip


class ClosingError(DatabaseError):
    """The month cannot be closed; the message says why, and what to do."""


@dataclass(frozen=True)
class Statement:
    """One provider's month, as it is sealed. Amounts in USD."""

    month: date
    provider: str
    invoiced: Decimal
    ledger: Decimal
    calls: int
    causes: dict[str, Decimal]
    """Cause of the difference -> how much of it; see `reconcile.CAUSES`."""
    unexplained: Decimal
    """The sum of the remainders, each without its sign: two that cancel out are no explanation."""
    adjustments: Decimal
    """What the ledger has of earlier closed months beyond what was sealed and carried: this month carries it."""
    uncovered: tuple[date, ...] = ()
    """Days on which the ledger has spend, and the invoice no line."""

    @property
    def unexplained_share(self) -> float:
        """Of what was invoiced or, where credits make that less, of what the ledger has."""
        return self.share_of(self.unexplained)

    def share_of(self, amount: Decimal) -> float:
        return reconciling.share_of(amount, self.invoiced, self.ledger)


def next_month(month: date) -> date:
    """The first day of the month after."""
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def statements(
    ledger: Ledger,
    month: date,
    project_by: str = "provider",
    *,
    without_invoice: Iterable[str] = (),
    now: datetime | None = None,
) -> list[Statement]:
    """What would be sealed, by provider.

    Args:
        ledger: an open ledger, with the month's invoices (`spanledger reconcile`).
        month: its first day.
        project_by: as of `reconcile`.
        without_invoice: providers that send none for it.
        now: default: the present.

    Raises:
        ClosingError: the month is not over, or an invoice is missing or does not cover it.
    """
    end = next_month(month)
    if (now or datetime.now(UTC)).date() < end:
        raise ClosingError(f"{month:%Y-%m} is not over: it can be closed from {end} on")
    lines = reconciling.stored_invoice(ledger, month, end - timedelta(days=1))
    spent = {
        str(provider): (cost, calls, set(days))
        for provider, cost, calls, days in ledger.query(
            statement("invoices/month_by_provider"), {"first": month, "end": end}
        ).rows
    }
    invoiced = {line.provider for line in lines}
    missing = sorted(spent.keys() - invoiced - set(without_invoice))
    if missing:
        raise ClosingError(
            f"there is no invoice of {', '.join(missing)} for {month:%Y-%m}: run `spanledger reconcile FILE` "
            f"(or --fetch), or close with --without-invoice {missing[0]}"
        )
    residuals = reconciling.reconcile(ledger, lines, project_by) if lines else []
    carried = _adjustments(ledger, month)
    sealed: list[Statement] = []
    for provider in sorted(spent.keys() | invoiced | carried.keys()):
        cost, calls, days = spent.get(provider, (ZERO, 0, set[date]()))
        own = [residual for residual in residuals if residual.provider == provider]
        part = _statement(month, provider, own, cost, calls, carried.get(provider, ZERO))
        billed = {line.day for line in lines if line.provider == provider}
        sealed.append(replace(part, uncovered=tuple(sorted(days - billed))) if billed else part)
    return sealed


def _statement(
    month: date, provider: str, residuals: Sequence[Residual], ledger_usd: Decimal, calls: int, adjustments: Decimal
) -> Statement:
    causes = {cause: sum((r.causes[cause] for r in residuals), ZERO) for cause in CAUSES}
    known_days = sum((r.ledger for r in residuals), ZERO)
    causes = {cause: amount for cause, amount in causes.items() if amount}
    if known_days != ledger_usd and residuals:
        causes["not_invoiced_days"] = known_days - ledger_usd
    return Statement(
        month,
        provider,
        sum((r.invoiced for r in residuals), ZERO),
        ledger_usd,
        calls,
        causes,
        sum((abs(r.unexplained) for r in residuals), ZERO),
        adjustments,
    )


def _adjustments(ledger: Ledger, month: date) -> dict[str, Decimal]:
    """Provider -> what its earlier closed months have cost beyond what was sealed and carried so far."""
    rows = ledger.query(statement("invoices/adjustments"), {"month": month}).rows
    return {str(provider): amount for provider, amount in rows if amount}


def closed(ledger: Ledger, month: date) -> bool:
    """Whether a month is closed."""
    query = "SELECT count() FROM closed_months FINAL WHERE month = {month:Date} AND NOT is_open"
    return bool(ledger.query(query, {"month": month}).rows[0][0])


def seal(ledger: Ledger, sealed: Sequence[Statement], note: str = "", *, is_open: bool = False) -> None:
    """Write statements, or open them again.

    Raises:
        DatabaseError: ClickHouse refused them.
    """
    rows = [
        [
            s.month,
            s.provider,
            s.invoiced,
            s.ledger,
            s.calls,
            s.adjustments,
            {**s.causes},
            s.unexplained,
            actor(),
            note,
            int(is_open),
        ]
        for s in sealed
    ]
    insert(ledger, "closed_months", COLUMNS, rows)
