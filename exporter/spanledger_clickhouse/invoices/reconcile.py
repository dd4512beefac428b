"""Reconciles an invoice with the ledger: explains the variance (residual) of each day, project and model.

    residual = invoiced - ledger = rounding + unpriced + unattributed + tier + maybe_billed + outside + unexplained

The causes are applied in that order, each limited by its own evidence, so they always add up to the residual; the
remainder is `unexplained`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final, NamedTuple, cast

from spanledger.semconv.dimensions import DIMENSIONS
from spanledger_clickhouse.database.connection import DatabaseError, reason
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.invoices.provider_exports import InvoiceLine, grouped, model_key

ZERO: Final = Decimal(0)
PICODOLLAR: Final = Decimal(1).scaleb(-12)
CAUSES: Final[tuple[str, ...]] = ("rounding", "unpriced", "unattributed", "tier", "maybe_billed", "outside")

PROJECTS: Final = {
    "provider": "c.attributes['spanledger.provider.project']",
    "service": "c.service",
    "environment": "c.environment",
    **{row.label: f"c.{row.column}" for row in DIMENSIONS.values() if not row.is_identifier},
}
"""Key that maps a call to a provider project -> its SQL expression."""


class LedgerSlice(NamedTuple):
    """Ledger totals of one day, provider, project and model."""

    cost: Decimal = ZERO
    tools: Decimal = ZERO
    calls: int = 0
    unpriced: int = 0
    priced_tokens: int = 0
    unpriced_tokens: int = 0
    estimated_rate_cost: Decimal = ZERO
    """Cost of calls whose service tier or batch rate was estimated."""
    maybe_billed: int = 0
    """Attempts whose response was lost."""

    def plus(self, other: LedgerSlice) -> LedgerSlice:
        return LedgerSlice(*(cast("Any", a) + b for a, b in zip(self, other, strict=True)))

    @property
    def mean_call_cost(self) -> Decimal:
        return self.cost / max(1, self.calls - self.unpriced)


@dataclass(frozen=True)
class Residual:
    """One day, project and model. Amounts in USD."""

    day: date
    provider: str
    project: str
    model: str
    invoiced: Decimal
    ledger: Decimal
    causes: dict[str, Decimal]
    """Part of the residual -> how much of it; see `CAUSES`."""
    unexplained: Decimal

    @property
    def residual(self) -> Decimal:
        return self.invoiced - self.ledger


Key = tuple[date, str, str, str]


class InvoiceSplit(NamedTuple):
    """Dimensions that a provider's invoice is split by."""

    project: bool
    model: bool
    rest: bool
    """Whether some lines have no model."""


def _split(lines: Iterable[InvoiceLine]) -> InvoiceSplit:
    keys = [(line.project, line.model) for line in lines]
    model = any(model for _, model in keys)
    return InvoiceSplit(any(project for project, _ in keys), model, model and not all(model for _, model in keys))


def reconcile(ledger: Ledger, lines: Sequence[InvoiceLine], project_by: str = "provider") -> list[Residual]:
    """Compare an invoice with the ledger, for the days and providers of the invoice.

    Args:
        ledger: an open ledger.
        lines: from `provider_exports.read`.
        project_by: how a call is mapped to a project: a key of `PROJECTS` or "label:<name>".

    Raises:
        DatabaseError: the ledger could not be queried.
    """
    splits = {
        provider: _split(line for line in lines if line.provider == provider)
        for provider in {line.provider for line in lines}
    }
    ledger_slices: dict[Key, LedgerSlice] = {}
    days = {line.day for line in lines}
    for day, provider, project, model, *figures in _query_ledger(ledger, min(days), max(days), project_by):
        if day not in days or provider not in splits:
            continue
        ledger_slice, split = LedgerSlice(*figures), splits[provider]
        key = (day, provider, project if split.project else "", model_key(model) if split.model else "")
        if split.rest and ledger_slice.tools:  # the invoice has separate lines for tools
            rest = (*key[:3], "")
            ledger_slices[rest] = ledger_slices.get(rest, LedgerSlice()).plus(LedgerSlice(cost=ledger_slice.tools))
            ledger_slice = ledger_slice._replace(cost=ledger_slice.cost - ledger_slice.tools)
        ledger_slices[key] = ledger_slices.get(key, LedgerSlice()).plus(ledger_slice)
    return explain_variance(grouped(lines), ledger_slices)


def explain_variance(invoiced: dict[Key, list[InvoiceLine]], ledger_slices: dict[Key, LedgerSlice]) -> list[Residual]:
    """Explain the residual of each key (day, provider, project, model)."""
    unallocated = {
        key: ledger_slice.cost
        for key, ledger_slice in ledger_slices.items()
        if key[2] == "" and any(k[2] for k in invoiced)
    }
    recorded_models = {(day, provider, model) for day, provider, _, model in ledger_slices}
    residuals: list[Residual] = []
    for key in sorted(
        invoiced.keys() | ledger_slices.keys(), key=lambda k: (k[2] == "", k)
    ):  # unallocated last: see `pool`
        lines, ledger_slice = invoiced.get(key, []), ledger_slices.get(key, LedgerSlice())
        bill = sum((line.usd for line in lines), ZERO)
        pool = (key[0], key[1], "", key[3])
        limits: dict[str, tuple[int | None, Decimal]] = {
            "rounding": (None, sum((Decimal(5).scaleb(-line.places - 1) for line in lines), ZERO)),
            "unpriced": (1, _unpriced(ledger_slice, bill)),
            "unattributed": (1, unallocated.get(pool, ZERO) if key[2] else ZERO),
            "tier": (None, ledger_slice.estimated_rate_cost),
            "maybe_billed": (1, ledger_slice.maybe_billed * ledger_slice.mean_call_cost),
            "outside": (1, bill if (key[0], key[1], key[3]) not in recorded_models else ZERO),
        }
        remainder = bill - ledger_slice.cost
        causes: dict[str, Decimal] = dict.fromkeys(CAUSES, ZERO)
        if key in unallocated:  # spend without a project: the part that was allocated to other projects
            causes["unattributed"] = unallocated[key] - ledger_slice.cost
            remainder -= causes["unattributed"]
        for cause, (sign, limit) in limits.items():
            if remainder == 0 or (sign == 1 and remainder < 0):
                continue
            taken = min(abs(remainder), limit.quantize(PICODOLLAR)).copy_sign(remainder)
            causes[cause] += taken
            remainder -= taken
            if cause == "unattributed" and taken:
                unallocated[pool] -= taken
        residuals.append(Residual(*key, bill, ledger_slice.cost, causes, remainder))
    return sorted(residuals, key=lambda r: (r.day, r.provider, r.project, r.model))


def _unpriced(ledger_slice: LedgerSlice, bill: Decimal) -> Decimal:
    """Estimated cost of unpriced calls: their tokens at the mean rate of the others, else the whole bill."""
    if not ledger_slice.unpriced:
        return ZERO
    if ledger_slice.calls == ledger_slice.unpriced:
        return bill
    if not ledger_slice.priced_tokens or not ledger_slice.unpriced_tokens:
        return ledger_slice.unpriced * ledger_slice.mean_call_cost
    return ledger_slice.cost * ledger_slice.unpriced_tokens / ledger_slice.priced_tokens


def _query_ledger(ledger: Ledger, first: date, last: date, project_by: str) -> list[tuple[Any, ...]]:
    kind, label, name = project_by.partition(":")
    parameters = {"first": first, "last": last, "label": name}
    expression = "c.labels[{label:String}]" if label and kind == "label" else PROJECTS.get(project_by)
    if expression is None:
        raise DatabaseError(f"{project_by!r} is not a valid project mapping: use {', '.join(PROJECTS)} or label:<name>")
    return ledger.query(statement("invoices/ledger_by_day", project=expression), parameters).rows


def store_invoice(ledger: Ledger, lines: Iterable[InvoiceLine]) -> None:
    """Store an invoice in the table `invoices`, replacing earlier lines of the same days and projects.

    Raises:
        DatabaseError: ClickHouse refused it.
    """
    from clickhouse_connect.driver.exceptions import Error

    columns = ("day", "provider", "project", "model", "amount_usd", "source")
    groups = grouped(lines)
    rows = [(*key, sum((line.usd for line in group), ZERO), group[0].source) for key, group in groups.items()]
    rows += [(*key, ZERO, "replaced") for key in _replaced_keys(ledger, groups)]
    try:
        ledger.client.insert(f"`{ledger.target.database}`.invoices", rows, column_names=columns)
    except Error as error:
        raise DatabaseError(f"storing the invoice failed: {reason(error)}") from error


def _replaced_keys(ledger: Ledger, lines: Collection[Key]) -> list[Key]:
    """Stored keys that an invoice replaces: lines of its projects that it no longer has, and all lines of a day whose
    split by project has changed."""
    days = sorted(day for day, *_ in lines)
    stored_keys = ledger.query(
        statement("invoices/stored_lines"),
        {"first": days[0], "last": days[-1]},
    ).rows
    replaced_keys: list[Key] = []
    for day, provider in {key[:2] for key in lines}:
        new = {key[2] for key in lines if key[:2] == (day, provider)}
        old = [key for key in stored_keys if key[:2] == (day, provider)]
        split_alike = any(new) == any(key[2] for key in old)
        replaced_keys += [key for key in old if key not in lines and (key[2] in new or not split_alike)]
    return replaced_keys
