"""Whether a request may be made: what is stopped by hand, its size, then each budget that counts it, the shortest window
first; and which model it should ask."""

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
from typing import Any, Final, NamedTuple

from spanledger.limits.circuit_breaker import Outage
from spanledger.limits.matching_budgets import Plan, Question
from spanledger.limits.policy import DOWNGRADE, Policy, Who
from spanledger.limits.policy_feed import Heard
from spanledger.limits.reservations import Cost, Hold
from spanledger.limits.store.protocol import Account, Reserved, Store, StoreError
from spanledger.limits.store.settlement_queue import Teller
from spanledger.limits.thresholds import Thresholds, warnings

UNANSWERED: Final = "store"
"""The reason of a request that passed because the store did not answer."""
CLOSING_SECONDS: Final = 4.0
"""How long a process that ends waits for the store: one settlement that takes as long as it may, and those behind it."""
MAX_OPEN: Final = 100_000
"""Reservations of the application's own code remembered by a process; the oldest are forgotten first, and run out."""


class Decision(NamedTuple):
    """What `check` says."""

    allowed: bool
    reason: str = ""
    """Why not; why another model; or UNANSWERED where the store did not answer and the request passed all the same."""
    retry_after_seconds: int = 0
    """Until the end of the window whose budget has no room; 0 where waiting does not help."""
    reservation: str = ""
    """For `settle`; "" where nothing is to be counted."""
    warnings: tuple[str, ...] = ()
    """Budgets of which a threshold has been passed, e.g. ("everything 90%",)."""
    model: str = ""
    """The model to ask instead; "": as asked."""

    def as_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "warnings": list(self.warnings)}


class Limiter:
    """A policy over a store. Any number of threads may use it, and any number of processes the same Redis."""

    def __init__(
        self, policy: Policy, store: Store, now: Callable[[], float] = time.time, settling: Store | None = None
    ) -> None:
        """
        Args:
            policy: of this process; what is published in the store comes to it.
            store: asked while a call waits.
            now: Unix seconds.
            settling: the same store with a longer deadline, for costs that are settled in the background.
        """
        self._store = store
        self._settling = settling or store
        self._remote = store.remote
        self._now = now
        self._outage = Outage(self._wonder)
        self._heard = Heard(policy, store, self._outage, now)
        self._thresholds = Thresholds(store)
        self._teller = Teller(functools.partial(self._tell, self._settling), self._answers)
        self._name = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._open: OrderedDict[str, Hold] = OrderedDict()
        self._process = os.getpid()
        self.counted: Counter[str] = Counter()
        """allowed | downgraded | refused | unenforced: what became of requests."""

    @property
    def policy(self) -> Policy:
        """What is in force."""
        return self._heard.policy

    @property
    def waiting(self) -> int:
        """Costs that the store has not taken yet."""
        return len(self._teller)

    @property
    def lost(self) -> Mapping[str, int]:
        """Why (full, doubtful, refused) -> costs that were given up without the store having them."""
        return self._teller.lost

    @property
    def unanswered(self) -> int:
        """How often the store did not answer."""
        return self._outage.times

    @property
    def thresholds(self) -> Counter[tuple[str, float]]:
        """(budget, threshold) -> how often this process was the first to tell of it."""
        return self._thresholds.told

    def check(
        self,
        who: Who,
        estimate_picousd: int | None,
        input_tokens: int = 0,
        output_tokens: int = 0,
        question: Question | None = None,
    ) -> Decision:
        """Let a request pass and hold what it may cost, or say why not.

        Args:
            who: whose budgets count it.
            estimate_picousd: the most that it may cost; None where that is not known: it then passes every budget that
                has any room and does not fail closed.
            input_tokens: of the prompt.
            output_tokens: that may be answered.
            question: where the estimate may be refined, or the model replaced.
        """
        decision, hold = self.ask(who, estimate_picousd, input_tokens, output_tokens, question)
        if hold is not None:
            self._open[decision.reservation] = hold
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        return decision

    def ask(
        self, who: Who, estimate: int | None, read: int = 0, written: int = 0, question: Question | None = None
    ) -> tuple[Decision, Hold | None]:
        """As `check`, with the hold itself, which only the caller knows then."""
        decision, hold = self._asked(who, estimate, read, written, question)
        if not decision.allowed and decision.retry_after_seconds and question is not None:
            counted = question.sharper()
            if counted is not None and counted < read:
                estimate = question.price(question.model, counted)
                decision, hold = self._asked(who, estimate, counted, written, question)
        outcome = "refused" if not decision.allowed else "downgraded" if decision.model else "allowed"
        self.counted["unenforced" if decision.reason == UNANSWERED else outcome] += 1
        return decision, hold

    def _asked(
        self, who: Who, estimate: int | None, read: int, written: int, question: Question | None
    ) -> tuple[Decision, Hold | None]:
        heard = self._heard
        heard.listen()
        if heard.stops and (stopped := heard.stopped(who)):
            return Decision(False, stopped), None
        plan = heard.plan(who)
        if plan.capped and (too_large := plan.too_large(read, written, question)):
            return Decision(False, too_large), None
        if not plan.budgets:
            return Decision(True, "" if heard.anything else UNANSWERED), None
        if estimate is None and (closed := plan.closed):
            return Decision(False, f"budget {closed.name!r}: the model has no price, and the budget fails closed"), None
        name = self.another()
        amount = max(1, estimate or 0)
        try:
            held = self._reserve(name, plan.accounts, amount)
            if held.full is None:
                return Decision(True, "", 0, name, warnings(plan, held.spent)), Hold(self, name, plan, amount)
            return self._full(name, plan, held.full, amount, read, question)
        except StoreError as error:
            return self._unanswered(name, plan, amount, error)

    def _full(
        self, name: str, plan: Plan, full: int, amount: int, read: int, question: Question | None
    ) -> tuple[Decision, Hold | None]:
        """There is no room in the budget `full`: another model, where it asks for one, or no. Raises StoreError."""
        over = plan.budgets[full]
        if over.action == DOWNGRADE:
            model, cheaper = plan.cheaper(read, question)
            reason = f"budget {over.name!r}: {over.acts_at:.0%} of {over.shown} for the {over.window} is used" if model else ""  # fmt: skip
            amount = cheaper if model else amount
            held = self._reserve(name, plan.without_downgrades(), amount)
            if held.full is None:
                threshold_warnings = warnings(plan, held.spent)
                return Decision(True, reason, 0, name, threshold_warnings, model), Hold(self, name, plan, amount)
            full, over = held.full, plan.budgets[held.full]
        share = "" if over.acts_at == 1 else f"{over.acts_at:.0%} of "
        refusal = f"budget {over.name!r}: {share}{over.shown} for the {over.window} is used up"
        return Decision(False, refusal, max(1, ceil(plan.ends[full] - self._now()))), None

    def _reserve(self, name: str, accounts: Sequence[Account], amount: int) -> Reserved:
        if self._outage.lasts:
            raise StoreError(self._outage.last_error)
        if self._remote:
            self._teller.start()
        try:
            return self._store.reserve(name, accounts, amount)
        except StoreError as error:
            self._outage.noticed(error)
            raise

    def _unanswered(self, name: str, plan: Plan, amount: int, error: StoreError) -> tuple[Decision, Hold | None]:
        hold = Hold(self, name, plan, amount)
        closed = plan.closed
        if closed is not None:
            if error.doubtful:
                hold.count(0)  # it may be held all the same
            return Decision(False, f"budget {closed.name!r}: {error}, and the budget fails closed", 1), None
        return Decision(True, UNANSWERED, 0, name), hold

    def another(self) -> str:
        """The name of a reservation."""
        return f"{self._name}:{next(self._numbers)}"

    def hold(self, who: Who) -> Hold | None:
        """A hold of nothing, for costs that come without having asked; None where no budget counts the request."""
        self._heard.listen()
        plan = self._heard.plan(who)
        if not plan.budgets:
            return None
        if self._remote:
            self._teller.start()
        return Hold(self, "", plan, 0)

    # --- costs -----------------------------------------------------------------------------------------------

    def settle(self, reservation: str, spent_picousd: int) -> bool:
        """Count what a request of `check` has cost, in picodollars (0: it failed), and free the rest of what was held.

        Returns:
            Whether the store has it. Said twice, it counts once.
        """
        hold = self._open.pop(reservation, None)
        return hold is not None and hold.count_now(spent_picousd)

    def count(self, cost: Cost) -> None:
        """Count a cost and free what was held; where the store is remote, in a moment and from another thread."""
        if self._remote:
            self._teller.add(cost)
        else:
            self._tell(self._store, cost)

    def count_now(self, cost: Cost) -> bool:
        """Count a cost; whether the store has it (if not, it is told again in the background)."""
        if not self._outage.lasts:
            with suppress(StoreError):
                self._tell(self._store, cost)
                return True
        self._teller.start()
        self._teller.add(cost)
        return False

    def flush(self, seconds: float) -> bool:
        """Wait until the store has every cost; whether it has."""
        return self._teller.flush(seconds)

    def close(self) -> None:
        """Give the store some time to take the costs that it has not; the process is about to end, and what it still
        holds would stay held for HOLD_SECONDS."""
        if os.getpid() == self._process and self._remote:
            self.flush(CLOSING_SECONDS)

    def _tell(self, store: Store, cost: Cost, late: bool = False) -> None:
        """Raises StoreError."""
        try:
            spent = store.settle(cost.reservation, cost.plan.accounts, cost.held, cost.spent, late=late, cross_process=cost.cross_process)
        except StoreError as error:
            self._outage.noticed(error)
            raise
        self._outage.over()
        self._thresholds.look(cost.plan, spent)

    def listen(self) -> None:
        """Hear what people have said, before the first call does."""
        self._heard.listen()

    def _wonder(self) -> None:
        """Have the teller ask whether the store answers again."""
        if self._remote:
            self._teller.start()

    def _answers(self) -> bool:
        """Whether the store answers (again), as far as anybody wonders."""
        if not self._outage.doubted:
            return True
        try:
            self._store.controls()
        except StoreError as error:
            self._outage.noticed(error)
            return False
        self._outage.over()
        return True
