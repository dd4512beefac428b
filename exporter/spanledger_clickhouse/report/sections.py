"""Sections of a report as titles, rows and notes, shared by all formats.

Formats decide the layout of a table; its contents are decided here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from spanledger_clickhouse.money import currency_note, currency_sign, usd
from spanledger_clickhouse.printable import visible
from spanledger_clickhouse.report.queries import MAX_ANOMALIES, DataQuality, Report

NO_FEATURE: Final = "(no feature)"
NO_TEAM: Final = "(no team)"


@dataclass(frozen=True)
class Section:
    title: str
    head: tuple[str, ...] = ()
    """Names of the columns; the first is text, the others are figures."""
    rows: Sequence[tuple[str, ...]] = ()
    note: str = ""


def sections(report: Report) -> list[Section]:
    """The sections in the order of the report."""
    cost_sections = [
        _summary(report),
        *_teams(report),
        _features(report),
        _users(report),
        _models(report),
        _efficiency(report),
    ]
    others = [_anomalies(report), *_budgets(report), _waste(report), _data_quality(report)]
    return [
        replace(section, rows=[tuple(map(visible, row)) for row in section.rows], note=visible(section.note))
        for section in (*cost_sections, *others)
    ]


def title(report: Report) -> str:
    """LLM cost report, and of what: a calendar month, or the days up to one."""
    is_month = (
        report.since.day == 1
        and report.since.hour == 0
        and (report.until - timedelta(seconds=1)).month == report.since.month
    )
    return f"LLM cost report, {report.since:%B %Y}" if is_month else f"LLM cost report, {report.until:%Y-%m-%d}"


def headline(report: Report) -> str:
    """The report in one line."""
    return (
        f"{usd(report.total_usd)} in {round(report.days, 1):g} days ({percent_change(report.total_usd, report.before_usd)}), "
        f"{usd(report.forecast.month_usd)} forecast for the month"
        + (f", {_utilisation(report)}" if report.budget_usd is not None else "")
    )


def share(part: Any, whole: Any) -> str:
    return f"{float(part) / float(whole):.1%}" if whole and part is not None else "-"


def percent_change(now: Decimal | None, before: Decimal) -> str:
    return "-" if now is None else f"{float(now / before) - 1:+.1%}" if before else "new"


def _utilisation(report: Report) -> str:
    """The spend of the month as a share of its budget, and a warning."""
    if report.utilisation is None:
        return "no budget"
    warning = " - OVER BUDGET" if report.utilisation > 1 else " - forecast OVER BUDGET" if report.over_budget else ""
    return f"{report.utilisation:.1%} of budget used{warning}"


def _forecast(report: Report) -> str:
    ahead = report.forecast
    if ahead.low_usd is None or ahead.high_usd is None:
        return f"{usd(ahead.month_usd)} (too little data for a band: less than seven full days)"
    if ahead.low_usd == ahead.high_usd:
        return usd(ahead.month_usd)
    return f"{usd(ahead.month_usd)} ({usd(ahead.low_usd)} to {usd(ahead.high_usd)}, 80% band)"


def _summary(report: Report) -> Section:
    ahead = report.forecast
    rows = [
        (f"{round(report.days, 1):g}-day total", usd(report.total_usd)),
        ("calls", f"{report.calls:,}"),
        ("previous period", f"{usd(report.before_usd)} ({percent_change(report.total_usd, report.before_usd)})"),
        ("month to date", usd(ahead.spent_usd)),
        ("monthly budget", usd(report.budget_usd)),
        ("budget used", _utilisation(report)),
        ("forecast for this month", _forecast(report)),
    ]
    if report.adjustments_usd:
        rows.append(("adjustments of closed months", usd(report.adjustments_usd)))
    if report.budget_usd is not None:
        exhausted_at = ahead.exhausted_at
        rows.append(
            ("budget exhausted on", "not this month" if exhausted_at is None else f"{exhausted_at:%Y-%m-%d %H:%M} UTC")
        )
    return Section("Summary", ("", ""), rows, currency_note())


def _features(report: Report) -> Section:
    rows = [
        (
            f.feature or NO_FEATURE,
            usd(f.cost_usd),
            share(f.cost_usd, report.total_usd),
            f"{f.calls:,}",
            usd(f.mean_usd),
            percent_change(f.cost_usd, f.before_usd),
        )
        for f in report.features
    ]
    rising = ", ".join(f"{feature or NO_FEATURE} (+{growth:.0%} per week)" for feature, growth in report.rising)
    note = f"Growing week over week for four weeks: {rising}" if rising else ""
    return Section(
        "Cost by feature", ("feature", "cost", "share", "calls", f"{currency_sign()}/call", "change"), rows, note
    )


def _teams(report: Report) -> Iterator[Section]:
    """By team, where calls or rules name any."""
    if not any(t.team for t in report.teams):
        return
    rows = [
        (t.team or NO_TEAM, usd(t.cost_usd), share(t.cost_usd, report.total_usd), f"{t.calls:,}",
         usd(t.before_usd), percent_change(t.cost_usd, t.before_usd))
        for t in report.teams
    ]  # fmt: skip
    yield Section("Cost by team", ("team", "cost", "share", "calls", "before", "change"), rows)


def _users(report: Report) -> Section:
    rows = [
        (u.user_id, usd(u.cost_usd), share(u.cost_usd, report.total_usd), f"{u.calls:,}",
         usd(u.max_usd))
        for u in report.users
    ]  # fmt: skip
    return Section("Top cost users", ("user", "cost", "share", "calls", f"max {currency_sign()}/call"), rows)


def _models(report: Report) -> Section:
    rows = [
        (f"{m.provider} {m.model}", usd(m.cost_usd), share(m.cost_usd, report.total_usd), f"{m.calls:,}")
        for m in report.models
    ]
    return Section("Cost by model", ("model", "cost", "share", "calls"), rows)


def _efficiency(report: Report) -> Section:
    efficiency = report.efficiency
    rows = [] if efficiency is None else [
        ("mean input", f"{efficiency.mean_input:,.0f} tokens per call"),
        ("mean output", f"{efficiency.mean_output:,.0f} tokens per call"),
        ("P95 input", f"{efficiency.p95_input:,.0f} tokens per call"),
        ("truncated", f"{efficiency.truncation_rate:.1%} of calls"),
    ]  # fmt: skip
    return Section("Efficiency", ("", ""), rows)


def _anomalies(report: Report) -> Section:
    rows = [
        (f"{a.hour:%Y-%m-%d %H:%M}", f"{usd(a.cost_usd)}/h", f"{usd(a.normal_usd)}/h", f"{a.score:.1f} sigma",
         ", ".join(a.users), ", ".join(a.features))
        for a in report.anomalies[:MAX_ANOMALIES]
    ]  # fmt: skip
    count = len(report.anomalies)
    note = f"{count} in the last 14 days" + (f"; showing the latest {len(rows)}" if count > len(rows) else "")
    return Section(
        "Anomalies", ("hour (UTC)", "cost", "baseline", "deviation", "top users", "top features"), rows, note
    )


def _budgets(report: Report) -> Iterator[Section]:
    rows = [
        (f"{b.name} ({b.scope}{f' {b.key}' if b.key else ''})", usd(b.spent_usd), f"{usd(b.amount_usd)}/{b.period}",
         "-" if b.utilisation is None else f"{b.utilisation:.1%}" + (" OVER" if b.utilisation > 1 else ""),
         "not in this period" if b.exhausted_at is None else f"{b.exhausted_at:%Y-%m-%d}")
        for b in report.budgets
    ]  # fmt: skip
    if rows:
        yield Section("Budgets", ("budget", "spent", "amount", "used", "exhausted on"), rows)


def _waste(report: Report) -> Section:
    w = report.waste
    return Section("Retries and waste", ("", ""), [
        ("retried calls", f"{w.retried_calls:,} ({w.extra_attempts:,} extra attempts)"),
        ("failed calls", f"{w.failed_calls:,}"),
        ("attempts possibly billed", f"{w.maybe_billed:,}"),
        ("interrupted streams", usd(w.aborted_usd)),
        ("responses truncated at max_tokens", usd(w.truncated_usd)),
    ])  # fmt: skip


def _missing_rows(t: DataQuality) -> str:
    cost = f", {usd(t.lost_cost_usd)}" if t.lost_cost_usd else ""
    gaps = f" (unexplained gaps: {t.unannounced_holes:,})" if t.unannounced_holes else ""
    return f"{t.lost_rows:,}{cost}{gaps}"


def _data_quality(report: Report) -> Section:
    t = report.trust
    difference = "no invoice" if t.residual_usd is None else f"{usd(t.residual_usd)} (invoice less ledger)"
    return Section("Data quality", ("", ""), [
        ("unattributed", f"{share(t.unattributed_usd, report.total_usd)} of cost, {t.unattributed_calls:,} calls"),
        ("unpriced", f"{share(t.unpriced_calls, report.calls)} of calls, {t.unpriced_calls:,} calls"),
        *(
            (f"{evidence} costs", f"{share(cost, report.total_usd)} of cost, {calls:,} calls")
            for evidence, cost, calls in t.evidence
            if evidence != "unpriced"
        ),
        ("missing rows", _missing_rows(t)),
        ("difference to invoice", difference),
    ])  # fmt: skip
