"""The limiter: order of checks, scopes, thresholds, downgrades, models without a price."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from limiters import USD, blocking, limiter_of
from questions import Question
from spanledger.limits.limiter import Decision, Limiter
from spanledger.limits.policy import Budget, Dimensions, Policy, Rule
from spanledger.limits.policy_documents import policy_from_document
from spanledger.limits.store.protocol import Store

pytestmark = pytest.mark.services


def test_checks_run_in_the_order_size_hour_day_month(store: Store):
    now = datetime(2026, 3, 31, 22, 59, 30, tzinfo=UTC)
    policy = policy_from_document({"budget": [
        {"name": "m", "window": "month", "amount_usd": 3, "action": "block"}, {"name": "d", "window": "day", "amount_usd": 2, "action": "block"}, {"name": "h", "window": "hour", "amount_usd": 1, "action": "block"},
    ], "request": {"max_output_tokens": 100}})  # fmt: skip
    limiter = Limiter(policy, store, lambda: now.timestamp())  # noqa: PLW0108 - `now` changes
    dimensions = Dimensions(user="ada")
    assert limiter.check(dimensions, USD, 5, 101) == Decision(
        False, "the request may use 101 tokens of output, and 100 are allowed"
    )
    for hour in (22, 23):
        now = datetime(2026, 3, 31, hour, 59, 30, tzinfo=UTC)
        assert limiter.check(dimensions, USD).allowed
        assert limiter.check(dimensions, USD)[:3] == (False, "budget 'h': $1 for the hour is used up", 30)
    now = datetime(2026, 3, 31, 23, 59, 30, 500_000, tzinfo=UTC)
    assert limiter.check(dimensions, USD)[:3] == (False, "budget 'h': $1 for the hour is used up", 30)
    now = datetime(2026, 4, 1, tzinfo=UTC)
    assert limiter.check(dimensions, USD).allowed
    now = datetime(2026, 4, 1, 1, tzinfo=UTC)
    assert limiter.check(dimensions, USD).allowed
    now = datetime(2026, 4, 1, 2, 0, 1, tzinfo=UTC)
    assert limiter.check(dimensions, USD)[:3] == (False, "budget 'd': $2 for the day is used up", 22 * 3600 - 1)
    now = datetime(2026, 4, 2, 2, tzinfo=UTC)
    assert limiter.check(dimensions, USD).allowed
    now = datetime(2026, 4, 3, tzinfo=UTC)
    assert limiter.check(dimensions, USD)[:3] == (False, "budget 'm': $3 for the month is used up", 28 * 86_400)


def test_a_budget_per_user_counts_each_user_within_its_scope(store: Store):
    limiter = limiter_of(store, blocking("u", "hour", USD, {"tier": "free"}, "user"))
    assert limiter.check(Dimensions(user="ada", tier="free"), USD).allowed
    assert not limiter.check(Dimensions(user="ada", tier="free"), USD).allowed
    assert limiter.check(Dimensions(user="bob", tier="free"), USD).allowed
    assert limiter.check(Dimensions(user="ada", tier="pro"), USD).reservation == ""
    assert limiter.check(Dimensions(user=None, tier="free"), USD).reservation == ""


def test_each_threshold_is_logged_once_a_period_over_all_limiters(store: Store, caplog):
    now = datetime(2026, 3, 31, 22, tzinfo=UTC)
    budget = Budget("u", "day", USD, {}, "user")
    first, second = (Limiter(Policy((budget,)), store, lambda: now.timestamp()) for _ in range(2))  # noqa: PLW0108
    warnings = []
    for number in range(12):
        limiter = (first, second)[number % 2]
        decision = limiter.check(Dimensions(user="ada"), USD // 5)
        assert decision.allowed, "a budget that warns refuses nothing"
        warnings.append(decision.warnings)
        limiter.settle(decision.reservation, USD // 10)
    assert warnings == [()] * 8 + [("u 80%",), ("u 90%",), ("u 100%",), ("u 100%",)], (
        "of what was spent before each call"
    )
    lines = [record.message for record in caplog.records]
    assert lines == [f"budget 'u' of one user: {n}% of $1 for the day is spent" for n in (80, 90, 100)]
    first.settle(first.check(Dimensions(user="bob"), 95 * USD // 100).reservation, 95 * USD // 100)
    now = datetime(2026, 4, 1, tzinfo=UTC)
    second.settle(second.check(Dimensions(user="ada"), USD).reservation, USD * 2)
    assert second.check(Dimensions(user="ada"), USD).warnings == ("u 100%",)
    assert len(caplog.records) == 5


def test_a_failed_call_releases_its_reservation_and_a_cost_counts_once(store: Store):
    limiter = limiter_of(store, blocking("all", "month", USD))
    first = limiter.check(Dimensions(), USD)
    assert limiter.settle(first.reservation, 0)
    second = limiter.check(Dimensions(), USD)
    assert limiter.settle(second.reservation, USD // 2)
    assert not limiter.settle(second.reservation, USD // 2)
    assert limiter.check(Dimensions(), USD // 2).allowed


def test_a_model_without_a_price_is_allowed_unless_the_budget_fails_closed(store: Store):
    assert limiter_of(store, blocking("open", "hour", USD)).check(Dimensions(), None).allowed
    refusal = limiter_of(store, blocking("closed", "hour", USD, fail_closed=True)).check(Dimensions(), None)
    assert (refusal.allowed, refusal.reason) == (
        False,
        "budget 'closed': the model has no price and the budget fails closed",
    )


def test_a_downgrade_applies_before_a_blocking_budget_is_checked(store: Store):
    """The hour has no room for the big model; the month replaces it by the small one, for which there is room."""
    prices = {"big": 12 * USD // 10, "small": USD // 10}
    policy = Policy(
        (blocking("hour", "hour", USD), Budget("month", "month", USD // 10, action="downgrade")), features={"*": Rule({"big": "small"})}
    )  # fmt: skip
    estimate = Question("big", prices.get)
    decision = Limiter(policy, store).check(Dimensions(), prices["big"], request_estimate=estimate)
    assert (decision.allowed, decision.model) == (True, "small")
    unpriced = Question("big", {"big": prices["big"]}.get)
    assert not Limiter(policy, store).check(Dimensions(), prices["big"], request_estimate=unpriced).allowed, (
        "a model without a price is no saving"
    )
