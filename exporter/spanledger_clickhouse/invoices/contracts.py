"""Contracts with providers as rows: discounts, credits, commitments, capacity and seats (`effective_costs` applies them)."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from spanledger.runtime.untrusted_json import mapping
from spanledger_clickhouse.budgets.audit import actor
from spanledger_clickhouse.budgets.table import insert
from spanledger_clickhouse.database.connection import DatabaseError
from spanledger_clickhouse.database.ledger import Ledger

KINDS: Final = ("discount", "credit", "commitment", "capacity", "seats")
MONTHLY: Final = ("commitment", "capacity", "seats")
ENDLESS: Final = date(2149, 6, 6)
FIRST: Final = date(1970, 1, 1)
SMALLEST: Final = Decimal("0.000001")
LARGEST: Final = Decimal(10**12)
"""Per cent or USD, as the columns hold them."""
COLUMNS: Final = [
    "name",
    "kind",
    "provider",
    "model",
    "percent",
    "amount_usd",
    "since",
    "until",
    "note",
    "who",
    "is_deleted",
]
FIELDS: Final = ("kind", "provider", "model", "percent", "amount_usd", "since", "until", "note")


class ContractError(DatabaseError):
    """A contract that is not valid; the message says why."""


@dataclass(frozen=True)
class Contract:
    """What was agreed with a provider beside its price list."""

    name: str
    kind: str
    since: date
    provider: str = ""
    """gen_ai.provider.name; "": any."""
    model: str = ""
    """"": any; "gpt-5": that one, and its dated names ("gpt-5-2025-08-07"); "gpt-5*": those that begin so."""
    percent: Decimal = Decimal(0)
    """Of a discount."""
    amount_usd: Decimal = Decimal(0)
    """Of a credit in total; of the others a month."""
    until: date = ENDLESS
    """Exclusive."""
    note: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ContractError(f"{self.name}: {self.kind!r} is none of {', '.join(KINDS)}")
        if not self.name.strip():
            raise ContractError("a contract needs a name")
        self._check_days()
        self._check_amounts()

    def _check_days(self) -> None:
        if self.kind != "discount" and any(day.day != 1 for day in (self.since, self.until) if day != ENDLESS):
            raise ContractError(
                f"{self.name}: a {self.kind} is shared by month: let it begin and end on the first day of one"
            )
        if not FIRST <= self.since <= ENDLESS or self.until > ENDLESS:
            raise ContractError(f"{self.name}: days are from {FIRST} to {ENDLESS}")
        if self.since >= self.until:
            raise ContractError(f"{self.name}: it ends on {self.until}, which is not after {self.since}")

    def _check_amounts(self) -> None:
        if not (self.percent.is_finite() and self.amount_usd.is_finite()):
            raise ContractError(f"{self.name}: {self.percent} per cent, {self.amount_usd} USD: that is not a number")
        if self.kind == "discount":
            if not SMALLEST <= self.percent < 100:
                raise ContractError(f"{self.name}: a discount needs a percentage between 0 and 100")
            if self.amount_usd:
                raise ContractError(f"{self.name}: a discount has a percentage, not an amount")
        elif not SMALLEST <= self.amount_usd < LARGEST:
            raise ContractError(f"{self.name}: {self.kind} needs an amount in USD above 0, and below {LARGEST:,}")
        elif self.percent:
            raise ContractError(f"{self.name}: a {self.kind} has an amount, not a percentage")

    def shares_spend_with(self, other: Contract) -> bool:
        """Whether there may be calls that both apply to."""
        models = [(c.model.removesuffix("*"), c.model.endswith("*")) for c in (self, other)]
        (one, one_is_open), (two, two_is_open) = models
        same_model = (
            one == two
            or (not one or (one_is_open and two.startswith(one)))
            or (not two or (two_is_open and one.startswith(two)))
        )
        return same_model and ("" in (self.provider, other.provider) or self.provider == other.provider)


def store(ledger: Ledger, contracts: Sequence[Contract], *, is_deleted: bool = False) -> None:
    """Write contracts, in place of earlier ones of the same names.

    Raises:
        ContractError: two credits would be used up by the same spend.
        DatabaseError: ClickHouse refused them.
    """
    if not is_deleted:
        names = {contract.name for contract in contracts}
        _refuse_overlapping_credits([*(c for c in stored(ledger) if c.name not in names), *contracts])
    rows = [
        [
            c.name,
            c.kind,
            c.provider,
            c.model,
            c.percent,
            c.amount_usd,
            c.since,
            c.until,
            c.note,
            actor(),
            int(is_deleted),
        ]
        for c in contracts
    ]
    insert(ledger, "contracts", COLUMNS, rows)


def _refuse_overlapping_credits(contracts: Sequence[Contract]) -> None:
    in_order = sorted((c for c in contracts if c.kind == "credit"), key=lambda c: c.since)
    for number, one in enumerate(in_order):
        for other in in_order[number + 1 :]:
            if one.shares_spend_with(other) and one.since < other.until and other.since < one.until:
                raise ContractError(
                    f"{one.name} and {other.name} are credits for the same spend at the same time: which is used up first? Put them "
                    "together, or let the second begin when the first is used up"
                )


def stored(ledger: Ledger) -> list[Contract]:
    """The contracts of the ledger, by name."""
    query = "SELECT name, toString(kind), since, toString(provider), model, percent, amount_usd, until, note FROM contracts FINAL ORDER BY name"
    return [Contract(*row) for row in ledger.query(query).rows]


def read(file: Path) -> list[Contract]:
    """The contracts of a TOML file: [contract.NAME] with kind, since, provider, model, percent or amount_usd, until, note.

    Raises:
        ContractError: it is not valid; the message says where.
    """
    try:
        document: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ContractError(f"{file} cannot be read: {error}") from error
    if unknown := document.keys() - {"contract"}:
        raise ContractError(f"{file}: [{min(unknown)}] means nothing: write [contract.NAME]")
    contracts = [_contract(name, mapping(fields), file) for name, fields in mapping(document, "contract").items()]
    if not contracts:
        raise ContractError(f"{file} has no [contract.NAME]")
    return contracts


def _contract(name: str, fields: dict[str, Any], file: Path) -> Contract:
    if unknown := fields.keys() - set(FIELDS):
        raise ContractError(
            f"{file}: [contract.{name}] has a field {min(unknown)}, which means nothing ({', '.join(FIELDS)})"
        )
    if "kind" not in fields or "since" not in fields:
        raise ContractError(f"{file}: [contract.{name}] needs kind and since")
    return Contract(
        name,
        str(fields["kind"]),
        _day(fields["since"], name),
        str(fields.get("provider", "")),
        str(fields.get("model", "")),
        _number(fields.get("percent", 0), name),
        _number(fields.get("amount_usd", 0), name),
        _day(fields["until"], name) if "until" in fields else ENDLESS,
        str(fields.get("note", "")),
    )


def _day(value: object, name: str) -> date:
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        raise ContractError(f"{name}: {value!r} is not a day: write 2026-10-01") from None


def _number(value: object, name: str) -> Decimal:
    if isinstance(value, str | int | Decimal) and not isinstance(value, bool):
        with contextlib.suppress(InvalidOperation):
            return Decimal(value)
    raise ContractError(f"{name}: {value!r} is not a number")
