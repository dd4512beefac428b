"""Queries the figures of a report once, as frozen dataclasses shared by all formats.

Windows are whole hours in UTC. Sums come from the rollups where they are closed (`llm_costs`), so a report
over a week of a large ledger takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.database.statements import statement

MONTH_DAYS: Final = 30
MAX_ANOMALIES: Final = 3
CHART_DAYS: Final = 29
"""28 full days and the current day."""
WHOLE_CHART: Final = timedelta(days=14)
"""A period from which the chart has its days, and no others."""


@dataclass(frozen=True)
class FeatureCost:
    feature: str | None
    """None: unattributed spend."""
    cost_usd: Decimal | None
    """None: none of its calls has a price."""
    calls: int
    mean_usd: Decimal | None
    """Mean cost of a priced call."""
    before_usd: Decimal
    """Cost in the previous period of the same length."""


@dataclass(frozen=True)
class TeamCost:
    team: str | None
    """None: neither the call says it nor a rule (`spanledger assign`)."""
    cost_usd: Decimal | None
    calls: int
    before_usd: Decimal
    """Cost in the previous period."""


@dataclass(frozen=True)
class UserCost:
    user_id: str
    cost_usd: Decimal | None
    calls: int
    max_usd: Decimal | None


@dataclass(frozen=True)
class ModelCost:
    provider: str
    model: str
    cost_usd: Decimal | None
    calls: int


@dataclass(frozen=True)
class Efficiency:
    """Tokens per call, over calls that did not fail."""

    mean_input: float
    mean_output: float
    p95_input: float
    truncation_rate: float
    """Share of responses that were truncated at max_tokens."""


@dataclass(frozen=True)
class Anomaly:
    hour: datetime
    cost_usd: float
    normal_usd: float
    score: float
    """In robust standard deviations of the same hour of other days (view `cost_anomalies`, same_hour_mad)."""
    users: tuple[str, ...]
    features: tuple[str, ...]


@dataclass(frozen=True)
class Budget:
    name: str
    scope: str
    key: str
    period: str
    amount_usd: Decimal
    spent_usd: float
    utilisation: float | None
    """spent_usd / amount_usd."""
    exhausted_at: datetime | None
    """At the burn rate of the last seven days; None: not within a hundred years."""


@dataclass(frozen=True)
class Forecast:
    """Forecast of the current month, at the burn rate of the last seven full days."""

    spent_usd: float
    month_usd: float
    low_usd: float | None
    high_usd: float | None
    """The 80 % band; None below seven full days."""
    exhausted_at: datetime | None
    """When the monthly budget is exhausted; None if it lasts to the end of the month, or there is no budget."""


@dataclass(frozen=True)
class DataQuality:
    """Data quality: unattributed, unpriced and missing calls, and the difference to invoices."""

    unattributed_usd: Decimal
    unattributed_calls: int
    unpriced_calls: int
    lost_rows: int
    """Rows that processes numbered but that never arrived."""
    unannounced_holes: int
    lost_cost_usd: Decimal
    """What they cost, as far as their processes reported it."""
    residual_usd: Decimal | None
    """Invoice less ledger, over the whole days of the period that have an invoice; None if no day has one."""
    evidence: tuple[tuple[str, Decimal, int], ...] = ()
    """(exact | estimated | reported | unpriced, its cost, its calls), the largest cost first."""


@dataclass(frozen=True)
class Waste:
    retried_calls: int
    extra_attempts: int
    failed_calls: int
    maybe_billed: int
    """Attempts whose response was lost; the provider may have billed them."""
    aborted_usd: Decimal
    truncated_usd: Decimal


@dataclass(frozen=True)
class Report:
    since: datetime
    until: datetime
    total_usd: Decimal
    calls: int
    before_usd: Decimal
    """Cost in the previous period: the month before, or as many hours."""
    projected_month_usd: Decimal
    """The run rate: thirty days of the window's mean. No forecast of a month: that is `forecast`."""
    budget_usd: Decimal | None
    """The monthly budget."""
    forecast: Forecast
    features: tuple[FeatureCost, ...]
    users: tuple[UserCost, ...]
    models: tuple[ModelCost, ...]
    efficiency: Efficiency | None
    anomalies: tuple[Anomaly, ...]
    """Of the 14 days before `until`, latest first."""
    rising: tuple[tuple[str | None, float], ...]
    """Features that grow week over week, with their growth per week as a share of their mean weekly cost."""
    budgets: tuple[Budget, ...]
    waste: Waste
    trust: DataQuality
    adjustments_usd: Decimal
    """Corrections of months that are closed, which no later one has carried so far (`spanledger close`)."""
    teams: tuple[TeamCost, ...]
    daily: tuple[tuple[date, Decimal], ...]
    """The days of the period, or of a short one the last 29 days, in order; days without calls are included."""

    @property
    def days(self) -> float:
        return (self.until - self.since) / timedelta(days=1)

    @property
    def utilisation(self) -> float | None:
        """Spend of the month over its budget; None without a budget."""
        return self.forecast.spent_usd / float(self.budget_usd) if self.budget_usd else None

    @property
    def forecast_utilisation(self) -> float | None:
        """Forecast of the month over its budget; None without a budget."""
        return self.forecast.month_usd / float(self.budget_usd) if self.budget_usd else None

    @property
    def over_budget(self) -> bool:
        """Whether the month has, or will have, cost more than its budget."""
        return self.forecast_utilisation is not None and self.forecast_utilisation > 1


def report(
    ledger: Ledger,
    since: datetime,
    until: datetime,
    budget_usd: Decimal | None = None,
    before: tuple[datetime, datetime] | None = None,
) -> Report:
    """Queries the report of a period.

    Args:
        ledger: an open ledger.
        since: start, inclusive, rounded down to the full hour; with a time zone.
        until: end, exclusive, rounded up to the full hour. Budgets, anomalies and the forecast are as of `until`.
        before: begin and end of the previous period; None: it is as long as this one, and ends at `since`.
        budget_usd: monthly budget; None: the smallest of the global monthly budgets in UTC, if there is one.

    Raises:
        DatabaseError: a query failed.
    """
    as_of = until
    since, until = _start_of_hour(since), end_of_hour(until)
    window = _Window(ledger, since, until, as_of, *(before or (since - (until - since), since)))
    budgets = tuple(window.budgets())
    if budget_usd is None:
        monthly = [b.amount_usd for b in budgets if (b.scope, b.period) == ("global", "month")]
        budget_usd = min(monthly, default=None)
    total, calls, unattributed, unattributed_calls, unpriced, before_usd = window.query_row("total")
    lost, holes, lost_cost = window.query_row("missing_rows")
    daily = tuple(window.daily())
    return Report(
        since, until, total, calls, before_usd, total * MONTH_DAYS / Decimal((until - since) / timedelta(days=1)),
        budget_usd, window.forecast(budget_usd),
        tuple(FeatureCost(*row[:5]) for row in window.query_rows("features")),
        tuple(UserCost(*row) for row in window.query_rows("users")),
        tuple(ModelCost(*row) for row in window.query_rows("models")),
        window.efficiency(), tuple(window.anomalies()), tuple(window.query_rows("rising")), budgets, Waste(*window.query_row("waste")),
        DataQuality(unattributed, unattributed_calls, unpriced, lost, holes, lost_cost or Decimal(0), window.query_row("residual")[0],
                    tuple(map(tuple, window.query_rows("evidence")))),
        window.query_row("adjustments", adjustments=statement("invoices/adjustments"))[0], tuple(TeamCost(*row) for row in window.query_rows("teams")), daily,
    )  # fmt: skip


def month_ahead(ledger: Ledger, as_of: datetime, budget_usd: Decimal | None) -> Forecast:
    """The forecast of the month in which `as_of` is. Raises DatabaseError."""
    return _Window(ledger, as_of, as_of, as_of, as_of, as_of).forecast(budget_usd)


def end_of_hour(moment: datetime) -> datetime:
    """The end of the hour that `moment` is in."""
    return _start_of_hour(moment + timedelta(hours=1, microseconds=-1))


def _start_of_hour(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


@dataclass(frozen=True)
class _Window:
    """Queries over one window."""

    ledger: Ledger
    since: datetime
    until: datetime
    as_of: datetime
    before: datetime
    before_until: datetime

    def query_rows(self, name: str, **fragments: str) -> list[tuple[Any, ...]]:
        times = {
            "since": self.since,
            "until": self.until,
            "as_of": self.as_of.astimezone(UTC),
            "before": self.before,
            "before_until": self.before_until,
        }
        words = {name: f"toDateTime('{moment:%Y-%m-%d %H:%M:%S}', 'UTC')" for name, moment in times.items()}
        # A report that ends at midnight covers the day before.
        times["moment"] = times["as_of"] - timedelta(seconds=1)
        texts = {f"{name}_text": f"'{moment:%Y-%m-%d %H:%M:%S}'" for name, moment in times.items()}
        query = statement(f"report/{name}", **fragments, **words, **texts)
        return self.ledger.query(query, {"month": self.since.date()}).rows

    def query_row(self, name: str, **fragments: str) -> tuple[Any, ...]:
        [row] = self.query_rows(name, **fragments)
        return row

    def forecast(self, budget_usd: Decimal | None) -> Forecast:
        rules = {name: statement(f"budgets/{name}") for name in ("burn_rate", "forecast")}
        spent, month, low, high, exhausted_at = self.query_row("forecast", budget=str(budget_usd or 0), **rules)
        return Forecast(spent, month, low, high, exhausted_at if budget_usd is not None else None)

    def daily(self) -> Iterator[tuple[date, Decimal]]:
        last = (self.until - timedelta(microseconds=1)).date()
        first = self.since.date() if self.until - self.since >= WHOLE_CHART else last - timedelta(days=CHART_DAYS - 1)
        costs: dict[date, Decimal] = dict(self.query_rows("daily", first=f"toDateTime('{first}', 'UTC')"))
        for number in range((last - first).days + 1):
            day = first + timedelta(days=number)
            yield day, costs.get(day, Decimal(0))

    def efficiency(self) -> Efficiency | None:
        calls, mean_input, mean_output, p95_input, truncated = self.query_row("efficiency")
        return Efficiency(mean_input, mean_output, float(p95_input), truncated) if calls else None

    def anomalies(self) -> Iterator[Anomaly]:
        for hour, cost, normal, score, users, features in self.query_rows("anomalies"):
            yield Anomaly(hour, cost, normal, score, tuple(users), tuple(features))

    def budgets(self) -> Iterator[Budget]:
        for row in self.query_rows("budgets"):  # the last digits of float sums differ between runs
            values: list[Any] = [round(cell, 9) if isinstance(cell, float) else cell for cell in row]
            yield Budget(*values)
