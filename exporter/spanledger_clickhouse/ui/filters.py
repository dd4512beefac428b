"""The period, the dimension and the conditions that a page's address holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlencode

from spanledger_clickhouse.report.spending import EXPRESSIONS, FIRST_YEAR, LAST_YEAR, Scope


class BadQuestionError(Exception):
    """A page's address is not valid; the message says why."""


@dataclass(frozen=True)
class Filters:
    """The period, the dimension and the conditions of a page's address."""

    first: date
    last: date
    by: str
    where: tuple[tuple[str, str], ...]

    @property
    def since(self) -> datetime:
        return midnight(self.first)

    @property
    def until(self) -> datetime:
        return midnight(self.last + timedelta(days=1))

    def scope(self, database: str) -> Scope:
        return Scope(database, self.since, self.until, self.where)

    def link(
        self,
        path: str,
        *,
        by: str | None = None,
        where: tuple[str, str] | None = None,
        without: tuple[str, str] | None = None,
    ) -> str:
        """An address with the same period and conditions; `where` takes the place of those of its dimension, `without` leaves one out."""
        conditions = [*(c for c in self.where if where is None or c[0] != where[0]), *([where] if where else [])]
        query = [("from", self.first), ("to", self.last), ("by", by or self.by)]
        query += [("where", f"{name}={value}") for name, value in conditions if (name, value) != without]
        return f"{path}?{urlencode(query)}"


def filters_of(parameters: Sequence[tuple[str, str]], today: date) -> Filters:
    """The filters in an address; by default the month to date by feature.

    Raises:
        BadQuestionError: a day, a dimension or a condition is none.
    """
    given = dict(parameters)
    try:
        first = date.fromisoformat(given["from"]) if given.get("from") else today.replace(day=1)
        last = date.fromisoformat(given["to"]) if given.get("to") else today
    except ValueError:
        raise BadQuestionError("a day is written 2026-10-31") from None
    if first.year < FIRST_YEAR or last.year > LAST_YEAR:
        raise BadQuestionError(f"days are from {FIRST_YEAR} to {LAST_YEAR}")
    if first > last:
        raise BadQuestionError(f"{first} is after {last}")
    by = given.get("by") or "feature"
    where = tuple(
        (name, value) for key, text in parameters if key == "where" and text for name, _, value in [text.partition("=")]
    )
    for name in (by, *(name for name, _ in where)):
        if name not in EXPRESSIONS:
            raise BadQuestionError(f"{name!r} is none of {', '.join(EXPRESSIONS)}")
    return Filters(first, last, by, where)


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
