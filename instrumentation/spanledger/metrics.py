"""Self-metrics: Spanledger's own counters and gauges, exported through the application's OpenTelemetry meter.

This module has `spanledger.rows.recorded`, `.spooled` and `.refused`, and the outcomes of requests where budgets are
enforced. The shipper adds `spanledger.rows.shipped`, `.dead` and `spanledger.spool.oldest_unshipped`. All are
observable instruments, read at collection time: a call pays nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import metrics
from opentelemetry.metrics import Observation

from spanledger.runtime.meters import register_row_counters
from spanledger.runtime.version import VERSION
from spanledger.spool.writer import Spool

if TYPE_CHECKING:
    from spanledger.limits.limiter import Limiter

OUTCOMES: Final = ("allowed", "downgraded", "refused", "unenforced")


def register_spool_metrics(spool: Spool) -> None:
    """Register the counters of a spool."""
    register_row_counters(
        {
            "spanledger.rows.recorded": ("Rows made of LLM calls", lambda: spool.recorded),
            "spanledger.rows.spooled": ("Rows written to the spool", lambda: spool.written),
            "spanledger.rows.refused": ("Rows lost because the spool had no room", lambda: spool.refused),
        }
    )


def register_limit_metrics() -> None:
    """Register the metrics of budget enforcement; they report nothing where no budget is enforced."""
    meter = metrics.get_meter("spanledger", VERSION)
    for name, unit, description, ask in (
        ("spanledger.limits.requests", "{request}", "Requests by what became of them", _outcomes),
        (
            "spanledger.limits.store_unanswered",
            "{request}",
            "How often the limits' store did not answer",
            _store_failures,
        ),
        ("spanledger.limits.costs_lost", "{cost}", "Costs that the limits' store never took", _lost_costs),
        ("spanledger.budget.thresholds", "{threshold}", "Thresholds of budgets that were passed", _thresholds),
    ):
        meter.create_observable_counter(name, [ask], unit, description)
    description = "Costs that the limits' store has not taken yet"
    meter.create_observable_gauge("spanledger.limits.costs_waiting", [_pending_costs], "{cost}", description)


def _limiter() -> Limiter | None:
    """The limiter of this process, if it has been created."""
    from spanledger.limits.api import current_limiter

    return current_limiter()


def _outcomes(_: Any) -> Iterable[Observation]:
    if (limiter := _limiter()) is None:
        return []
    return [
        Observation(limiter.outcome_counts[name], {"outcome": name})
        for name in OUTCOMES
        if name in limiter.outcome_counts
    ]


def _store_failures(_: Any) -> Iterable[Observation]:
    return [Observation(limiter.store_failures)] if (limiter := _limiter()) is not None else []


def _lost_costs(_: Any) -> Iterable[Observation]:
    lost = dict(limiter.lost_settlements) if (limiter := _limiter()) is not None else {}
    return [Observation(n, {"reason": reason}) for reason, n in lost.items()]


def _thresholds(_: Any) -> Iterable[Observation]:
    passed = dict(limiter.threshold_counts) if (limiter := _limiter()) is not None else {}
    return [Observation(n, {"budget": name, "threshold": threshold}) for (name, threshold), n in passed.items()]


def _pending_costs(_: Any) -> Iterable[Observation]:
    return [Observation(limiter.pending_settlements)] if (limiter := _limiter()) is not None else []
