"""Reconciles an invoice with the ledger: explains the variance (residual) of each day, project and model.

    residual = invoiced - ledger = the sum of `CAUSES` + unexplained

What the invoice itself says is not usage (taxes, credits, refunds, commitments) and the discounts that were agreed are taken as they
stand. Then the other causes are
applied in their order, each limited by its own evidence, so they always add up to the residual; the remainder is `unexplained`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple, cast

from spanledger.semconv.dimensions import DIMENSIONS
from spanledger_clickhouse.database.connection import DatabaseError, reason
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.invoices.lines import USAGE, InvoiceLine, Key, grouped, model_key
from spanledger_clickhouse.prices import repricing

ZERO: Final = Decimal(0)
PICODOLLAR: Final = Decimal(1).scaleb(-12)
STATED: Final = ("tax", "credit", "refund", "commitment")
"""Kinds of lines that are no usage: they explain themselves."""
CAUSES: Final[tuple[str, ...]] = (
    "rounding", *STATED, "contract", "unpriced", "unattributed", "lost_rows", "duplicates", "price", "tier", "maybe_billed", "other_account", "outside",
)  # fmt: skip
MATERIAL: Final = Decimal("0.01")
"""A remainder below this is not worth pricing the calls of its days again."""

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


class Evidence(NamedTuple):
    """What else the ledger knows that can explain a residual."""

    duplicates: Mapping[Key, Decimal] = {}
    """Cost of responses that have more than one row, beyond one row each."""
    price_changes: Mapping[Key, Decimal] = {}
    """What pricing the calls again, by the prices in force now, would add to their cost, or take from it."""
    discounts: Mapping[Key, Decimal] = {}
    """What negotiated discounts take off the cost."""
    lost_rows: Mapping[date, Decimal] = {}
    """What the rows have cost that processes numbered and that never arrived: nobody knows their provider and model."""


NO_EVIDENCE: Final = Evidence()


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
    side = _LedgerSide(ledger, lines, project_by)
    slices, evidence = side.slices(), Evidence(side.duplicates(), {}, side.discounts(), side.lost_rows())
    residuals = explain_variance(grouped(lines), slices, evidence)
    days = {residual.day for residual in residuals if abs(residual.unexplained) >= MATERIAL}
    changes = side.price_changes(days)
    return explain_variance(grouped(lines), slices, evidence._replace(price_changes=changes)) if changes else residuals


def share_of(amount: Decimal, invoiced: Decimal, ledger_usd: Decimal) -> float:
    """An amount as a share of what was invoiced or, where credits make that less, of what the ledger has."""
    whole = max(abs(invoiced), ledger_usd)
    return float(abs(amount) / whole) if whole else float(bool(amount))


class _LedgerSide:
    """What the ledger knows of the days and providers of an invoice, split as the invoice is."""

    def __init__(self, ledger: Ledger, lines: Sequence[InvoiceLine], project_by: str) -> None:
        self._ledger = ledger
        self._days = {(line.provider, line.day) for line in lines}
        self._splits = {
            provider: _split(line for line in lines if line.provider == provider and line.kind == USAGE)
            for provider in {line.provider for line in lines}
        }
        kind, label, name = project_by.partition(":")
        expression = "c.labels[{label:String}]" if label and kind == "label" else PROJECTS.get(project_by)
        if expression is None:
            raise DatabaseError(
                f"{project_by!r} is not a valid project mapping: use {', '.join(PROJECTS)} or label:<name>"
            )
        self._project = expression
        days = {line.day for line in lines}
        self._window = {"first": min(days), "last": max(days), "label": name}

    def _key(self, day: date, provider: str, project: str, model: str) -> Key | None:
        """The key of the invoice's split; None for a day that is not of the provider's invoice."""
        if (provider, day) not in self._days:
            return None
        split = self._splits[provider]
        return day, provider, project if split.project else "", model_key(model) if split.model else ""

    def slices(self) -> dict[Key, LedgerSlice]:
        slices: dict[Key, LedgerSlice] = {}
        for day, provider, project, model, *figures in self._rows("invoices/ledger_by_day"):
            key = self._key(day, provider, project, model)
            if key is None:
                continue
            part = LedgerSlice(*figures)
            if self._splits[provider].rest and part.tools:  # the invoice has separate lines for tools
                rest = (*key[:3], "")
                slices[rest] = slices.get(rest, LedgerSlice()).plus(LedgerSlice(cost=part.tools))
                part = part._replace(cost=part.cost - part.tools)
            slices[key] = slices.get(key, LedgerSlice()).plus(part)
        return slices

    def duplicates(self) -> dict[Key, Decimal]:
        return self._by_key("invoices/duplicates_by_day")

    def discounts(self) -> dict[Key, Decimal]:
        return self._by_key("invoices/discounts_by_day")

    def _by_key(self, name: str) -> dict[Key, Decimal]:
        amounts: dict[Key, Decimal] = {}
        for *where, amount in self._rows(name):
            key = self._key(*where)
            if key is not None:
                amounts[key] = amounts.get(key, ZERO) + amount
        return amounts

    def lost_rows(self) -> dict[date, Decimal]:
        """Day -> what the rows have cost that processes numbered and that never arrived."""
        return dict(self._rows("invoices/lost_by_day"))

    def price_changes(self, days: Collection[date]) -> dict[Key, Decimal]:
        """What pricing the calls of these days again would change."""
        changes: dict[Key, Decimal] = {}
        for day in sorted(days):
            since = datetime(day.year, day.month, day.day, tzinfo=UTC)
            for row, change in repricing.differences(
                self._ledger, since, since + timedelta(days=1), self._project, self._window
            ):
                key = self._key(day, str(row["provider"]), str(row["project"]), str(row["model"]))
                if key is not None:
                    changes[key] = changes.get(key, ZERO) + change
        return changes

    def _rows(self, name: str) -> list[tuple[Any, ...]]:
        return self._ledger.query(
            statement(name, project=self._project, discount=statement("contracts/discount")), self._window
        ).rows


def explain_variance(
    invoiced: dict[Key, list[InvoiceLine]], ledger_slices: dict[Key, LedgerSlice], evidence: Evidence = NO_EVIDENCE
) -> list[Residual]:
    """Explain the residual of each key (day, provider, project, model)."""
    unallocated = {
        key: ledger_slice.cost
        for key, ledger_slice in ledger_slices.items()
        if key[2] == "" and any(k[2] for k in invoiced)
    }
    lost = dict(evidence.lost_rows)
    known_projects = {key[1:3] for key in invoiced}
    residuals: list[Residual] = []
    for key in sorted(
        invoiced.keys() | ledger_slices.keys(), key=lambda k: (k[2] == "", k)
    ):  # unallocated last: see `pool`
        lines, ledger_slice = invoiced.get(key, []), ledger_slices.get(key, LedgerSlice())
        bill = sum((line.usd for line in lines), ZERO)
        usage_bill = sum((line.usd for line in lines if line.kind == USAGE), ZERO)
        pool = (key[0], key[1], "", key[3])
        is_of_another_account = bool(key[2]) and not lines and key[1:3] not in known_projects
        change = evidence.price_changes.get(key, ZERO)
        limits: dict[str, tuple[int | None, Decimal]] = {
            "rounding": (None, sum((line.rounding for line in lines), ZERO)),
            "unpriced": (1, _unpriced(ledger_slice, usage_bill)),
            "unattributed": (1, unallocated.get(pool, ZERO) if key[2] else ZERO),
            "lost_rows": (1, lost.get(key[0], ZERO) if ledger_slice.calls else ZERO),
            "duplicates": (-1, evidence.duplicates.get(key, ZERO)),
            "price": (1 if change > 0 else -1, abs(change)),
            "tier": (None, ledger_slice.estimated_rate_cost),
            "maybe_billed": (1, ledger_slice.maybe_billed * ledger_slice.mean_call_cost),
            "other_account": (-1, ledger_slice.cost if is_of_another_account else ZERO),
            "outside": (1, usage_bill if not ledger_slice.calls and not ledger_slice.cost else ZERO),
        }
        causes: dict[str, Decimal] = dict.fromkeys(CAUSES, ZERO)
        for line in lines:
            if line.kind in STATED:
                causes[line.kind] += line.usd
        # A discount that was agreed is expected: where the invoice does not have it, the rest shows that.
        causes["contract"] = -evidence.discounts.get(key, ZERO)
        remainder = bill - ledger_slice.cost - sum(causes.values(), ZERO)
        if key in unallocated:  # spend without a project: the part that was allocated to other projects
            causes["unattributed"] = unallocated[key] - ledger_slice.cost
            remainder -= causes["unattributed"]
        for cause, (sign, limit) in limits.items():
            if remainder == 0 or (sign is not None and (remainder > 0) != (sign > 0)):
                continue
            taken = min(abs(remainder), limit.quantize(PICODOLLAR)).copy_sign(remainder)
            causes[cause] += taken
            remainder -= taken
            if cause == "unattributed" and taken:
                unallocated[pool] -= taken
            elif cause == "lost_rows" and taken:
                lost[key[0]] -= taken
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


def unknown_providers(ledger: Ledger, names: Iterable[str]) -> list[str]:
    """Of providers, those that no call of the ledger has: their names may be spelt in another way there. Raises DatabaseError."""
    providers = {str(name) for (name,) in ledger.query("SELECT DISTINCT provider FROM llm_calls").rows}
    return sorted(set(names) - providers)


def store_invoice(ledger: Ledger, lines: Iterable[InvoiceLine]) -> None:
    """Store an invoice in the table `invoices`, replacing earlier lines of the same days and projects.

    Raises:
        DatabaseError: ClickHouse refused it.
    """
    from clickhouse_connect.driver.exceptions import Error

    columns = ("day", "provider", "project", "model", "kind", "amount_usd", "rounding_usd", "source")
    groups: dict[tuple[Any, ...], list[InvoiceLine]] = {}
    for line in lines:
        groups.setdefault((*line[:4], "" if line.kind == USAGE else line.kind), []).append(line)
    rows = [
        (*key, sum((line.usd for line in group), ZERO), sum((line.rounding for line in group), ZERO), group[0].source)
        for key, group in groups.items()
    ]
    sources = {key[:2]: group[0].source for key, group in groups.items()}
    rows += [(*key, ZERO, ZERO, "replaced") for key in _replaced_keys(ledger, groups, sources)]
    try:
        ledger.client.insert(f"`{ledger.target.database}`.invoices", rows, column_names=columns)
    except Error as error:
        raise DatabaseError(f"storing the invoice failed: {reason(error)}") from error


def stored_invoice(ledger: Ledger, first: date, last: date) -> list[InvoiceLine]:
    """The invoice lines that the ledger has of some days, both inclusive.

    Raises:
        DatabaseError: the ledger could not be queried.
    """
    rows = ledger.query(statement("invoices/stored"), {"first": first, "last": last}).rows
    return [
        InvoiceLine(day, provider, project, model, usd, source, 0, kind or USAGE, allowance)
        for day, provider, project, model, kind, usd, allowance, source in rows
    ]


def _replaced_keys(
    ledger: Ledger, lines: Collection[tuple[Any, ...]], sources: Mapping[tuple[Any, ...], str]
) -> list[tuple[Any, ...]]:
    """Stored keys that an invoice replaces: lines of its projects that it no longer has, and all lines of a day whose
    split by project has changed, or that are from another kind of report."""
    days = sorted(day for day, *_ in lines)
    stored_keys = ledger.query(
        statement("invoices/stored_lines"),
        {"first": days[0], "last": days[-1]},
    ).rows
    replaced_keys: list[tuple[Any, ...]] = []
    for day, provider in {key[:2] for key in lines}:
        new = {key[2] for key in lines if key[:2] == (day, provider)}
        stored = [key for key in stored_keys if key[:2] == (day, provider)]
        old = [key[:-1] for key in stored]
        replaced_keys += [key[:-1] for key in stored if key[-1] != sources[day, provider] and key[:-1] not in lines]
        split_alike = any(new) == any(key[2] for key in old)
        replaced_keys += [key for key in old if key not in lines and (key[2] in new or not split_alike)]
    return replaced_keys
