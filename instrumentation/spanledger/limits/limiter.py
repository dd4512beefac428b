"""Whether a request may be made: what is stopped by hand, its size, then each budget that counts it, the shortest window
first; and which model it should ask."""

from __future__ import annotations

import itertools
import os
import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import ceil
from typing import Any, Final, NamedTuple

from spanledger.guard import log
from spanledger.limits.documents import PolicyError, published
from spanledger.limits.plan import Plan, Question, planned
from spanledger.limits.policy import DOWNGRADE, Budget, Policy
from spanledger.limits.store import Account, Controls, Reserved, Store, StoreError
from spanledger.limits.teller import Teller

CONTROLS_SECONDS: Final = 2.0
"""How old the list of what is stopped by hand, and the published budgets, may be."""
SILENT_SECONDS: Final = 5.0
"""How long a store that did not answer is left alone by calls; the teller asks it every second meanwhile."""
LOGGED_SECONDS: Final = 60.0
"""Outages are logged once in this time."""
UNANSWERED: Final = "store"
"""The reason of a request that passed because the store did not answer."""
MAX_TOLD: Final = 10_000
MAX_PLANS: Final = 10_000
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


class Cost(NamedTuple):
    """What a response has cost."""

    reservation: str
    """Told twice, it counts once."""
    plan: Plan
    held: int
    spent: int


class Hold:
    """What one request holds. Each response that it turns out to bill is counted; the first one frees what was held."""

    __slots__ = ("_limiter", "_names", "_plan", "held")

    def __init__(self, limiter: Limiter, reservation: str, plan: Plan, held: int) -> None:
        """`held` in picodollars; `reservation` "": nothing is held."""
        self._limiter, self._plan, self.held = limiter, plan, held
        self._names = [reservation] if reservation else []

    def count(self, spent_picousd: int) -> None:
        """Count a cost, at once in this process, in a moment in a remote store."""
        name, held = self._name()
        if held or spent_picousd:
            self._limiter.count(Cost(name, self._plan, held, spent_picousd))

    def count_now(self, spent_picousd: int) -> bool:
        """Count a cost and wait for the store; whether it has it (if not, it is told again in the background)."""
        name, held = self._name()
        return self._limiter.count_now(Cost(name, self._plan, held, spent_picousd))

    def _name(self) -> tuple[str, int]:
        try:
            return self._names.pop(), self.held
        except IndexError:  # one more response to the same request
            return self._limiter.another(), 0


class _Rules(NamedTuple):
    """A policy, and what was worked out of it."""

    policy: Policy
    plans: dict[tuple[str | None, ...], Plan]


class Limiter:
    """A policy over a store. Any number of threads may use it, and any number of processes the same Redis."""

    def __init__(self, policy: Policy, store: Store, now: Callable[[], float] = time.time) -> None:
        """`policy`: of this process; what is published in the store comes to it. `now`: Unix seconds."""
        self._own = policy
        self._rules = _Rules(policy, {})
        self._store = store
        self._now = now
        self._controls: Controls | None = None
        """None: it has not been heard yet."""
        self._controls_until = 0.0
        self._hearing = threading.Lock()
        self._silent_until = 0.0
        self._last_error = ""
        self._logged = 0.0
        self._told: OrderedDict[tuple[str, float], None] = OrderedDict()
        self._name = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._open: OrderedDict[str, Hold] = OrderedDict()
        self._teller = Teller(self._tell_store, self._answers)
        self._process = os.getpid()
        self.counted: Counter[str] = Counter()
        """allowed | downgraded | refused | unenforced: what became of requests; store_down: how often the store did not answer."""
        self.thresholds: Counter[tuple[str, float]] = Counter()
        """(budget, threshold) -> how often this process was the first to tell of it."""

    @property
    def policy(self) -> Policy:
        """What is in force."""
        return self._rules.policy

    @property
    def waiting(self) -> int:
        """Costs that the store has not taken yet."""
        return len(self._teller)

    @property
    def lost(self) -> Mapping[str, int]:
        """Why (full, doubtful) -> costs that were given up without the store having them."""
        return self._teller.lost

    def check(
        self,
        request: Mapping[str, str | None],
        estimate_picousd: int | None,
        input_tokens: int = 0,
        output_tokens: int = 0,
        question: Question | None = None,
    ) -> Decision:
        """Let a request pass and hold what it may cost, or say why not.

        Args:
            request: dimension (tenant, tier, feature, user) -> its value, or None.
            estimate_picousd: the most that it may cost; None where that is not known: it then passes every budget that
                has any room and does not fail closed.
            input_tokens: of the prompt.
            output_tokens: that may be answered.
            question: where the estimate may be refined, or the model replaced.
        """
        found, hold = self.ask(request, estimate_picousd, input_tokens, output_tokens, question)
        if hold is not None:
            self._open[found.reservation] = hold
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        return found

    def ask(
        self,
        request: Mapping[str, str | None],
        estimate: int | None,
        read: int = 0,
        written: int = 0,
        question: Question | None = None,
    ) -> tuple[Decision, Hold | None]:
        """As `check`, with the hold itself, which only the caller knows then."""
        found, hold = self._asked(request, estimate, read, written, question)
        if not found.allowed and found.retry_after_seconds and question is not None:
            counted = question.sharper()
            if counted is not None and counted < read:
                estimate = question.price(question.model, counted)
                found, hold = self._asked(request, estimate, counted, written, question)
        outcome = "refused" if not found.allowed else "downgraded" if found.model else "allowed"
        self.counted["unenforced" if found.reason == UNANSWERED else outcome] += 1
        return found, hold

    def _asked(
        self, request: Mapping[str, str | None], estimate: int | None, read: int, written: int, question: Question | None
    ) -> tuple[Decision, Hold | None]:  # fmt: skip
        self.listen()
        stopped = self._stopped(request)
        if stopped:
            return Decision(False, stopped), None
        plan = self._plan(request)
        too_large = plan.too_large(read, written, question)
        if too_large:
            return Decision(False, too_large), None
        if not plan.budgets:
            return Decision(True, "" if self._controls is not None else UNANSWERED), None
        if estimate is None and (closed := plan.closed):
            return Decision(False, f"budget {closed.name!r}: the model has no price, and the budget fails closed"), None
        name = self.another()
        try:
            return self._reserved(name, plan, max(1, estimate or 0), read, question)
        except StoreError as error:
            return self._unanswered(name, plan, max(1, estimate or 0), error)

    def _reserved(
        self, name: str, plan: Plan, amount: int, read: int, question: Question | None
    ) -> tuple[Decision, Hold | None]:
        """Hold an amount, or that of a cheaper model; raises StoreError."""
        held = self._reserve(name, plan.accounts, amount)
        model = reason = ""
        if held.full is not None and plan.budgets[held.full].action == DOWNGRADE:
            model, cheaper = _cheaper(plan, read, question)
            if model:
                over = plan.budgets[held.full]
                reason = f"budget {over.name!r}: {over.acts_at:.0%} of {over.shown} for the {over.window} is used"
                amount = cheaper
            held = self._reserve(name, plan.without_downgrades(), amount)
        if held.full is None:
            warnings = _warnings(plan, held.spent)
            return Decision(True, reason, 0, name, warnings, model), Hold(self, name, plan, amount)
        full = plan.budgets[held.full]
        share = "" if full.acts_at == 1 else f"{full.acts_at:.0%} of "
        said = f"budget {full.name!r}: {share}{full.shown} for the {full.window} is used up"
        return Decision(False, said, max(1, ceil(plan.ends[held.full] - self._now()))), None

    def _reserve(self, name: str, accounts: Sequence[Account], amount: int) -> Reserved:
        if self._silent_until and self._silent_until > time.monotonic():
            raise StoreError(self._last_error)
        if self._store.remote:
            self._teller.start()
        try:
            return self._store.reserve(name, accounts, amount)
        except StoreError as error:
            self._silent(error)
            raise

    def _plan(self, request: Mapping[str, str | None]) -> Plan:
        """What counts a request; it is worked out once while the windows last."""
        get = request.get
        key = get("tenant"), get("tier"), get("feature"), get("user")
        policy, plans = self._rules
        now = self._now()
        found = plans.get(key)
        if found is None or not found.since <= now < found.until:
            if len(plans) >= MAX_PLANS:
                plans.clear()
            found = plans[key] = planned(policy, request, now)
        return found

    def another(self) -> str:
        """The name of a reservation."""
        return f"{self._name}:{next(self._numbers)}"

    def hold(self, request: Mapping[str, str | None]) -> Hold | None:
        """A hold of nothing, for costs that come without having asked; None where no budget counts the request."""
        self.listen()
        plan = self._plan(request)
        if not plan.budgets:
            return None
        if self._store.remote:
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
        if self._store.remote:
            self._teller.add(cost)
        else:
            self._tell_store(cost)

    def count_now(self, cost: Cost) -> bool:
        """Count a cost; whether the store has it (if not, it is told again in the background)."""
        if self._silent_until <= time.monotonic():
            with suppress(StoreError):
                self._tell_store(cost)
                return True
        self._teller.start()
        self._teller.add(cost)
        return False

    def flush(self, seconds: float) -> bool:
        """Wait until the store has every cost; whether it has."""
        return self._teller.flush(seconds)

    def close(self) -> None:
        """Give the store a second to take what it has not; the process is about to end."""
        if os.getpid() == self._process and self._store.remote:
            self.flush(1.0)

    def _tell_store(self, cost: Cost) -> None:
        try:
            spent = self._store.settle(cost.reservation, cost.plan.accounts, cost.held, cost.spent)
        except StoreError as error:
            self._silent(error)
            raise
        self._silent_until = 0.0
        plan = cost.plan
        for budget, account, amount, floor in zip(plan.budgets, plan.accounts, spent, plan.floors, strict=True):
            if amount >= floor:
                self._tell(budget, account, amount)

    def _tell(self, budget: Budget, account: Account, spent: int) -> None:
        """Say that a threshold has been passed, unless somebody has. Whose amount it is stands on the rows, not in logs."""
        threshold = _highest(budget, spent)
        said = (account.key, threshold)
        if not threshold or said in self._told:
            return
        self._told[said] = None
        if len(self._told) > MAX_TOLD:
            self._told.popitem(last=False)
        try:
            first = self._store.first(account, str(threshold))
        except StoreError:
            first = True  # better twice than never
        if first:
            self.thresholds[budget.name, threshold] += 1
            whose = f" of one {budget.per}" if budget.per else ""
            share = spent / budget.amount_picousd * 100
            log.warning("budget %r%s: %.0f%% of %s for the %s is spent", budget.name, whose, share, budget.shown, budget.window)  # fmt: skip

    # --- what people say ---------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Hear what is stopped and what is published, where that was long ago; the first time everybody waits for it."""
        if self._controls is not None:
            if time.monotonic() >= self._controls_until and self._hearing.acquire(blocking=False):
                try:
                    self._hear()
                finally:
                    self._hearing.release()
            return
        with self._hearing:
            if self._controls is None:
                self._hear()

    def _hear(self) -> None:
        now = time.monotonic()
        if now < self._silent_until:
            return
        self._controls_until = now + CONTROLS_SECONDS
        try:
            found = self._store.controls()
        except StoreError as error:
            self._silent(error)  # what was stopped stays stopped
            return
        if found.published != (self._controls.published if self._controls is not None else ""):
            try:
                self._rules = _Rules(self._own.with_published(published(found.published)), {})
            except PolicyError as error:
                log.error("%s; the budgets stay as they were", error)
        self._controls = found

    def _stopped(self, request: Mapping[str, str | None]) -> str:
        """What stops the request by hand, in words."""
        if self._controls is not None and self._controls.stopped:
            for dimension, value in request.items():
                if value is not None and f"{dimension}={value}" in self._controls.stopped:
                    return f"{dimension} {value!r} is stopped (spanledger resume {dimension}={value})"
        return ""

    # --- when the store does not answer ---------------------------------------------------------------------------

    def _silent(self, error: StoreError) -> None:
        """The store has not answered: calls leave it alone until it does, or for a while."""
        now = time.monotonic()
        self._silent_until, self._last_error = now + SILENT_SECONDS, str(error)
        self.counted["store_down"] += 1
        if self._store.remote:
            self._teller.start()
        if not self._logged or now - self._logged > LOGGED_SECONDS:
            self._logged = now
            log.warning("limits are not enforced: %s", error)

    def _answers(self) -> bool:
        """Whether the store answers (again), as far as anybody wonders."""
        if not self._silent_until:
            return True
        try:
            self._store.controls()
        except StoreError as error:
            self._silent(error)
            return False
        self._silent_until = 0.0
        return True

    def _unanswered(self, name: str, plan: Plan, amount: int, error: StoreError) -> tuple[Decision, Hold | None]:
        hold = Hold(self, name, plan, amount)
        closed = plan.closed
        if closed is not None:
            if error.doubtful:
                hold.count(0)  # it may be held all the same
            return Decision(False, f"budget {closed.name!r}: {error}, and the budget fails closed", 1), None
        return Decision(True, UNANSWERED, 0, name), hold


def _cheaper(plan: Plan, read: int, question: Question | None) -> tuple[str, int]:
    """(the model to ask instead, what it may cost at most); "" where there is none, or it has no price."""
    if question is None or not question.replaceable:
        return "", 0
    model = plan.rule.instead_of(question.model)
    price = question.price(model, read) if model else None
    return ("", 0) if price is None else (model, max(1, price))


def _highest(budget: Budget, spent: int) -> float:
    """The highest threshold that has been passed; 0.0: none."""
    share = spent / budget.amount_picousd
    return max((threshold for threshold in budget.thresholds if share >= threshold), default=0.0)


def _warnings(plan: Plan, spent: Sequence[int]) -> tuple[str, ...]:
    """The highest threshold that each budget has passed."""
    for amount, floor in zip(spent, plan.floors, strict=True):
        if amount >= floor:
            break
    else:
        return ()
    passed = [(budget.name, _highest(budget, amount)) for budget, amount in zip(plan.budgets, spent, strict=True)]
    return tuple(f"{name} {threshold:.0%}" for name, threshold in passed if threshold)
