"""`spanledger budget list | test | history`: how budgets stand, stood, and would have stood."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import click

from spanledger.limits.periods import window
from spanledger.limits.policy import Budget
from spanledger_clickhouse.budgets import status as budget_status
from spanledger_clickhouse.budgets import table as budget_table
from spanledger_clickhouse.budgets.status import Standing
from spanledger_clickhouse.budgets.table import COLUMN_OF
from spanledger_clickhouse.cli.output import Usd, as_json, console, ledger, reported, show, working
from spanledger_clickhouse.database.ledger import Ledger, Result

PERIODS: Final = {"hour": 48, "day": 30, "month": 12}
"""How many past windows `history` shows."""

BANDS: Final = "SELECT name, exhausted_at, exhausted_earliest, exhausted_latest FROM "

LISTED: Final = {
    "name": "String",
    "scope": "String",
    "key": "String",
    "per": "String",
    "value": "String",
    "period": "String",
    "action": "String",
    "amount_usd": "Decimal",
    "spent_usd": "Decimal",
    "utilisation": "Float64",
    "projected_usd": "Decimal",
    "exhausted_at": "DateTime",
    "exhausted_earliest": "DateTime",
    "exhausted_latest": "DateTime",
}


FIRST_YEAR: Final = 2000
"""No ledger goes back before it, and ClickHouse's times not much."""
UTILISATION: Final = list(LISTED).index("utilisation")


@click.command("list")
@click.option("--as-of", type=click.DateTime(["%Y-%m-%d"]), help="As it was at the end of that day (UTC).")
@click.option(
    "--all", "everyone", is_flag=True, help="Of a budget per user (tenant, ...) each one, not only the first."
)
@as_json
@reported
def listed(as_of: datetime | None, everyone: bool, as_json: bool) -> None:
    """Each budget in its period: spent, projected, and when it will be used up at the present pace.

    \b
    Example:
      spanledger budget list --as-of 2026-03-15
    """
    if as_of is not None and as_of.year < FIRST_YEAR:
        raise click.UsageError(f"--as-of {as_of:%Y-%m-%d}: nothing was spent then")
    view = f"budget_status_at(as_of = '{_end_of(as_of):%Y-%m-%d %H:%M:%S}')" if as_of else "budget_status"
    with ledger() as database, working("adding up"):
        bands = {name: times for name, *times in database.query(BANDS + view).rows}
        evaluation_time = _end_of(as_of) if as_of else datetime.now(UTC)
        statuses = list(budget_status.standings(database, evaluation_time))
        idle_budgets = [
            budget for budget in budget_table.read(database).budgets if budget.name not in {s.budget.name for s in statuses}
        ]
    rows = [_listed(status, bands) for status in (statuses if everyone else _first(statuses))]
    rows += [_listed(Standing(budget, "", window(budget.window, evaluation_time, budget.zone), Decimal(0)), bands) for budget in idle_budgets]
    rows.sort(key=lambda row: -row[UTILISATION])
    show(Result(tuple(LISTED), tuple(LISTED.values()), rows), "Budgets (USD)", json_output=as_json)


def _end_of(day: datetime) -> datetime:
    """The last second of a day, if it is past."""
    return min(datetime.now(UTC), day.replace(tzinfo=UTC) + timedelta(days=1, seconds=-1))


def _first(statuses: list[Standing]) -> list[Standing]:
    names: set[str] = set()
    return [status for status in statuses if status.budget.name not in names and not names.add(status.budget.name)]


def _listed(status: Standing, bands: dict[str, list[Any]]) -> tuple[Any, ...]:
    budget = status.budget
    scope = "+".join(budget.scope) or "global"
    exhausted = bands.get(budget.name, [None, None, None])
    return (
        budget.name, scope, "+".join(budget.scope.values()), budget.per, status.value, budget.window, budget.action, _money(status.amount_usd),
        _money(status.spent_usd), round(status.utilisation, 4), _money(status.projected_usd), *exhausted,
    )  # fmt: skip


def amount_told(budget: Budget) -> str:
    """An amount and its window in words, e.g. "10,000 USD a month"."""
    article = "an" if budget.window == "hour" else "a"
    return f"{Decimal(budget.amount_picousd).scaleb(-12).normalize():,f} USD {article} {budget.window}"


def _money(amount: Decimal | None) -> Decimal | None:
    return None if amount is None else amount.quantize(Decimal("0.000001"))


# --- the past -----------------------------------------------------------------------------------------------


@click.command("test")
@click.argument("name")
@click.option("--amount", type=Usd(), help="Try this amount instead of the one that is set.")
@click.option("--days", default=90, show_default=True, type=click.IntRange(1, 400), help="How far back.")
@as_json
@reported
def tried(name: str, amount: Decimal | None, days: int, as_json: bool) -> None:
    """When the budget NAME would have told of its thresholds in the past, to the quarter of an hour.

    Of a budget per user (tenant, ...) only those are shown who passed one.

    \b
    Example:
      spanledger budget test all --amount 8000
    """
    with ledger() as database, working("adding up"):
        budget = _known(database, name)
        if amount is not None:
            budget = budget_table.with_amount(budget, amount)
        since = window(budget.window, datetime.now(UTC) - timedelta(days=days), budget.zone).start
        rows = list(_passed(budget, _quarters(database, budget, since)))
    words = [f"passed {threshold * 100:g}%" for threshold in budget.thresholds]
    columns = (budget.window, *([budget.per] if budget.per else []), "spent_usd", "used_share", *words)
    types = ("String", *(["String"] if budget.per else []), "Decimal", "Float64", *["String"] * len(words))
    title = f"Budget {name} of {amount_told(budget)}"
    show(Result(columns, types, rows), title, json_output=as_json)


def _known(database: Ledger, name: str) -> Budget:
    budget = next((candidate for candidate in budget_table.read(database).budgets if candidate.name == name), None)
    if budget is None:
        raise click.ClickException(f"there is no budget {name!r}; see `spanledger budget list`")
    return budget


def _quarters(database: Ledger, budget: Budget, since: datetime) -> list[tuple[datetime, str, Decimal]]:
    """(quarter of an hour, value of `per`, what was spent in it), in order."""
    value = f"ifNull(toString(c.{COLUMN_OF[budget.per]}), '')" if budget.per else "''"
    conditions = ["c.start_time >= {since:DateTime('UTC')}", "isNotNull(c.cost_usd)"]
    conditions += [f"c.{COLUMN_OF[dimension]} = {{{dimension}:String}}" for dimension in budget.scope]
    statement = (
        f"SELECT toStartOfFifteenMinutes(c.start_time) AS quarter, {value} AS value, sum(c.cost_usd) FROM llm_calls AS c FINAL "
        f"WHERE {' AND '.join(conditions)} "
        f"GROUP BY quarter, value {'HAVING value != {nobody:String}' if budget.per else ''} ORDER BY quarter"
    )
    rows = database.query(statement, {"since": since, "nobody": "", **budget.scope}).rows
    return [(quarter, value, cost) for quarter, value, cost in rows]


def _passed(budget: Budget, quarters: list[tuple[datetime, str, Decimal]]) -> Iterator[tuple[Any, ...]]:
    """A row for each window (and value): spent, share, and when each threshold was passed, or None."""
    amount = Decimal(budget.amount_picousd).scaleb(-12)
    sums: dict[tuple[datetime, str], list[Any]] = {}
    for quarter, value, cost in quarters:
        key = window(budget.window, quarter, budget.zone).start, value
        row = sums.setdefault(key, [Decimal(0), [None] * len(budget.thresholds)])
        row[0] += cost
        for number, threshold in enumerate(budget.thresholds):
            if row[1][number] is None and row[0] >= amount * Decimal(str(threshold)):
                row[1][number] = f"{quarter.astimezone(budget.zone):%Y-%m-%d %H:%M}"
    for (start, value), (spent, times) in sums.items():
        if not budget.per or any(times):
            yield (_named(budget, start), *([value] if budget.per else []), spent, float(spent / amount), *times)


def _named(budget: Budget, start: datetime) -> str:
    """A window's name, on the budget's clock."""
    form = {"hour": "%Y-%m-%d %H:%M", "day": "%Y-%m-%d", "month": "%Y-%m"}[budget.window]
    return start.astimezone(budget.zone).strftime(form)


TOLD: Final = """
SELECT window_start, value, threshold, min(at) AS first, countIf(state = 'delivered') > 0
FROM budget_alerts WHERE budget = {name:String}
GROUP BY window_start, value, threshold ORDER BY first
"""
CHANGES: Final = """
SELECT at, kind, who, reason FROM limit_events WHERE dimension = 'budget' AND key = {name:String} ORDER BY at
"""


@click.command("history")
@click.argument("name")
@click.option("--periods", type=click.IntRange(1, 400), help="How many; default: 48 hours, 30 days, 12 months.")
@as_json
@reported
def history(name: str, periods: int | None, as_json: bool) -> None:
    """What was spent of the budget NAME in past periods, what was told of it, and who changed it when.

    Of a budget per user (tenant, ...) the one who spent most in each period. The amount is the present one. Of a budget that
    was removed only who changed it.

    \b
    Example:
      spanledger budget history all --periods 6
    """
    with ledger() as database, working("adding up"):
        changes = database.query(CHANGES, {"name": name})
        if changes.rows and changes.rows[-1][1] == "remove":
            show(changes, f"Changes of {name}, which is no budget any more", json_output=as_json)
            return
        budget = _known(database, name)
        alerts = _told(database, name)
        rows = list(_periods(database, budget, periods or PERIODS[budget.window], alerts))
    columns = (budget.window, *([budget.per] if budget.per else []), "spent_usd", "utilisation", "told")
    types = ("String", *(["String"] if budget.per else []), "Decimal", "Float64", "Array")
    title = f"Budget {name} of {amount_told(budget)}"
    show(Result(columns, types, rows), title, json_output=as_json)
    if not as_json and changes.rows:
        console().print()
        show(changes, "Changes", json_output=False)


def _told(database: Ledger, name: str) -> dict[datetime, list[str]]:
    """Start of a window -> what was told in it, of whom, and whether it was delivered to anybody."""
    alerts: dict[datetime, list[str]] = {}
    for start, value, threshold, alert_time, delivered in database.query(TOLD, {"name": name}).rows:
        how = "" if delivered else " (not delivered)"
        alert = f"{threshold * 100:g}% {value} {alert_time:%Y-%m-%d %H:%M}{how}"
        alerts.setdefault(start, []).append(alert.replace("  ", " "))
    return alerts


def _periods(
    database: Ledger, budget: Budget, count: int, alerts: dict[datetime, list[str]]
) -> Iterator[tuple[Any, ...]]:  # fmt: skip
    moment = datetime.now(UTC)
    for _ in range(count):
        running = window(budget.window, moment, budget.zone)
        spent = budget_status.spending(database, budget, running.start, running.end)
        value, amount = spent[0] if spent else ("", Decimal(0))
        share = float(amount / Decimal(budget.amount_picousd).scaleb(-12))
        yield (
            _named(budget, running.start),
            *([value] if budget.per else []),
            amount,
            share,
            alerts.get(running.start, []),
        )
        moment = running.start - timedelta(microseconds=1)


QUESTIONS: Final = (listed, tried, history)
