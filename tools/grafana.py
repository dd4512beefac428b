"""Generates the Grafana dashboards and alert rules: `python tools/grafana.py` writes them, `--check` reports stale files.

A dashboard is a table of panels; this file is the only place of their SQL. Conventions of the ClickHouse data source
4.20: macros `$__timeFilter` and `$__timeInterval`, `$__conditionalAll` for variables that may be "all" (not in alert
rules: the browser expands it), `:singlequote` in IN lists. Costs leave ClickHouse as Decimal or Float64.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

HOME: Final = Path(__file__).parent.parent / "exporter/spanledger_clickhouse/grafana"
DATASOURCE: Final = {"type": "grafana-clickhouse-datasource", "uid": "${datasource}"}
PLUGIN: Final = "4.20.0"


def chosen(*names: str, of: str = "") -> str:
    """A condition for each variable: the selected values, or everything; `of` is the prefix of the columns."""
    return " AND ".join(f"$__conditionalAll({of}{column} IN (${{{name}:singlequote}}), ${name})" for name, column in (
        (name, {"tenant": "tenant_id"}.get(name, name)) for name in names
    ))  # fmt: skip


HOURS: Final = f"$__timeFilter(bucket) AND {chosen('environment', 'service', 'feature')}"
DAYS: Final = f"$__dateFilter(bucket) AND {chosen('environment', 'service', 'feature', 'tenant')}"
USERS: Final = f"$__dateFilter(bucket) AND {chosen('feature', 'tenant')}"
CALLS: Final = f"$__timeFilter(c.start_time) AND {chosen('environment', 'service', 'feature', 'tenant', of='c.')}"

STAT, SERIES, TABLE, GAUGE, BARS = "stat", "timeseries", "table", "bargauge", "barchart"
TREND = "trend"
"""A stat with its course, beside that of the period before: time, name, value."""
USD, SHARE, COUNT, SECONDS, PERCENT, DATE = "currencyUSD", "percentunit", "short", "s", "percent", "dateTimeAsLocal"


@dataclass(frozen=True)
class Panel:
    title: str
    kind: str
    sql: str
    wide: int = 6
    """Width, of 24 columns."""
    tall: int = 4
    unit: str = USD
    description: str = ""
    """How to read the panel, or what it requires."""
    units: dict[str, str] = field(default_factory=dict[str, str])
    """Column of a table -> unit."""
    red_above: float | None = None
    stacked: bool = False
    links: dict[str, str] = field(default_factory=dict[str, str])
    """Column of a table -> link of its cells."""
    red: dict[str, float] = field(default_factory=dict[str, float])
    """Column of a table -> from which value it is red."""
    reduce: str = "sum"
    """Of a trend: how the values of its course become one; "lastNotNull" where they do not add up."""


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    description: str
    range: str
    panels: tuple[Panel | str, ...]
    """A string starts a row with that title."""


KEPT: Final = "${__url_time_range}&${environment:queryparam}&${service:queryparam}&${tenant:queryparam}"
"""What a link takes along: the time range and the filters."""
TO_WHERE: Final = f"/d/spanledger-where?{KEPT}&var-feature=${{__data.fields.feature}}"
TO_CALLS: Final = f"/d/spanledger-where?{KEPT}&${{feature:queryparam}}&var-request=${{__value.raw}}"
TO_TRACE: Final = "${traces}${__value.raw}"

TOP_FEATURES: Final = (
    f"(SELECT feature FROM llm_costs WHERE {HOURS} GROUP BY feature ORDER BY sum(cost_usd) DESC LIMIT 10)"
)

BURN = Dashboard(
    "spanledger-burn", "Burn rate", "Spend by feature, tenant and customer tier, and when budgets run out.", "now-30d",
    (
        Panel("Spend", STAT, f"SELECT sum(cost_usd) AS spent FROM llm_costs WHERE {HOURS}", description="Of the time range, whole hours."),
        Panel("Previous period", STAT,
              "SELECT sum(cost_usd) AS spent FROM llm_costs WHERE bucket >= $__fromTime - ($__toTime - $__fromTime) AND bucket < $__fromTime "
              f"AND {chosen('environment', 'service', 'feature')}", description="As long a time before the range."),
        Panel("Spend today", STAT, f"SELECT sum(cost_usd) AS today FROM llm_costs WHERE bucket >= toStartOfDay(now('UTC')) AND {chosen('environment', 'service', 'feature')}", description="Since midnight, UTC."),
        Panel("Month to date", STAT, f"SELECT sum(cost_usd) AS month FROM llm_costs WHERE bucket >= toStartOfMonth(now('UTC')) AND {chosen('environment', 'service', 'feature')}", description="Since the first of the month, UTC."),
        Panel("Forecast for this month", STAT, "SELECT min(projected_usd) AS projected FROM budget_status WHERE scope = 'global' AND period = 'month'",
              description="Month to date, plus the burn rate of the last seven days for the rest of the month. Requires a global monthly budget: spanledger budget set."),
        Panel("Monthly budget utilization", STAT, "SELECT max(utilisation) AS used FROM budget_status WHERE scope = 'global' AND period = 'month'", unit=SHARE, red_above=0.9, description="Spent of the global monthly budget."),
        Panel("Forecast of the monthly budget", STAT, "SELECT max(projected_utilisation) AS share FROM budget_status WHERE scope = 'global' AND period = 'month'", unit=SHARE, red_above=1.0,
              description="The forecast of the month over the global monthly budget. The table of budgets says when it is exhausted, if that is in this month."),
        Panel("Cost per 1,000 calls", STAT, f"SELECT 1000 * sum(cost_usd) / nullIf(sum(calls), 0) AS cost FROM llm_costs WHERE {HOURS}", description="Mean cost of a call, times a thousand."),
        "Trends",
        Panel("Spend by feature", SERIES,
              "SELECT $__timeInterval(bucket) AS time, if(feature IN " + TOP_FEATURES + ", feature, if(isNull(feature), '(no feature)', 'other')) AS name, "
              f"sum(cost_usd) AS cost FROM llm_costs WHERE {HOURS} GROUP BY time, name ORDER BY time", 16, 9, stacked=True, description="The ten most expensive features of the range; the others are one."),
        Panel("Spend by provider", SERIES, f"SELECT $__timeInterval(bucket) AS time, provider AS name, sum(cost_usd) AS cost FROM llm_costs WHERE {HOURS} GROUP BY time, name ORDER BY time", 8, 9, stacked=True, description="Who was paid."),
        "Budgets",
        Panel("Budget utilization", GAUGE, "SELECT name, utilisation FROM budget_status ORDER BY utilisation DESC LIMIT 20", 8, 8, SHARE, red_above=1.0, description="Spent of each budget in its period."),
        Panel("Budgets", TABLE,
              "SELECT name, concat(scope, if(key = '', '', concat(' ', key))) AS applies_to, period, amount_usd AS amount, spent_usd AS spent, utilisation, projected_usd AS projected, "
              "exhausted_at, exhausted_earliest AS earliest, exhausted_latest AS latest FROM budget_status ORDER BY utilisation DESC", 16, 8,
              units={"amount": USD, "spent": USD, "projected": USD, "utilisation": SHARE}, red={"utilisation": 1.0},
              description="exhausted_at: when the amount was, or will be, exhausted in this period; earliest and latest: the 80 % band."),
        "Cost allocation",
        Panel("Cost by feature", TABLE,
              f"SELECT feature, sum(cost_usd) AS cost, sum(calls) AS calls, cost / calls AS per_call FROM llm_costs WHERE {HOURS} GROUP BY feature ORDER BY cost DESC LIMIT 50", 8, 9,
              units={"cost": USD, "per_call": USD}, links={"feature": TO_WHERE}, description="A click leads to the feature's models, users and calls."),
        Panel("Cost by tenant and customer tier", TABLE,
              f"SELECT tenant_id AS tenant, customer_tier, sum(cost_usd) AS cost, sum(calls) AS calls FROM llm_costs_daily WHERE {DAYS} GROUP BY tenant, customer_tier ORDER BY cost DESC LIMIT 50", 8, 9,
              units={"cost": USD}, description="Whole days."),
        Panel("Margin this month", TABLE,
              "SELECT tenant_id AS tenant, customer_tier, revenue_usd AS revenue, total_cost_usd AS cost, margin_usd AS margin, margin_share AS share FROM cost_by_tenant_tier "
              f"WHERE month = toStartOfMonth(toDate(now('UTC'))) AND {chosen('tenant')} ORDER BY margin LIMIT 50", 8, 9, units={"revenue": USD, "cost": USD, "margin": USD, "share": SHARE},
              description="Revenue comes from the table revenue. The lowest margins come first."),
        Panel("Week over week", TABLE,
              "SELECT feature, last_week_usd AS last_week, this_week_usd AS this_week, week_over_week AS change, slope_usd_per_week AS slope, slope_share, rising FROM cost_trend "
              f"WHERE {chosen('feature')} ORDER BY abs(this_week - last_week) DESC LIMIT 20", 16, 8,
              units={"last_week": USD, "this_week": USD, "change": SHARE, "slope": USD, "slope_share": SHARE}, links={"feature": TO_WHERE},
              description="slope: robust slope over four weeks. Slow growth does not trigger the hourly anomaly alert; it shows here."),
        Panel("Spend by customer tier", BARS, f"SELECT ifNull(customer_tier, '(no tier)') AS tier, sum(cost_usd) AS cost FROM llm_costs_daily WHERE {DAYS} GROUP BY tier ORDER BY cost DESC", 8, 8, description="Whole days; the customer tier that the calls name."),
    ),
)  # fmt: skip

FILTERS: Final = chosen("environment", "service", "feature")
LENGTH: Final = "toIntervalSecond(dateDiff('second', $__fromTime, $__toTime))"


def trend(value: str, source: str = "llm_costs", filters: str = FILTERS) -> str:
    """The course of a value in this period, and in the one before, which is moved beside it."""
    return (
        f"SELECT $__timeInterval(moved) AS time, name, {value} AS value FROM ("
        f"SELECT *, bucket AS moved, 'this period' AS name FROM {source} WHERE $__timeFilter(bucket) AND {filters} UNION ALL "
        f"SELECT *, bucket + {LENGTH} AS moved, 'the period before' AS name FROM {source} WHERE bucket >= $__fromTime - {LENGTH} AND bucket < $__fromTime AND {filters}"
        ") GROUP BY time, name ORDER BY time"
    )


P95: Final = "quantilesTDigestMerge(0.5, 0.95, 0.99)({})[2]"
MONTH_BUDGET: Final = (
    "(SELECT toFloat64(min(amount_usd)) FROM budget_status WHERE scope = 'global' AND period = 'month')"
)
MONTH_FORECAST: Final = "(SELECT min(projected_usd) FROM budget_status WHERE scope = 'global' AND period = 'month')"
THIS_MONTH: Final = "SELECT toDate(bucket) AS day, sum(cost_usd) AS cost FROM llm_costs WHERE bucket >= toStartOfMonth(now('UTC')) GROUP BY day"
CUMULATIVE: Final = (
    "WITH toDate(toStartOfMonth(now('UTC'))) AS first, addMonths(first, 1) - 1 AS last "
    "SELECT toDateTime(day, 'UTC') AS time, name, value FROM ("
    f"SELECT day, 'spent' AS name, toFloat64(sum(cost) OVER (ORDER BY day)) AS value FROM ({THIS_MONTH}) UNION ALL "
    f"SELECT first + number AS day, 'budget' AS name, {MONTH_BUDGET} AS value FROM numbers(31) WHERE day <= last AND isNotNull(value) UNION ALL "
    f"SELECT toDate(now('UTC')) AS day, 'forecast' AS name, (SELECT toFloat64(sum(cost)) FROM ({THIS_MONTH})) AS value UNION ALL "
    f"SELECT last AS day, 'forecast' AS name, {MONTH_FORECAST} AS value"
    ") WHERE isNotNull(value) ORDER BY time, name"
)

OVERVIEW = Dashboard(
    "spanledger-overview", "Overview", "What is spent, how fast, on what, and whether it can be trusted.", "now-7d",
    (
        Panel("Spend", TREND, trend("sum(cost_usd)"), 4, 5, description="Of this period, and of the one before, which is as long."),
        Panel("Calls", TREND, trend("toFloat64(sum(calls))"), 4, 5, COUNT, "Billed responses and failed calls; retries within a call are not counted."),
        Panel("Tokens", TREND, trend("toFloat64(sum(input_tokens) + sum(output_tokens))"), 4, 5, COUNT, "Input and output, cached input included."),
        Panel("Errors", TREND, trend("sum(errors) / nullIf(sum(calls), 0)"), 4, 5, SHARE, "Share of calls that failed, in the last interval.", reduce="lastNotNull"),
        Panel("Duration, p95", TREND, trend(P95.format("duration"), "llm_quantiles_1h", chosen("environment")), 4, 5, SECONDS, "In the last interval; nineteen of twenty calls are faster.", reduce="lastNotNull"),
        Panel("Time to first chunk, p95", TREND, trend(P95.format("time_to_first_chunk"), "llm_quantiles_1h", chosen("environment")), 4, 5, SECONDS, "Of streams, in the last interval.", reduce="lastNotNull"),
        Panel("Spend of this month against its budget", SERIES, CUMULATIVE, 12, 9,
              description="What has been spent since the first of the month, as it adds up; the smallest global monthly budget; the forecast for the end of the month. The filters do not apply. Where a line is missing, no such budget is set: spanledger budget set all 10000."),
        Panel("Spend by model", SERIES, f"SELECT $__timeInterval(bucket) AS time, model AS name, sum(cost_usd) AS cost FROM llm_costs WHERE {HOURS} GROUP BY time, name ORDER BY time", 6, 9, stacked=True,
              description="Cost of each model in each interval."),
        Panel("Calls an hour, by model", SERIES, f"SELECT $__timeInterval(bucket) AS time, model AS name, toFloat64(sum(calls)) / uniqExact(bucket) AS calls FROM llm_costs WHERE {HOURS} GROUP BY time, name ORDER BY time", 6, 9, COUNT,
              description="Rate of calls; the ledger's rollup has whole hours."),
        "Features, users, tenants",
        Panel("Most expensive features", TABLE,
              f"SELECT feature, sum(cost_usd) AS cost, sum(calls) AS calls, cost / calls AS per_call, sum(errors) / calls AS failed FROM llm_costs WHERE {HOURS} GROUP BY feature ORDER BY cost DESC LIMIT 20", 8, 9,
              units={"cost": USD, "per_call": USD, "failed": SHARE}, links={"feature": TO_WHERE}, red={"failed": 0.1}, description="A click leads to what the feature costs, and why. Without a name: calls whose feature is not known."),
        Panel("Most expensive users", TABLE,
              f"SELECT user_id AS user, sum(cost_usd) AS cost, sum(calls) AS calls, max(max_cost_usd) AS max_per_call FROM llm_costs_users WHERE {USERS} GROUP BY user_id ORDER BY cost DESC LIMIT 20", 8, 9,
              units={"cost": USD, "max_per_call": USD}, description="Whole days. To stop one: spanledger stop user=NAME."),
        Panel("Most expensive tenants", TABLE,
              f"SELECT tenant_id AS tenant, customer_tier, sum(cost_usd) AS cost, sum(calls) AS calls FROM llm_costs_daily WHERE {DAYS} GROUP BY tenant, customer_tier ORDER BY cost DESC LIMIT 20", 8, 9,
              units={"cost": USD}, description="Whole days, with the customer tier that the calls name."),
        "Trust",
        Panel("Not attributed", STAT, f"SELECT sum(unattributed_cost_usd) / nullIf(sum(cost_usd), 0) AS share FROM llm_costs WHERE {HOURS}", unit=SHARE, red_above=0.01,
              description="Share of spend without a user, feature or request: Data quality lists the lines of code."),
        Panel("Without a price", STAT, f"SELECT sum(unpriced_calls) / nullIf(sum(calls), 0) AS share FROM llm_costs WHERE {HOURS}", unit=SHARE, red_above=0.01, description="Share of calls whose cost is unknown."),
        Panel("Rows that are missing", STAT, "SELECT sum(missing_rows) AS lost FROM ledger_holes WHERE $__timeFilter(last_call)", unit=COUNT, red_above=1, description="Gaps in the row numbers of processes."),
        Panel("Time since the last row", STAT, "SELECT dateDiff('second', max(inserted_at), now64(3)) AS lag FROM llm_calls WHERE inserted_at > now() - INTERVAL 7 DAY", unit=SECONDS, red_above=3600,
              description="Long: the applications are idle, or ingestion is broken."),
    ),
)  # fmt: skip

WHERE = Dashboard(
    "spanledger-where", "Cost breakdown", "Cost by feature, user and model, down to the call and its trace.", "now-7d",
    (
        "Cost by model, feature, user and request",
        Panel("Cost by model", TABLE,
              "SELECT provider, model, sum(calls) AS calls, sum(unpriced_calls) AS unpriced, if(unpriced = calls, NULL, sum(cost_usd)) AS cost, sum(input_tokens) AS input, sum(output_tokens) AS output, sum(cache_read_tokens) / nullIf(input, 0) AS cached "
              f"FROM llm_costs WHERE {HOURS} GROUP BY provider, model ORDER BY cost DESC LIMIT 50", 12, 8, units={"cost": USD, "cached": SHARE}, description="cached: share of the input that was read from the provider's cache."),
        Panel("Cost by feature and model", TABLE,
              f"SELECT feature, model, sum(cost_usd) AS cost, sum(calls) AS calls, cost / calls AS per_call FROM llm_costs WHERE {HOURS} GROUP BY feature, model ORDER BY cost DESC LIMIT 50", 12, 8,
              units={"cost": USD, "per_call": USD}, links={"feature": TO_WHERE}, description="Which model a feature spends its money on."),
        Panel("Most expensive users", TABLE,
              f"SELECT user_id AS user, sum(cost_usd) AS cost, sum(calls) AS calls, max(max_cost_usd) AS max_per_call, topKWeighted(1)(ifNull(feature, '-'), toUInt64(greatest(0, toFloat64(cost_usd)) * 1e6))[1] AS top_feature FROM llm_costs_users WHERE {USERS} GROUP BY user_id ORDER BY cost DESC LIMIT 20", 12, 8,
              units={"cost": USD, "max_per_call": USD}, description="Whole days. top_feature: the one that cost the user most."),
        Panel("Most expensive requests", TABLE,
              "SELECT request_id AS request, any(c.feature) AS feature, any(c.user_id) AS user, sum(c.cost_usd) AS cost, count() AS calls, min(c.start_time) AS started "
              f"FROM llm_calls AS c FINAL WHERE {CALLS} AND isNotNull(request_id) GROUP BY request_id ORDER BY cost DESC LIMIT 20", 12, 8, units={"cost": USD}, links={"request": TO_CALLS}, description="A click lists the request's calls below."),
        "Cost and duration of calls",
        Panel("Cost per call, p95", SERIES,
              "SELECT $__timeInterval(bucket) AS time, model AS name, quantilesTDigestMerge(0.5, 0.95, 0.99)(cost)[2] AS p95 FROM llm_quantiles_1h "
              f"WHERE $__timeFilter(bucket) AND {chosen('environment')} GROUP BY time, name ORDER BY time", 8, 8, description="By model: features differ more in their models than in their prompts."),
        Panel("Duration of calls, p95", SERIES,
              "SELECT $__timeInterval(bucket) AS time, model AS name, quantilesTDigestMerge(0.5, 0.95, 0.99)(duration)[2] AS p95 FROM llm_quantiles_1h "
              f"WHERE $__timeFilter(bucket) AND {chosen('environment')} GROUP BY time, name ORDER BY time", 8, 8, SECONDS, description="Nineteen of twenty calls are faster."),
        Panel("Cost per call by model", TABLE,
              "WITH arrayMap(v -> if(isNaN(v), NULL, v), quantilesTDigestMerge(0.5, 0.95, 0.99)(cost)) AS quantiles "
              "SELECT model, quantiles[1] AS p50, quantiles[2] AS p95, quantiles[3] AS p99 FROM llm_quantiles_1h "
              f"WHERE $__timeFilter(bucket) AND {chosen('environment')} GROUP BY model ORDER BY p95 DESC", 8, 8, units={"p50": USD, "p95": USD, "p99": USD}, description="What half, nineteen of twenty, and ninety-nine of a hundred calls cost at most."),
        "Possible savings",
        Panel("Cache savings", TABLE,
              f"SELECT feature, model, hit_rate, read_savings_usd AS saved, write_surcharge_usd AS surcharge, net_savings_usd AS net FROM cache_savings_between(since = toDateTime($__fromTime, 'UTC'), until = toDateTime($__toTime, 'UTC')) WHERE {chosen('feature')} ORDER BY net DESC LIMIT 50", 12, 8,
              units={"hit_rate": SHARE, "saved": USD, "surcharge": USD, "net": USD}, description="Compared with the same tokens uncached. Requires prices in SQL: spanledger prices sync."),
        Panel("Retries, interrupted streams, truncation", TABLE,
              f"SELECT feature, model, calls, retried_calls AS retried, failed_calls AS failed, maybe_billed, aborted_cost_usd AS aborted, truncated_cost_usd AS truncated FROM attempts_waste_between(since = toDateTime($__fromTime, 'UTC'), until = toDateTime($__toTime, 'UTC')) WHERE {chosen('feature')} ORDER BY aborted + truncated DESC LIMIT 50", 12, 8,
              units={"aborted": USD, "truncated": USD}, description="maybe_billed: attempts that timed out after the provider may have responded."),
        Panel("Efficiency hints", TABLE,
              f"SELECT feature, calls, mean_input_tokens AS mean_in, p95_input_tokens AS p95_in, mean_output_tokens AS mean_out, truncation_rate AS truncated, arrayStringConcat(hints, '; ') AS hints FROM efficiency_between(since = toDateTime($__fromTime, 'UTC'), until = toDateTime($__toTime, 'UTC')) WHERE {chosen('feature')} ORDER BY calls DESC LIMIT 50", 24, 8,
              COUNT, units={"truncated": SHARE}, description="What could be tried: long prompts without a cache, truncated answers, expensive retries."),
        "Cost anomalies",
        Panel("Anomalous hours", TABLE,
              "SELECT hour, arrayStringConcat(groupUniqArray(toString(method)), ', ') AS found_by, any(hourly_cost_usd) AS cost, any(normal_cost_usd) AS baseline, max(score) AS highest_score, arrayStringConcat(arrayMap(u -> ifNull(u.1, '-'), any(top_users)), ', ') AS users, arrayStringConcat(arrayMap(f -> ifNull(f.1, '-'), any(top_features)), ', ') AS features FROM cost_anomalies "
              "WHERE $__timeFilter(hour) GROUP BY hour ORDER BY hour DESC LIMIT 50", 24, 8, units={"cost": USD, "baseline": USD}, description="Hours that cost far more than usual, with those who spent most. baseline: what such an hour costs otherwise."),
        "Calls of a request, or the latest calls",
        Panel("Calls", TABLE,
              "SELECT start_time, c.feature AS feature, user_id AS user, c.model AS model, c.input_tokens AS input, c.output_tokens AS output, cost_usd AS cost, duration_us / 1e6 AS duration, attempts, outcome, trace_id AS trace "
              f"FROM llm_calls AS c FINAL WHERE {CALLS} AND ('$request' = '' OR request_id = '$request') ORDER BY start_time DESC LIMIT 200", 24, 10,
              units={"cost": USD, "duration": SECONDS}, links={"trace": TO_TRACE}, description="Of the request id above, if one is given; a click on a trace opens it."),
    ),
)  # fmt: skip

TRUST = Dashboard(
    "spanledger-trust", "Data quality", "Unattributed, unpriced, missing and duplicate calls, and the difference to the invoice.", "now-7d",
    (
        Panel("Unattributed spend", STAT, f"SELECT sum(unattributed_cost_usd) / nullIf(sum(cost_usd), 0) AS share FROM llm_costs WHERE {HOURS}", unit=SHARE, red_above=0.01,
              description="Calls without a user, feature or request. The table below lists the call sites."),
        Panel("Unpriced calls", STAT, f"SELECT sum(unpriced_calls) / nullIf(sum(calls), 0) AS share FROM llm_costs WHERE {HOURS}", unit=SHARE, red_above=0.01, description="Share of calls whose cost is unknown; the table below says why."),
        Panel("Missing rows", STAT, "SELECT sum(missing_rows) AS lost FROM ledger_holes WHERE $__timeFilter(last_call)", unit=COUNT, red_above=1,
              description="Gaps in the row numbers of processes: the spool was full, or a disk failed."),
        Panel("Duplicate rows", STAT, "SELECT sum(total_rows - 1) AS duplicates FROM duplicate_calls WHERE $__timeFilter(first_call)", unit=COUNT, red_above=1, description="Responses that have more than one row: two instrumentors, or a record by hand."),
        Panel("Time since the last row", STAT, "SELECT dateDiff('second', max(inserted_at), now64(3)) AS lag FROM llm_calls WHERE inserted_at > now() - INTERVAL 7 DAY", unit=SECONDS, red_above=3600,
              description="No recent rows: the applications are idle, or ingestion is broken."),
        Panel("Ingest lag, p95", STAT, f"SELECT quantile(0.95)(dateDiff('second', start_time + toIntervalMicrosecond(duration_us), inserted_at)) AS lag FROM llm_calls AS c FINAL WHERE {CALLS}", unit=SECONDS, red_above=600, description="From the end of a call to its row."),
        Panel("Age of prices", STAT, "SELECT dateDiff('second', max(updated_at), now64(3)) AS age FROM llm_prices", unit=SECONDS, red_above=30 * 86400,
              description="Time since prices were last written: spanledger prices sync."),
        Panel("Rollups closed until", STAT, "SELECT toUnixTimestamp(max(closed_until)) * 1000 AS until FROM llm_costs_1h", unit=DATE, description="Later hours are added up from the calls: spanledger rollup."),
        "Attribution",
        Panel("Unattributed call sites", TABLE,
              "SELECT code_file AS file, code_line AS line, code_function AS function, reason, total_cost_usd AS cost, calls, last_call FROM unattributed_spend_between(since = toDateTime($__fromTime, 'UTC'), until = toDateTime($__toTime, 'UTC')) ORDER BY cost DESC LIMIT 50", 16, 8, units={"cost": USD}, description="The lines of code whose calls lack a user, feature or request; spanledger who-forgot suggests a fix."),
        Panel("Share of unattributed spend", SERIES,
              f"SELECT $__timeInterval(bucket) AS time, sum(unattributed_cost_usd) / nullIf(sum(cost_usd), 0) AS share FROM llm_costs WHERE {HOURS} GROUP BY time ORDER BY time", 8, 8, SHARE, description="Of the spend of each interval."),
        "Prices",
        Panel("Unpriced calls by model", TABLE,
              "SELECT reason, provider, request_model AS model, response_model, calls, low_usd AS low, high_usd AS high, last_call FROM unpriced_calls_between(since = toDateTime($__fromTime, 'UTC'), until = toDateTime($__toTime, 'UTC')) ORDER BY calls DESC LIMIT 50", 16, 8, units={"low": USD, "high": USD},
              description="low and high: bounds of their cost, at the prices of the cheapest and the most expensive model of the provider. Once a price exists, spanledger reprice applies it."),
        Panel("Prices in use", TABLE,
              f"SELECT price_source AS source, price_version AS version, count() AS calls, sum(cost_usd) AS cost FROM llm_calls AS c FINAL WHERE {CALLS} GROUP BY source, version ORDER BY calls DESC", 8, 8, units={"cost": USD}, description="Which price table priced the calls."),
        Panel("Spend by evidence", TABLE,
              "SELECT evidence, doubts, provider, model, calls, total_cost_usd AS cost, low_usd AS low, high_usd AS high FROM price_evidence_between(since = toDateTime($__fromTime, 'UTC'), until = toDateTime($__toTime, 'UTC')) ORDER BY evidence = 'exact', cost DESC NULLS LAST LIMIT 50", 16, 8, units={"cost": USD, "low": USD, "high": USD},
              description="exact: everything in the answer that can cost money was understood. estimated: what is in doubt stands beside it, and the cost lies between low and high. reported: the provider's own figure."),
        Panel("Share of spend by evidence", SERIES,
              f"SELECT $__timeInterval(start_time) AS time, toString(evidence) AS name, sum(cost_usd) AS cost FROM llm_calls AS c FINAL WHERE {CALLS} AND evidence NOT IN ('', 'unpriced') GROUP BY time, name ORDER BY time", 8, 8, USD, stacked=True, description="exact, estimated, or the provider's own figure."),
        "Missing, late and duplicate rows",
        Panel("Gaps in row numbers", TABLE, "SELECT service, host, process_id AS process, from_sequence AS first, to_sequence AS last, missing_rows AS missing, announced, last_call FROM ledger_holes WHERE $__timeFilter(last_call) ORDER BY last_call DESC LIMIT 50", 8, 8, COUNT, description="announced: the process itself reported the loss."),
        Panel("Late rows", TABLE, "SELECT service, process_id AS process, calls, total_cost_usd AS cost, longest_delay_s AS delay FROM late_rows WHERE $__timeFilter(last_call) ORDER BY delay DESC LIMIT 50", 8, 8, units={"cost": USD, "delay": SECONDS}, description="Rows that came long after their call."),
        Panel("Duplicate calls", TABLE, "SELECT provider, response_id AS response, total_rows AS rows, counted_twice_usd AS counted_twice, arrayStringConcat(scopes, ', ') AS scopes FROM duplicate_calls WHERE $__timeFilter(first_call) ORDER BY counted_twice DESC LIMIT 50", 8, 8, units={"counted_twice": USD}, description="counted_twice: what their rows cost beyond one each."),
        "Invoice reconciliation",
        Panel("Invoice less ledger", TABLE, "SELECT day, provider, invoiced_usd AS invoiced, ledger_usd AS ledger, residual_usd AS difference, residual_share AS share, unpriced_calls AS unpriced FROM reconciliation WHERE $__dateFilter(day) ORDER BY day DESC, provider LIMIT 50", 12, 8,
              units={"invoiced": USD, "ledger": USD, "difference": USD, "share": SHARE}, description="Above 0: spend that the ledger did not record or could not price. spanledger reconcile imports invoices into the table invoices."),
        Panel("Difference to invoice (share)", SERIES, "SELECT toDateTime(day, 'UTC') AS time, provider AS name, residual_share AS share FROM reconciliation WHERE $__dateFilter(day) ORDER BY time", 12, 8, SHARE, description="Invoice less ledger, over the invoice."),
        "Ingestion",
        Panel("Calls by source", SERIES, f"SELECT $__timeInterval(start_time) AS time, toString(source) AS name, count() AS calls FROM llm_calls AS c FINAL WHERE {CALLS} GROUP BY time, name ORDER BY time", 12, 8, COUNT, stacked=True, description="spool: shipped from this host's disk; otlp: through a gateway; sql: from the Collector's own table."),
        Panel("Corrected costs", TABLE, "SELECT toStartOfHour(at) AS hour, model, count() AS calls, sum(old_cost_usd) AS old, sum(new_cost_usd) AS new FROM corrections FINAL WHERE $__timeFilter(at) GROUP BY hour, model ORDER BY hour DESC LIMIT 50", 12, 8, units={"old": USD, "new": USD}, description="What spanledger reprice has changed."),
    ),
)  # fmt: skip

DASHBOARDS: Final = (OVERVIEW, BURN, WHERE, TRUST)

VARIABLES: Final = {
    "environment": "SELECT DISTINCT environment FROM llm_costs WHERE bucket > now() - INTERVAL 30 DAY AND isNotNull(environment) ORDER BY environment",
    "service": "SELECT DISTINCT service FROM llm_costs WHERE bucket > now() - INTERVAL 30 DAY ORDER BY service",
    "tenant": "SELECT DISTINCT tenant_id FROM llm_costs_daily WHERE bucket > toDate(now('UTC')) - 30 ORDER BY tenant_id",
    "feature": "SELECT DISTINCT feature FROM llm_costs WHERE bucket > now() - INTERVAL 30 DAY AND isNotNull(feature) ORDER BY feature",
}  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """Fires for each row of its query: the strings of a row are labels, its one number is the value."""

    uid: str
    title: str
    sql: str
    above: float
    description: str
    severity: str = "notify"
    """page: somebody is woken; notify: somebody reads it."""
    every: str = "5m"
    no_data_state: str = "OK"
    """State of the alert if the query returns no rows."""


RULES: Final = (
    Rule("spanledger-budget", "Budget threshold crossed",
         "SELECT name, toString(round(threshold * 100)) AS threshold_percent, utilisation FROM budget_status ARRAY JOIN thresholds_crossed AS threshold WHERE threshold < 0.95", 0,
         "Budget {{ $labels.name }} has crossed its threshold of {{ $labels.threshold_percent }} %. Each threshold alerts once per period."),
    Rule("spanledger-budget-end", "Budget nearly or wholly spent",
         "SELECT name, toString(round(threshold * 100)) AS threshold_percent, utilisation FROM budget_status ARRAY JOIN thresholds_crossed AS threshold WHERE threshold >= 0.95", 0,
         "Budget {{ $labels.name }} has crossed {{ $labels.threshold_percent }} %. Calls may be refused next (docs/limits.md); spanledger budget set raises it.", "page"),
    Rule("spanledger-user-hour", "User spent more than 1 % of the daily budget in an hour",
         "SELECT user_id AS user, feature, model, share FROM user_hour_over_daily_share", 0.01,
         "{{ $labels.user }} spent {{ humanizePercentage $values.A.Value }} of the daily budget in the last hour, mostly on {{ $labels.feature }} with {{ $labels.model }}."),
    Rule("spanledger-hour", "Anomalous hourly cost",
         "SELECT toString(hour) AS began, top_users[1].1 AS user, top_features[1].1 AS feature, toFloat64(hourly_cost_usd) AS cost FROM cost_anomalies WHERE method = 'same_hour_mad' AND hour >= now('UTC') - INTERVAL 3 HOUR", 0,
         "The hour from {{ $labels.began }} (UTC) cost {{ $values.A.Value }} USD. Top feature: {{ $labels.feature }}; top user: {{ $labels.user }}."),
    Rule("spanledger-exhausted", "Budget forecast to run out before the end of its period",
         "SELECT name, toString(toDate(exhausted_at)) AS day, projected_utilisation FROM budget_status WHERE over_before_end AND utilisation < 1", 0,
         "Budget {{ $labels.name }} is forecast to run out on {{ $labels.day }} at the burn rate of the last seven days."),
    Rule("spanledger-drift", "Cost of a feature grows week over week",
         "SELECT ifNull(feature, '(no feature)') AS feature, slope_share FROM cost_trend WHERE rising", 0.1,
         "The cost of {{ $labels.feature }} has grown by {{ humanizePercentage $values.A.Value }} per week over four weeks.", every="1h"),
    Rule("spanledger-unpriced", "Unpriced calls",
         "SELECT request_model AS model, reason, toFloat64(calls) AS calls FROM unpriced_calls_between(since = now('UTC') - INTERVAL 1 HOUR, until = now('UTC'))", 0,
         "{{ $labels.model }} has no price ({{ $labels.reason }}). Upgrade the price table or add an override, then run spanledger reprice."),
    Rule("spanledger-evidence", "A model's cost has come into doubt",
         "SELECT provider, model, flag, unread, toFloat64(calls) AS calls FROM new_price_flags WHERE first_call > now('UTC') - INTERVAL 1 HOUR", 0,
         "{{ $values.A.Value }} calls of {{ $labels.model }} are the first of it with {{ $labels.flag }} {{ $labels.unread }}: their cost is an estimate (docs/pricing.md, Evidence).", every="1h"),
    Rule("spanledger-unattributed", "Unattributed spend",
         "SELECT toFloat64(sum(unattributed_cost_usd) / nullIf(sum(cost_usd), 0)) AS share FROM llm_costs WHERE bucket > now('UTC') - INTERVAL 1 DAY", 0.01,
         "{{ humanizePercentage $values.A.Value }} of the spend of the last day is unattributed. spanledger who-forgot lists the call sites.", every="1h"),
    Rule("spanledger-missing-row", "Ledger rows missing",
         "SELECT service, process_id AS process, toFloat64(missing_rows) AS missing FROM ledger_holes WHERE last_call > now('UTC') - INTERVAL 1 DAY AND missing_rows < 10", 0,
         "{{ $values.A.Value }} rows of {{ $labels.service }} ({{ $labels.process }}) are missing."),
    Rule("spanledger-hole", "A hole in the ledger",
         "SELECT service, process_id AS process, toFloat64(missing_rows) AS missing FROM ledger_holes WHERE last_call > now('UTC') - INTERVAL 1 DAY AND missing_rows >= 10", 0,
         "{{ $values.A.Value }} rows of {{ $labels.service }} ({{ $labels.process }}) are missing: look for a full disk, or a spool that nothing ships (spanledger doctor).", "page"),
    Rule("spanledger-silence", "No calls received",
         "SELECT toFloat64(dateDiff('second', max(inserted_at), now64(3))) AS seconds FROM llm_calls WHERE inserted_at > now() - INTERVAL 7 DAY", 3600,
         "No calls have been received for {{ humanizeDuration $values.A.Value }}: the applications are idle, or ingestion is broken.", "page", no_data_state="Alerting"),
)  # fmt: skip


def dashboard(made: Dashboard) -> dict[str, Any]:
    """The JSON model of a dashboard."""
    panels: list[dict[str, Any]] = []
    x = y = tallest = 0
    for each in made.panels:
        number = len(panels) + 1
        if isinstance(each, str):
            y, x, tallest = y + tallest, 0, 0
            panels.append(
                {
                    "id": number,
                    "type": "row",
                    "title": each,
                    "collapsed": False,
                    "panels": [],
                    "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
                }
            )
            y += 1
            continue
        if x + each.wide > 24:
            y, x, tallest = y + tallest, 0, 0
        panels.append(panel(each, number, x, y))
        x, tallest = x + each.wide, max(tallest, each.tall)
    return {
        "uid": made.uid, "title": f"Spanledger: {made.title}", "description": made.description, "tags": ["spanledger", "llm", "cost"],
        "editable": True, "graphTooltip": 1, "refresh": "1m", "schemaVersion": 42, "version": 1, "timezone": "utc",
        "time": {"from": made.range, "to": "now"}, "templating": {"list": variables()}, "panels": panels,
        "annotations": {"list": []},
        "links": [
            {"title": other.title, "type": "link", "url": f"/d/{other.uid}", "keepTime": True, "includeVars": True, "asDropdown": False,
             "icon": "dashboard", "tags": [], "targetBlank": False, "tooltip": other.description}
            for other in DASHBOARDS if other is not made
        ],
    }  # fmt: skip


def panel(made: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    steps = [
        {"color": "green", "value": None},
        *([{"color": "red", "value": made.red_above}] if made.red_above is not None else []),
    ]
    custom: dict[str, Any] = {}
    if made.kind == SERIES:
        custom = {"drawStyle": "bars" if made.stacked else "line", "fillOpacity": 80 if made.stacked else 10, "lineWidth": 1,
                  "stacking": {"mode": "normal" if made.stacked else "none", "group": "A"}}  # fmt: skip
    overrides = [
        {"matcher": {"id": "byName", "options": column}, "properties": [{"id": "unit", "value": unit}]} for column, unit in made.units.items()
    ] + [
        {"matcher": {"id": "byName", "options": column}, "properties": [{"id": "links", "value": [{"title": "Drill down", "url": url}]}]}
        for column, url in made.links.items()
    ] + [
        {"matcher": {"id": "byName", "options": column}, "properties": [
            {"id": "thresholds", "value": {"mode": "absolute", "steps": [{"color": "text", "value": None}, {"color": "red", "value": limit}]}},
            {"id": "custom.cellOptions", "value": {"type": "color-text"}},
        ]}
        for column, limit in made.red.items()
    ]  # fmt: skip
    options: dict[str, Any] = {
        STAT: {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "value" if made.red_above is not None else "none",
               "graphMode": "none", "justifyMode": "auto", "textMode": "value", "orientation": "auto"},
        TREND: {"reduceOptions": {"calcs": [made.reduce], "fields": "", "values": False}, "colorMode": "none", "graphMode": "area", "justifyMode": "auto",
                "textMode": "value_and_name", "orientation": "horizontal"},
        SERIES: {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}, "tooltip": {"mode": "multi", "sort": "desc"}},
        TABLE: {"showHeader": True, "cellHeight": "sm"},
        GAUGE: {"displayMode": "basic", "orientation": "horizontal", "reduceOptions": {"calcs": [], "fields": "", "values": True}, "valueMode": "color", "showUnfilled": True},
        BARS: {"orientation": "horizontal", "showValue": "auto", "xTickLabelRotation": 0, "legend": {"displayMode": "hidden", "placement": "bottom", "showLegend": False, "calcs": []},
               "tooltip": {"mode": "single", "sort": "none"}},
    }[made.kind]  # fmt: skip
    return {
        "id": number, "type": STAT if made.kind == TREND else made.kind, "title": made.title, "description": made.description, "datasource": DATASOURCE, "pluginVersion": "",
        "gridPos": {"h": made.tall, "w": made.wide, "x": x, "y": y}, "options": options,
        "fieldConfig": {
            "defaults": {"unit": made.unit if made.kind != TABLE else "short", "custom": custom, **({"min": 0, "max": 1} if made.kind == GAUGE else {}),
                         "thresholds": {"mode": "absolute", "steps": steps}, "noValue": "-"},
            "overrides": overrides,
        },
        "targets": [{
            "refId": "A", "datasource": DATASOURCE, "editorType": "sql", "rawSql": made.sql, "pluginVersion": PLUGIN,
            "format": 0 if made.kind in (SERIES, TREND) else 1, "queryType": "timeseries" if made.kind in (SERIES, TREND) else "table",
        }],
    }  # fmt: skip


def variables() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": "datasource", "label": "ledger", "type": "datasource", "query": "grafana-clickhouse-datasource", "refresh": 1, "hide": 0},
    ]  # fmt: skip
    found += [
        {"name": name, "label": name, "type": "query", "datasource": DATASOURCE, "query": {"editorType": "sql", "rawSql": sql, "refId": name},
         "multi": True, "includeAll": True, "allValue": "", "refresh": 2, "sort": 1, "hide": 0, "current": {"text": ["All"], "value": ["$__all"]}}
        for name, sql in VARIABLES.items()
    ]  # fmt: skip
    found += [
        {"name": "request", "label": "request id", "type": "textbox", "query": "", "hide": 0, "current": {"text": "", "value": ""}},
        {"name": "traces", "label": "link to a trace", "type": "textbox", "query": "/explore?traceId=", "hide": 2,
         "current": {"text": "/explore?traceId=", "value": "/explore?traceId="}},
    ]  # fmt: skip
    return found


def alerting() -> dict[str, Any]:
    """Provisioning file of the alert rules. Their SQL has no variables or macros, which only the browser expands."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for rule in RULES:
        ledger = {"type": "grafana-clickhouse-datasource", "uid": "spanledger"}
        groups.setdefault(rule.every, []).append({
            "uid": rule.uid, "title": rule.title, "condition": "B", "for": "0s", "noDataState": rule.no_data_state, "execErrState": "Error",
            "annotations": {"summary": rule.title, "description": rule.description, "__dashboardUid__": "spanledger-overview"},
            "labels": {"severity": rule.severity, "product": "spanledger"}, "isPaused": False,
            "data": [
                {"refId": "A", "datasourceUid": "spanledger", "relativeTimeRange": {"from": 3600, "to": 0},
                 "model": {"refId": "A", "datasource": ledger, "editorType": "sql", "rawSql": rule.sql, "format": 1, "queryType": "table", "pluginVersion": PLUGIN}},
                {"refId": "B", "datasourceUid": "__expr__", "relativeTimeRange": {"from": 0, "to": 0},
                 "model": {"refId": "B", "type": "threshold", "datasource": {"type": "__expr__", "uid": "__expr__"}, "expression": "A",
                           "conditions": [{"evaluator": {"type": "gt", "params": [rule.above]}}]}},
            ],
        })  # fmt: skip
    return {
        "apiVersion": 1,
        "groups": [
            {"orgId": 1, "name": f"spanledger every {every}", "folder": "Spanledger", "interval": every, "rules": rules}
            for every, rules in groups.items()
        ],
    }


def files() -> dict[Path, str]:
    """All generated files: path -> text."""
    found = {HOME / f"dashboards/{made.uid}.json": dashboard(made) for made in DASHBOARDS}
    found[HOME / "provisioning/alerting/rules.json"] = alerting()
    return {path: json.dumps(content, indent=1, ensure_ascii=False) + "\n" for path, content in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with status 1 if a file is out of date"
    )
    check = parser.parse_args().check
    stale = [path for path, text in files().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        print(f"{'out of date' if check else 'written'}: {path.relative_to(HOME)}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files()[path])
    sys.exit(bool(stale) and check)


if __name__ == "__main__":
    main()
