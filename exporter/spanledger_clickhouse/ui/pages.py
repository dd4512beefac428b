"""What the pages show: each asks the ledger, and returns titles, tables and charts; templates decide how they look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from typing import Any, Final
from urllib.parse import urlencode

from spanledger.pricing.price_table import prices as in_force
from spanledger.semconv.usage import METERS
from spanledger_clickhouse.budgets import status as budget_status
from spanledger_clickhouse.budgets.table import read as read_budgets
from spanledger_clickhouse.database.ledger import Ledger, Result
from spanledger_clickhouse.database.statements import statement, with_meter_sums
from spanledger_clickhouse.invoices import exchange_rates, provider_exports
from spanledger_clickhouse.invoices import reconcile as reconciling
from spanledger_clickhouse.money import usd
from spanledger_clickhouse.printable import format_cell
from spanledger_clickhouse.report import run_trees
from spanledger_clickhouse.report.queries import month_ahead
from spanledger_clickhouse.report.sections import percent_change, share
from spanledger_clickhouse.report.spending import EXPRESSIONS, TIMES, Query, Scope, column_of, period_before, spent
from spanledger_clickhouse.ui.filters import Filters, midnight
from spanledger_clickhouse.ui.panels import ROWS, Chart, Page, Panel, Row, panel, rows_of

COURSES: Final = 5
"""Values of a dimension whose course is drawn; each has its colour (style.css) and its dashes (app.js)."""
BREAKDOWNS: Final = ("user", "feature", "model")
LARGE: Final = 5_000_000
"""Calls from which a page has the rollup."""
CALL_DETAILS: Final = ("trace_id", "span_id", "duration_us", "time_to_first_chunk_us")
"""Columns of a call that its address or the time axis has."""


class NotThereError(Exception):
    """What a page's address names does not exist."""


# --- pages --------------------------------------------------------------------------------------------------------------


def spend(ledger: Ledger, filters: Filters, now: datetime) -> Page:
    """What was spent: the month against its budget, days, and any dimension."""
    scope = filters.scope(ledger.target.database)
    is_large = _is_large(ledger)
    total = scope.total(ledger, rolled_up=is_large)
    begin, end = period_before(filters.since, filters.until, now)
    before = Scope(ledger.target.database, begin, end, filters.where).total(ledger, rolled_up=is_large)
    stats = [
        ("Spend", usd(total.cost_usd or 0), f"{percent_change(total.cost_usd or Decimal(0), before.cost_usd or Decimal(0))} against {begin:%d %b} to {end - timedelta(seconds=1):%d %b}"),
        ("Calls", f"{total.calls:,}", f"{usd((total.cost_usd or 0) / total.calls)} each" if total.calls else ""),
        ("Without a price", f"{total.unpriced_calls:,}", "calls whose cost is unknown"),
        ("Not attributed", usd(total.unattributed_cost_usd or 0), f"{share(total.unattributed_cost_usd or 0, total.cost_usd)} of spend"),
    ]  # fmt: skip
    query = scope.by(
        [filters.by], compare=filters.by not in TIMES, top=None if filters.by in TIMES else ROWS, rolled_up=is_large
    )
    result = spent(ledger, query, [filters.by])

    def drill(column: str, row: Row) -> str:
        if column != column_of(filters.by) or filters.by in TIMES:
            return ""
        return filters.link(
            "/", where=(filters.by, row[column] or ""), by="model" if filters.by != "model" else "feature"
        )

    panels = [
        *([_burn_up(ledger, now)] if not filters.where and filters.last >= now.date().replace(day=1) else []),
        panel(f"Spend by {filters.by}", result, query, drill, bar="total_cost_usd"),
        *(
            []
            if filters.by in TIMES
            else [_cumulative(ledger, scope, filters.by, result, now, is_large), _days(ledger, scope, now, is_large)]
        ),
    ]
    return Page("spend", "Spend", panels, stats, filters=filters)


def _is_large(ledger: Ledger) -> bool:
    """Whether the calls take too long to add up for a page, so that it has the rollup of hours."""
    return bool(ledger.query(statement("ui/is_large"), {"rows": LARGE}).rows)


def _burn_up(ledger: Ledger, now: datetime) -> Panel:
    """The month's spend as it adds up, its budget, and the forecast with its band."""
    month = now.date().replace(day=1)
    end = (month + timedelta(days=32)).replace(day=1)
    query = Query(statement("ui/daily"), {"since": midnight(month), "until": midnight(end)})
    costs = {day: float(cost) for day, cost, _ in ledger.query(query.text, query.parameters).rows}
    monthly = [
        Decimal(b.amount_picousd).scaleb(-12)
        for b in read_budgets(ledger).budgets
        if b.window == "month" and not b.scope and not b.per
    ]
    budget = min(monthly, default=None)
    ahead = month_ahead(ledger, now, budget)
    days = [month + timedelta(days=n) for n in range((end - month).days)]
    to_date = list(accumulate(costs.get(day, 0.0) for day in days if day <= now.date()))
    rest = len(days) - len(to_date)

    def towards(goal: float | None) -> list[float | None]:
        if goal is None or not rest:
            return [None] * len(days)
        step = (goal - to_date[-1]) / rest
        return [None] * (len(to_date) - 1) + [to_date[-1] + step * n for n in range(rest + 1)]

    series: list[Mapping[str, Any]] = [{"label": "spent", "kind": "area", "values": [*to_date, *[None] * rest]}, {"label": "forecast", "kind": "dash", "values": towards(ahead.month_usd)}]  # fmt: skip
    if ahead.low_usd is not None and ahead.high_usd is not None:
        series += [{"label": "80 % band, low", "kind": "band", "values": towards(ahead.low_usd)}, {"label": "80 % band, high", "kind": "band", "values": towards(ahead.high_usd)}]  # fmt: skip
    if budget is not None:
        series.append({"label": "budget", "kind": "line", "values": [float(budget)] * len(days)})
    band = f", between {usd(ahead.low_usd)} and {usd(ahead.high_usd)} in four of five months" if ahead.low_usd is not None and ahead.high_usd is not None else ", with too little data for a band"  # fmt: skip
    of_budget = (
        f" of a budget of {usd(budget)}"
        if budget is not None
        else "; no budget is set for all of it (spanledger budget set all 10000)"
    )
    summary = f"{usd(ahead.spent_usd)} spent{of_budget}; {usd(ahead.month_usd)} by the end of the month{band}."
    result = Result(("day", "spent_usd"), ("Date", "Decimal"), list(zip(days, to_date, strict=False)))
    shown = panel(f"{month:%B %Y} against its budget", result, query)
    return replace(shown, chart=Chart(days, series, summary))


def _cumulative(ledger: Ledger, scope: Scope, dimension: str, spend_by: Result, now: datetime, is_large: bool) -> Panel:
    """The most expensive values of a dimension, as their spend adds up over the period."""
    names = [row[0] or "" for row in spend_by.rows[:COURSES]]
    others = [condition for condition in scope.conditions if condition[0] != dimension]
    among = replace(scope, conditions=[*others, *((dimension, name) for name in names)])
    query = among.by(["day", dimension], rolled_up=is_large)
    result = spent(ledger, query, ["day", dimension])
    costs = {(row[0], row[1] or ""): float(row[2] or 0) for row in result.rows}
    days = _days_of(scope, now)
    courses: list[Mapping[str, Any]] = [
        {
            "label": name or "-",
            "kind": "course",
            "values": list(accumulate(costs.get((day, name), 0.0) for day in days)),
        }
        for name in names
    ]
    title = f"Spend by {dimension} as it adds up"
    return replace(panel(title, result, query), chart=Chart(days, courses, f"The {len(names)} most expensive."))


def _days_of(scope: Scope, now: datetime) -> list[date]:
    """The days of a period, but for those to come."""
    days = (scope.begin.date() + timedelta(days=n) for n in range((scope.until - scope.begin).days))
    return [day for day in days if day <= now.date()]


def _days(ledger: Ledger, scope: Scope, now: datetime, is_large: bool) -> Panel:
    query = scope.by(["day"], rolled_up=is_large)
    result = spent(ledger, query, ["day"])
    costs = {row[0]: row[1] for row in result.rows}
    days = _days_of(scope, now)
    chart = Chart(
        days,
        [{"label": "cost", "kind": "bar", "values": [costs.get(day, 0) for day in days]}],
        f"Cost of {len(days)} days.",
    )
    return replace(panel("Spend by day", result, query), chart=chart)


def requests(ledger: Ledger, filters: Filters) -> Page:
    """The requests of a period, the most expensive first."""
    scope = filters.scope(ledger.target.database)
    query = Query(
        statement("ui/requests", joins=scope.joins(), filters=scope.filters), {**scope.parameters, "limit": ROWS}
    )

    def link(column: str, row: Row) -> str:
        return f"/request?{urlencode({'id': row[column]})}" if column == "request_id" else ""

    table = panel("Requests", ledger.query(query.text, query.parameters), query, link, bar="total_cost_usd",
                  empty="No call of this period names its request: set the baggage key spanledger.request.id (docs/attribution.md).")  # fmt: skip
    return Page("requests", "Requests", [table], filters=filters)


def request(ledger: Ledger, request_id: str) -> Page:
    """One request: its calls on the time axis, and as a table."""
    query = Query(statement("ui/calls"), {"request": request_id})
    result = ledger.query(query.text, query.parameters)
    calls = rows_of(result)

    def link(column: str, row: Row) -> str:
        return _call_address(row) if column == "model" else ""

    [(cost, count, attempts)] = ledger.query(statement("ui/request_total"), query.parameters).rows
    stats = [("Cost", usd(cost), ""), ("Calls", f"{count:,}", f"{attempts:,} attempts")]
    note = f"The first {len(calls):,} of {count:,}." if len(calls) < count else ""
    steps = run_trees.steps_of(ledger, request_id)
    runs = [_tree(request_id, steps)] if any(step.kind not in ("run", "call") for step in steps) else []
    table = panel(
        "Calls", result, query, link, hidden=CALL_DETAILS, note=note, empty=f"No call has the request id {request_id}."
    )
    return Page("requests", f"Request {request_id}", [*runs, table], stats, _waterfall(calls))


def _waterfall(calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each call as shares of the request's time: where it begins, how long its attempts and its stream took."""
    if not calls:
        return []
    begin = min(call["start_time"] for call in calls)
    micros = [((call["start_time"] - begin) // timedelta(microseconds=1), call["duration_us"]) for call in calls]
    whole = max(1, *(start + length for start, length in micros))
    return [
        {
            "left": 100 * start / whole,
            "width": max(0.4, 100 * length / whole),
            "first": 100 * (call["time_to_first_chunk_us"] or 0) / whole,
            "text": f"{call['model'] or '-'}  {usd(call['cost_usd'])}  {length / 1e6:,.2f} s",
            "failed": call["outcome"] != "ok",
            "href": _call_address(call),
        }
        for call, (start, length) in zip(calls, micros, strict=True)
    ]


def _call_address(call: Row) -> str:
    return f"/call?{urlencode({'trace': call['trace_id'], 'span': call['span_id']})}"


def run(ledger: Ledger, run_id: str) -> Page:
    """Where the cost of an agent's run went: its steps, and the calls below them."""
    steps = run_trees.steps_of(ledger, run_id)
    if not steps:
        raise NotThereError(f"No call belongs to {run_id}.")
    calls = sum(step.calls for step in steps if step.depth == 0)
    stats = [("Cost", usd(run_trees.total(steps)), ""), ("Calls", f"{calls:,}", "")]
    return Page("requests", f"Run {run_id}", [_tree(run_id, steps)], stats)


def _tree(run_id: str, steps: Sequence[run_trees.Step]) -> Panel:
    def link(column: str, row: Row) -> str:
        return _call_address(row) if column == "step" and row["span_id"] else ""

    note = run_trees.note(steps) or "Each call stands once, below the steps that its span is in."
    table = run_trees.table_of(steps)
    return panel(
        "Where it went",
        table,
        run_trees.question(run_id),
        link,
        bar="total_cost_usd",
        hidden=("trace_id", "span_id"),
        note=note,
    )


def call(ledger: Ledger, trace: str, span: str) -> Page:
    """One call: what was counted, what it cost, by which price, and where it was made."""
    query = Query(statement("ui/call"), {"trace": trace, "span": span})
    result = ledger.query(query.text, query.parameters)
    if not result.rows:
        raise NotThereError("No call has this trace and span.")
    row = {name.removeprefix("c."): value for name, value in rows_of(result)[0].items()}
    panels = [
        panel(
            "What it cost",
            _components(row),
            query,
            note="quantity x rate = amount; a row with several meters has their mean rate",
        ),
        panel("What is known of it", _facts(row), query),
    ]
    return Page("requests", f"Call {span}", panels, [("Cost", usd(row["cost_usd"]), row["price_status"])])


def _components(row: Row) -> Result:
    """Meters by the group that sums them, with all decimals: amounts for people would be rounded."""
    parts: list[tuple[Any, ...]] = []
    for group in dict.fromkeys(meter.group for meter in METERS.values()):
        meters = {
            name: row[m.column]
            for name, m in METERS.items()
            if m.group == group and not m.subset_of and row.get(m.column)
        }
        quantity, amount = sum(meters.values()), row.get(f"{group}_cost_usd")
        if not meters and not amount:
            continue
        rate = None if amount is None or not quantity else amount / quantity * 1_000_000
        parts.append(
            (", ".join(f"{name} {count:,}" for name, count in meters.items()) or group, quantity or None, rate, amount)
        )
    return Result(("meter", "quantity", "USD a million", "USD"), ("String", "UInt64", "Decimal", "Decimal"), parts)


def _facts(row: Row) -> Result:
    facts = {
        "when": row["start_time"], "provider": row["provider"], "model": row["model"], "feature": row["feature"], "user": row["user_id"],
        "request": row["request_id"], "code": f"{row['code_file']}:{row['code_line']} {row['code_function']}" if row["code_file"] else None,
        "outcome": row["outcome"], "attempts": f"{row['attempts']} ({', '.join(row['attempt_status']) or '-'})", "seconds": row["duration_us"] / 1e6,
        "price status": row["price_status"], "price key": row["price_key"], "price table": f"{row['price_source']} {row['price_version']}".strip(),
        "evidence": row["evidence"], "flags": ", ".join(row["price_flags"]), "at least, USD": row["low_cost_usd"], "at most, USD": row["high_cost_usd"],
    }  # fmt: skip
    known = [(name, format_cell("", value)) for name, value in facts.items() if value not in (None, "")]
    return Result(("fact", "value"), ("String", "String"), list(known))


def breakdown(ledger: Ledger, filters: Filters, dimension: str) -> Page:
    """Users, features or models, with what makes them cheap or dear."""
    scope, column = filters.scope(ledger.target.database), column_of(dimension)
    text = with_meter_sums(
        statement(
            "ui/breakdown",
            name=f"{EXPRESSIONS[dimension]} AS `{column}`",
            column=f"`{column}`",
            joins=scope.joins(),
            filters=scope.filters,
        )
    )
    query = Query(text, {**scope.parameters, "limit": ROWS})

    def drill(name: str, row: Row) -> str:
        return filters.link("/", where=(dimension, row[column] or ""), by="day") if name == column else ""

    title = f"{dimension.capitalize()}s"
    return Page(f"{dimension}s", title, [panel(title, ledger.query(query.text, query.parameters), query, drill, bar="total_cost_usd")], filters=filters)  # fmt: skip


def trust(ledger: Ledger, filters: Filters, now: datetime) -> Page:
    """How far the figures can be trusted, and what to do about the rest."""
    window: dict[str, Any] = {"since": filters.since, "until": filters.until}
    questions: dict[str, tuple[str, dict[str, Any], str]] = {
        "Not attributed, by line of code": ("trust_calls", window, "Every call says its feature, user and request."),
        "How sure costs are": ("trust_evidence", window, "There is nothing in this period."),
        "Without a price": ("trust_unpriced", window, "Every call has a price."),
        "Rows that are missing": ("trust_holes", {}, "No process has numbered a row that is not here."),
        "Counted twice": ("trust_duplicates", window, "No response has more than one row."),
    }
    panels: list[Panel] = []
    for title, (name, parameters, empty) in questions.items():
        query = Query(statement(f"ui/{name}"), parameters)
        panels.append(panel(title, ledger.query(query.text, query.parameters), query, empty=empty))
    ages = [(table.source, table.version, len(table.models), table.dated, (now.date() - table.dated).days if table.dated else None) for table in in_force().tables]  # fmt: skip
    tables = Result(
        ("source", "version", "models", "dated", "age_days"),
        ("String", "String", "UInt64", "Date", "UInt64"),
        list(ages),
    )
    panels.append(panel("Price tables in force", tables))
    return Page("trust", "Trust", panels, filters=filters)


def budgets(ledger: Ledger, now: datetime) -> Page:
    """Every budget in its period, and what was alerted."""
    rows = [
        (s.label, s.budget.window, s.amount_usd, s.spent_usd, round(s.utilisation, 4), s.projected_usd, s.forecast.exhausted_at if s.forecast else None, s.budget.action)
        for s in budget_status.statuses(ledger, now)
    ]  # fmt: skip
    names = ("budget", "period", "amount_usd", "spent_usd", "utilisation", "projected_usd", "exhausted_at", "action")
    types = ("String", "String", "Decimal", "Decimal", "Float64", "Decimal", "DateTime", "String")
    now_rows = sorted(rows, key=lambda row: -row[4])[:ROWS]
    query = Query(statement("ui/alerts"), {})
    panels = [
        panel(
            "Budgets",
            Result(names, types, now_rows),
            empty="No budget is set, or none has spend: set one with `spanledger budget set all 10000`.",
        ),
        panel("Alerts", ledger.query(query.text), query, empty="Nothing was alerted (spanledger guard)."),
    ]
    return Page("budgets", "Budgets and alerts", panels)


def invoice(ledger: Ledger, data: bytes, provider: str) -> Page:
    """The invoice of a provider beside the ledger; nothing is stored.

    Raises:
        InvoiceError: the file is not an invoice that is known.
        DatabaseError: the ledger could not be queried.
    """
    lines = provider_exports.read(data, provider, exchange_rates.stored(ledger))
    residuals = reconciling.reconcile(ledger, lines)
    billed = sum((r.invoiced for r in residuals), Decimal(0))
    known = sum((r.ledger for r in residuals), Decimal(0))
    unexplained = sum((abs(r.unexplained) for r in residuals), Decimal(0))
    closes = abs(billed - known) < Decimal("0.005")
    verdict = "to the cent" if closes else f"{usd(billed - known)} apart, {usd(unexplained)} of it unexplained"
    stats = [
        ("Invoice", usd(billed), f"{len(lines):,} line{'s' * (len(lines) != 1)}"),
        ("Ledger", usd(known), ""),
        ("They are", "equal" if closes else "not equal", verdict),
    ]
    unknown = reconciling.unknown_providers(ledger, {line.provider for line in lines})
    if unknown:
        stats.append(("No call is of", ", ".join(unknown), "is it spelt as on the calls?"))
    causes = {cause: sum((r.causes[cause] for r in residuals), Decimal(0)) for cause in reconciling.CAUSES}
    sums = [(cause, amount) for cause, amount in causes.items() if amount] + [("unexplained", unexplained)]
    names = ("day", "provider", "project", "model", "invoiced_usd", "ledger_usd", "residual_usd", "unexplained_usd")
    types = ("Date", "String", "String", "String", "Decimal", "Decimal", "Decimal", "Decimal")
    rows = sorted(residuals, key=lambda r: -abs(r.residual))[:ROWS]
    panels = [
        panel("What explains the difference", Result(("cause", "amount_usd"), ("String", "Decimal"), list(sums))),
        panel(
            "The largest differences",
            Result(
                names,
                types,
                [
                    (r.day, r.provider, r.project, r.model, r.invoiced, r.ledger, r.residual, r.unexplained)
                    for r in rows
                ],
            ),
        ),
    ]
    return Page("invoice", "Invoice", panels, stats)
