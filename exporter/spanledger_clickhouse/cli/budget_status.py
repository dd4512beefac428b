"""`spanledger budget list | test | history`: current, simulated and past status of budgets."""

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
from spanledger_clickhouse.budgets.status import BudgetStatus
from spanledger_clickhouse.cli.output import Usd, as_table, console, ledger, report_user_errors, show, spinner
from spanledger_clickhouse.database.ledger import Ledger, Result
from spanledger_clickhouse.database.statements import statement

PERIODS: Final = {"hour": 48, "day": 30, "month": 12}
"""How many past windows `history` shows."""

LIST_COLUMNS: Final = {
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
    "outlook": "String",
}


FIRST_YEAR: Final = 2000
"""The earliest year of --as-of: no ledger is older, and ClickHouse's times begin not much earlier."""
UTILISATION: Final = list(LIST_COLUMNS).index("utilisation")


@click.command("list")
@click.option("--as-of", type=click.DateTime(["%Y-%m-%d"]), help="The status at the end of that day (UTC).")
@click.option(
    "--all", "everyone", is_flag=True, help="Of a budget per user (tenant, ...), list everyone, not only the highest."
)
@as_table
@report_user_errors
def listed(as_of: datetime | None, everyone: bool, as_json: bool) -> None:
    """List each budget in its period: spent, projected, and whether it will last.

    `projected_usd` is the forecast for the end of the period; exhausted_at is when the amount is used up by it, and
    exhausted_earliest and exhausted_latest are the ends of its 80 % band (docs/budgets.md).

    \b
    Example:
      spanledger budget list --as-of 2026-03-15
    """
    if as_of is not None and as_of.year < FIRST_YEAR:
        raise click.UsageError(f"--as-of {as_of:%Y-%m-%d}: the ledger has no calls that old")
    with ledger() as database, spinner("adding up"):
        evaluation_time = _end_of_day(as_of) if as_of else datetime.now(UTC)
        statuses = list(budget_status.statuses(database, evaluation_time))
        idle_budgets = [
            budget
            for budget in budget_table.read(database).budgets
            if budget.name not in {s.budget.name for s in statuses}
        ]
    rows = [_status_row(status) for status in (statuses if everyone else _top_per_budget(statuses))]
    rows += [
        _status_row(BudgetStatus(budget, "", window(budget.window, evaluation_time, budget.zone), Decimal(0)))
        for budget in idle_budgets
    ]
    rows.sort(key=lambda row: -row[UTILISATION])
    show(
        Result(tuple(LIST_COLUMNS), tuple(LIST_COLUMNS.values()), rows),
        "Budgets",
        json_output=as_json,
        important=("value", "period", "spent_usd", "amount_usd", "utilisation", "outlook"),
    )


def _end_of_day(day: datetime) -> datetime:
    """The last second of a day, or now if that is earlier."""
    return min(datetime.now(UTC), day.replace(tzinfo=UTC) + timedelta(days=1, seconds=-1))


def _top_per_budget(statuses: list[BudgetStatus]) -> list[BudgetStatus]:
    names: set[str] = set()
    return [status for status in statuses if status.budget.name not in names and not names.add(status.budget.name)]


def _status_row(status: BudgetStatus) -> tuple[Any, ...]:
    budget = status.budget
    scope = "+".join(budget.scope) or "global"
    ahead = status.forecast
    exhausted = (None,) * 3 if ahead is None else (ahead.exhausted_at, ahead.exhausted_earliest, ahead.exhausted_latest)
    return (
        budget.name, scope, "+".join(budget.scope.values()), budget.per, status.value, budget.window, budget.action, _money(status.amount_usd),
        _money(status.spent_usd), round(status.utilisation, 4), _money(status.projected_usd), *exhausted, _outlook(status),
    )  # fmt: skip


def _outlook(status: BudgetStatus) -> str:
    """Whether the budget will last to the end of its period, in words."""
    ahead = status.forecast
    if status.spent_usd >= status.amount_usd:
        return "over"
    if ahead is None or ahead.exhausted_earliest is None:
        return "over, by the forecast" if ahead is not None and ahead.exhausted_at is not None else "holds"
    return "may not hold" if ahead.exhausted_at is None else "over, by the forecast"


def format_amount(budget: Budget) -> str:
    """An amount and its window as text, e.g. "10,000 USD a month"."""
    article = "an" if budget.window == "hour" else "a"
    return f"{Decimal(budget.amount_picousd).scaleb(-12).normalize():,f} USD {article} {budget.window}"


def _money(amount: Decimal | None) -> Decimal | None:
    return None if amount is None else amount.quantize(Decimal("0.000001"))


# --- the past -----------------------------------------------------------------------------------------------


@click.command("test")
@click.argument("name")
@click.option("--amount", type=Usd(), help="Simulate this amount instead of the current one.")
@click.option("--days", default=90, show_default=True, type=click.IntRange(1, 400), help="How far back.")
@as_table
@report_user_errors
def tried(name: str, amount: Decimal | None, days: int, as_json: bool) -> None:
    """Show when the budget NAME would have crossed its thresholds in the past, to the quarter hour.

    Of a budget per user (tenant, ...), only those who crossed a threshold are shown.

    \b
    Example:
      spanledger budget test all --amount 8000
    """
    with ledger() as database, spinner("adding up"):
        budget = _get_budget(database, name)
        if amount is not None:
            budget = budget_table.with_amount(budget, amount)
        since = window(budget.window, datetime.now(UTC) - timedelta(days=days), budget.zone).start
        rows = list(_threshold_crossings(budget, _quarter_hour_costs(database, budget, since)))
    words = [f"crossed {threshold * 100:g}%" for threshold in budget.thresholds]
    columns = (budget.window, *([budget.per] if budget.per else []), "spent_usd", "utilisation", *words)
    types = ("String", *(["String"] if budget.per else []), "Decimal", "Float64", *["String"] * len(words))
    title = f"Budget {name} of {format_amount(budget)}"
    show(Result(columns, types, rows), title, json_output=as_json, important=(columns[-1],))


def _get_budget(database: Ledger, name: str) -> Budget:
    budget = next((candidate for candidate in budget_table.read(database).budgets if candidate.name == name), None)
    if budget is None:
        raise click.ClickException(f"there is no budget {name!r}; see `spanledger budget list`")
    return budget


def _quarter_hour_costs(database: Ledger, budget: Budget, since: datetime) -> list[tuple[datetime, str, Decimal]]:
    """Costs as (quarter hour, value of `per`, cost), in order of time."""
    query = statement(
        "budgets/quarter_hours", value=budget_status.value_sql(budget), scope=budget_status.scope_sql(budget)
    )
    rows = database.query(query, {"since": since, **budget.scope}).rows
    return [(quarter, value, cost) for quarter, value, cost in rows]


def _threshold_crossings(budget: Budget, quarters: list[tuple[datetime, str, Decimal]]) -> Iterator[tuple[Any, ...]]:
    """Yields a row for each window (and value): spent, share, and when each threshold was crossed, or None."""
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
            yield (_window_label(budget, start), *([value] if budget.per else []), spent, float(spent / amount), *times)


def _window_label(budget: Budget, start: datetime) -> str:
    """A window's label, in the budget's time zone."""
    form = {"hour": "%Y-%m-%d %H:%M", "day": "%Y-%m-%d", "month": "%Y-%m"}[budget.window]
    return start.astimezone(budget.zone).strftime(form)


@click.command("history")
@click.argument("name")
@click.option("--periods", type=click.IntRange(1, 400), help="How many periods; default: 48 hours, 30 days, 12 months.")
@as_table
@report_user_errors
def history(name: str, periods: int | None, as_json: bool) -> None:
    """Show past periods of the budget NAME with spend and alerts, and who changed the budget when.

    Of a budget per user (tenant, ...), the top spender of each period is shown. Shares are of the current amount. For a
    removed budget, only its changes are shown.

    \b
    Example:
      spanledger budget history all --periods 6
    """
    with ledger() as database, spinner("adding up"):
        changes = database.query(statement("budgets/changes_of_budget"), {"name": name})
        if changes.rows and changes.rows[-1][1] == "remove":
            show(changes, f"Changes of {name} (removed)", json_output=as_json)
            return
        budget = _get_budget(database, name)
        alerts = _alerts_by_window(database, name)
        rows = list(_history_rows(database, budget, periods or PERIODS[budget.window], alerts))
    columns = (budget.window, *([budget.per] if budget.per else []), "spent_usd", "utilisation", "alerts")
    types = ("String", *(["String"] if budget.per else []), "Decimal", "Float64", "Array")
    title = f"Budget {name} of {format_amount(budget)}"
    show(Result(columns, types, rows), title, json_output=as_json)
    if not as_json and changes.rows:
        console().print()
        show(changes, "Changes", json_output=False)


def _alerts_by_window(database: Ledger, name: str) -> dict[datetime, list[str]]:
    """Start of a window -> its alerts as text: threshold, value, time, and whether one was delivered."""
    alerts: dict[datetime, list[str]] = {}
    for start, value, threshold, alert_time, delivered in database.query(
        statement("budgets/alerts_of_budget"), {"name": name}
    ).rows:
        how = "" if delivered else " (not delivered)"
        alert = f"{threshold * 100:g}% {value} {alert_time:%Y-%m-%d %H:%M}{how}"
        alerts.setdefault(start, []).append(alert.replace("  ", " "))
    return alerts


def _history_rows(
    database: Ledger, budget: Budget, count: int, alerts: dict[datetime, list[str]]
) -> Iterator[tuple[Any, ...]]:  # fmt: skip
    moment = datetime.now(UTC)
    for _ in range(count):
        running = window(budget.window, moment, budget.zone)
        spent = budget_status.spending(database, budget, running.start, running.end)
        value, amount = spent[0] if spent else ("", Decimal(0))
        share = float(amount / Decimal(budget.amount_picousd).scaleb(-12))
        yield (
            _window_label(budget, running.start),
            *([value] if budget.per else []),
            amount,
            share,
            alerts.get(running.start, []),
        )
        moment = running.start - timedelta(microseconds=1)


STATUS_COMMANDS: Final = (listed, tried, history)
