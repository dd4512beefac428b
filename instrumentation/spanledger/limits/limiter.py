"""Admission control: checks kill switches, token caps, then each matching budget, the shortest window first, and selects
a downgrade model."""

from __future__ import annotations

import functools
import itertools
import os
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import ceil
from typing import Final

from spanledger.limits.circuit_breaker import CircuitBreaker
from spanledger.limits.matching_budgets import MatchedBudgets, RequestEstimate
from spanledger.limits.policy import DOWNGRADE, Dimensions, Policy
from spanledger.limits.policy_feed import PolicyFeed
from spanledger.limits.reservations import Cost, Decision, Reservation
from spanledger.limits.store.protocol import BudgetCounter, ReserveResult, Store, StoreError
from spanledger.limits.store.settlement_queue import SettlementWorker
from spanledger.limits.thresholds import Thresholds, warnings

STORE_UNAVAILABLE: Final = "store"
"""The reason of a request that was allowed because the store did not respond."""
CLOSE_TIMEOUT_SECONDS: Final = 4.0
"""Shutdown timeout: one settlement of maximum duration, and those queued behind it."""
MAX_OPEN_RESERVATIONS: Final = 100_000
"""Reservations of the application's own code remembered by a process; the oldest are evicted first, and expire."""


class Limiter:
    """Enforces a policy with the counters of a store. Thread-safe; any number of processes can share one Redis."""

    def __init__(
        self, policy: Policy, store: Store, now: Callable[[], float] = time.time, settlement_store: Store | None = None
    ) -> None:
        """
        Args:
            policy: of this process; budgets published in the store are added to it.
            store: queried while a call waits.
            now: Unix seconds.
            settlement_store: the same store with a longer deadline, for costs that are settled in the background.
        """
        self._store = store
        self._settlement_store = settlement_store or store
        self._remote = store.remote
        self._now = now
        self._breaker = CircuitBreaker(self._start_probe)
        self._policy_feed = PolicyFeed(policy, store, self._breaker, now)
        self._thresholds = Thresholds(store)
        self._settlement_worker = SettlementWorker(
            functools.partial(self._settle_cost, self._settlement_store), self._probe_store
        )
        self._instance_id = secrets.token_hex(8)
        self._sequence = itertools.count()
        self._open_reservations: OrderedDict[str, Reservation] = OrderedDict()
        self._pid = os.getpid()
        self.outcome_counts: Counter[str] = Counter()
        """Requests by outcome: allowed | downgraded | refused | unenforced."""

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy_feed.policy

    @property
    def pending_settlements(self) -> int:
        """Number of costs that are not settled yet."""
        return len(self._settlement_worker)

    @property
    def lost_settlements(self) -> Mapping[str, int]:
        """Reason (full, doubtful, refused) -> number of costs that were dropped without settlement."""
        return self._settlement_worker.lost

    @property
    def store_failures(self) -> int:
        """Number of failed requests to the store."""
        return self._breaker.failure_count

    @property
    def threshold_counts(self) -> Counter[tuple[str, float]]:
        """(budget, threshold) -> how often this process was the first to report it."""
        return self._thresholds.report_counts

    def check(
        self,
        dimensions: Dimensions,
        estimate_picousd: int | None,
        input_tokens: int = 0,
        output_tokens: int = 0,
        request_estimate: RequestEstimate | None = None,
    ) -> Decision:
        """Admit a request and reserve its maximum cost, or return the reason for the refusal.

        Args:
            dimensions: user, feature, ... of the request.
            estimate_picousd: its maximum cost; None if unknown: the request then passes every budget that
                is not exhausted and does not fail closed.
            input_tokens: of the prompt.
            output_tokens: the maximum of the response.
            request_estimate: refines the estimate, and prices a replacement model.
        """
        decision, reservation = self.authorize(
            dimensions, estimate_picousd, input_tokens, output_tokens, request_estimate
        )
        if reservation is not None:
            self._open_reservations[decision.reservation] = reservation
            while len(self._open_reservations) > MAX_OPEN_RESERVATIONS:
                self._open_reservations.popitem(last=False)
        return decision

    def authorize(
        self,
        dimensions: Dimensions,
        estimate_picousd: int | None,
        input_tokens: int = 0,
        output_tokens: int = 0,
        request_estimate: RequestEstimate | None = None,
    ) -> tuple[Decision, Reservation | None]:
        """As `check`, but returns the reservation itself; the limiter keeps no reference to it."""
        decision, reservation = self._authorize(
            dimensions, estimate_picousd, input_tokens, output_tokens, request_estimate
        )
        if not decision.allowed and decision.retry_after_seconds and request_estimate is not None:
            counted_tokens = request_estimate.count_prompt_tokens()
            if counted_tokens is not None and counted_tokens < input_tokens:
                estimate_picousd = request_estimate.max_cost(request_estimate.model, counted_tokens)
                decision, reservation = self._authorize(
                    dimensions, estimate_picousd, counted_tokens, output_tokens, request_estimate
                )
        outcome = "refused" if not decision.allowed else "downgraded" if decision.model else "allowed"
        self.outcome_counts["unenforced" if decision.reason == STORE_UNAVAILABLE else outcome] += 1
        return decision, reservation

    def _authorize(
        self,
        dimensions: Dimensions,
        estimate_picousd: int | None,
        input_tokens: int,
        output_tokens: int,
        request_estimate: RequestEstimate | None,
    ) -> tuple[Decision, Reservation | None]:
        feed = self._policy_feed
        feed.refresh()
        if feed.has_stops and (stopped := feed.stop_reason(dimensions)):
            return Decision(False, stopped), None
        matched = feed.matched_budgets(dimensions)
        if matched.has_token_caps and (
            too_large := matched.token_cap_violation(input_tokens, output_tokens, request_estimate)
        ):
            return Decision(False, too_large), None
        if not matched.budgets:
            return Decision(True, "" if feed.loaded else STORE_UNAVAILABLE), None
        if estimate_picousd is None and (fail_closed_budget := matched.fail_closed_budget):
            return Decision(
                False, f"budget {fail_closed_budget.name!r}: the model has no price and the budget fails closed"
            ), None
        name = self.new_reservation_id()
        amount = max(1, estimate_picousd or 0)
        try:
            held = self._reserve(name, matched.accounts, amount)
            if held.full_index is None:
                return Decision(True, "", 0, name, warnings(matched, held.spent)), Reservation(
                    self, name, matched, amount
                )
            return self._downgrade_or_refuse(name, matched, held.full_index, amount, input_tokens, request_estimate)
        except StoreError as error:
            return self._on_store_failure(name, matched, amount, error)

    def _downgrade_or_refuse(
        self,
        name: str,
        matched: MatchedBudgets,
        full_index: int,
        amount: int,
        input_tokens: int,
        request_estimate: RequestEstimate | None,
    ) -> tuple[Decision, Reservation | None]:
        """The budget `full_index` is exhausted: downgrade the model if the budget says so, else refuse. Raises StoreError."""
        full_budget = matched.budgets[full_index]
        if full_budget.action == DOWNGRADE:
            model, cheaper = matched.downgrade_model(input_tokens, request_estimate)
            reason = f"budget {full_budget.name!r}: {full_budget.effective_action_share:.0%} of {full_budget.amount_text} for the {full_budget.window} is used" if model else ""  # fmt: skip
            amount = cheaper if model else amount
            held = self._reserve(name, matched.without_downgrades(), amount)
            if held.full_index is None:
                threshold_warnings = warnings(matched, held.spent)
                return Decision(True, reason, 0, name, threshold_warnings, model), Reservation(
                    self, name, matched, amount
                )
            full_index = held.full_index
        return self._refusal(matched, full_index), None

    def _refusal(self, matched: MatchedBudgets, full_index: int) -> Decision:
        budget = matched.budgets[full_index]
        share = "" if budget.effective_action_share == 1 else f"{budget.effective_action_share:.0%} of "
        reason = f"budget {budget.name!r}: {share}{budget.amount_text} for the {budget.window} is used up"
        return Decision(False, reason, max(1, ceil(matched.window_ends[full_index] - self._now())))

    def _reserve(self, name: str, counters: Sequence[BudgetCounter], amount: int) -> ReserveResult:
        if self._breaker.is_open:
            raise StoreError(self._breaker.last_error)
        if self._remote:
            self._settlement_worker.start()
        try:
            return self._store.reserve(name, counters, amount)
        except StoreError as error:
            self._breaker.record_failure(error)
            raise

    def _on_store_failure(
        self, name: str, matched: MatchedBudgets, amount: int, error: StoreError
    ) -> tuple[Decision, Reservation | None]:
        reservation = Reservation(self, name, matched, amount)
        fail_closed_budget = matched.fail_closed_budget
        if fail_closed_budget is not None:
            if error.outcome_unknown:
                reservation.count(0)  # the amount may have been reserved in spite of the error
            return Decision(False, f"budget {fail_closed_budget.name!r}: {error}; the budget fails closed", 1), None
        return Decision(True, STORE_UNAVAILABLE, 0, name), reservation

    def new_reservation_id(self) -> str:
        """A new reservation id."""
        return f"{self._instance_id}:{next(self._sequence)}"

    def reserve_more(self, reservation: str, matched: MatchedBudgets, amount: int) -> Decision:
        """Reserve more for a call that was admitted. It cannot be sent to another model any more: a budget that downgrades lets it
        go on, one that blocks may refuse; so does a store that does not answer, if a budget fails closed."""
        try:
            held = self._reserve(reservation, matched.without_downgrades(), amount)
        except StoreError as error:
            fail_closed_budget = matched.fail_closed_budget
            if fail_closed_budget is None:
                return Decision(True, STORE_UNAVAILABLE)
            return Decision(False, f"budget {fail_closed_budget.name!r}: {error}; the budget fails closed", 1)
        return Decision(True) if held.full_index is None else self._refusal(matched, held.full_index)

    def zero_reservation(self, dimensions: Dimensions) -> Reservation | None:
        """A reservation of zero, for costs that were not authorized in advance; None if no budget matches the request."""
        self._policy_feed.refresh()
        matched = self._policy_feed.matched_budgets(dimensions)
        if not matched.budgets:
            return None
        if self._remote:
            self._settlement_worker.start()
        return Reservation(self, "", matched, 0)

    # --- costs -----------------------------------------------------------------------------------------------

    def settle(self, reservation: str, spent_picousd: int) -> bool:
        """Settle a request admitted by `check`: count its cost in picodollars (0: it failed) and release the rest.

        Returns:
            Whether the store has it. A cost that is reported twice counts once.
        """
        open_reservation = self._open_reservations.pop(reservation, None)
        return open_reservation is not None and open_reservation.count_now(spent_picousd)

    def count(self, cost: Cost) -> None:
        """Count a cost and release the held amount; a remote store is updated by a background thread."""
        if self._remote:
            self._settlement_worker.submit(cost)
        else:
            self._settle_cost(self._store, cost)

    def count_now(self, cost: Cost) -> bool:
        """Count a cost synchronously. Returns whether the store has it; if not, it is retried in the background."""
        if not self._breaker.is_open:
            with suppress(StoreError):
                self._settle_cost(self._store, cost)
                return True
        self._settlement_worker.start()
        self._settlement_worker.submit(cost)
        return False

    def flush(self, seconds: float) -> bool:
        """Wait until every cost is settled. Returns False on timeout."""
        return self._settlement_worker.flush(seconds)

    def close(self) -> None:
        """Flush pending settlements at exit: amounts that are still reserved would stay reserved for HOLD_SECONDS."""
        if os.getpid() == self._pid and self._remote:
            self.flush(CLOSE_TIMEOUT_SECONDS)

    def _settle_cost(self, store: Store, cost: Cost, delayed: bool = False) -> None:
        """Raises StoreError."""
        try:
            spent = store.settle(
                cost.reservation,
                cost.matched.accounts,
                cost.held,
                cost.spent,
                delayed=delayed,
                cross_process=cost.cross_process,
            )
        except StoreError as error:
            self._breaker.record_failure(error)
            raise
        self._breaker.record_success()
        self._thresholds.report_crossed(cost.matched, spent)

    def refresh_policy(self) -> None:
        """Load published budgets and kill switches before the first call."""
        self._policy_feed.refresh()

    def _start_probe(self) -> None:
        """Start the settlement worker, which probes the store for recovery."""
        if self._remote:
            self._settlement_worker.start()

    def _probe_store(self) -> bool:
        """Probe a tripped store. Returns whether it responds; True if the breaker is closed."""
        if not self._breaker.is_tripped:
            return True
        try:
            self._store.controls()
        except StoreError as error:
            self._breaker.record_failure(error)
            return False
        self._breaker.record_success()
        return True
