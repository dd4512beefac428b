"""What Spanledger says of itself, through the application's own OpenTelemetry meter.

`spanledger.rows.recorded`, `.spooled` and `.refused` are here, and what becomes of requests where budgets are enforced; the
shipper adds `spanledger.rows.shipped`, `.dead` and `spanledger.spool.oldest_unshipped`. All are asked for when metrics are
read: a call pays nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import metrics
from opentelemetry.metrics import Observation

from spanledger.runtime.meters import counters
from spanledger.runtime.version import VERSION
from spanledger.spool.writer import Spool

if TYPE_CHECKING:
    from spanledger.limits.limiter import Limiter

OUTCOMES: Final = ("allowed", "downgraded", "refused", "unenforced")


def observe(spool: Spool) -> None:
    """Offer the counters of a spool."""
    counters(
        {
            "spanledger.rows.recorded": ("Rows made of LLM calls", lambda: spool.recorded),
            "spanledger.rows.spooled": ("Rows written to the spool", lambda: spool.written),
            "spanledger.rows.refused": ("Rows lost because the spool had no room", lambda: spool.refused),
        }
    )


def observe_limits() -> None:
    """Offer what becomes of requests where budgets are enforced; nothing where none are."""
    meter = metrics.get_meter("spanledger", VERSION)
    for name, unit, description, ask in (
        ("spanledger.limits.requests", "{request}", "Requests by what became of them", _outcomes),
        ("spanledger.limits.store_unanswered", "{request}", "How often the limits' store did not answer", _unanswered),
        ("spanledger.limits.costs_lost", "{cost}", "Costs that the limits' store never took", _lost),
        ("spanledger.budget.thresholds", "{threshold}", "Thresholds of budgets that were passed", _thresholds),
    ):
        meter.create_observable_counter(name, [ask], unit, description)
    description = "Costs that the limits' store has not taken yet"
    meter.create_observable_gauge("spanledger.limits.costs_waiting", [_waiting], "{cost}", description)


def _limiter() -> Limiter | None:
    """The limiter of this process, if a call or the application's code has asked for it."""
    from spanledger.limits.api import present

    return present()


def _outcomes(_: Any) -> Iterable[Observation]:
    if (limiter := _limiter()) is None:
        return []
    return [Observation(limiter.counted[name], {"outcome": name}) for name in OUTCOMES if name in limiter.counted]


def _unanswered(_: Any) -> Iterable[Observation]:
    return [Observation(limiter.unanswered)] if (limiter := _limiter()) is not None else []


def _lost(_: Any) -> Iterable[Observation]:
    lost = dict(limiter.lost) if (limiter := _limiter()) is not None else {}
    return [Observation(n, {"reason": reason}) for reason, n in lost.items()]


def _thresholds(_: Any) -> Iterable[Observation]:
    passed = dict(limiter.thresholds) if (limiter := _limiter()) is not None else {}
    return [Observation(n, {"budget": name, "threshold": threshold}) for (name, threshold), n in passed.items()]


def _waiting(_: Any) -> Iterable[Observation]:
    return [Observation(limiter.waiting)] if (limiter := _limiter()) is not None else []
