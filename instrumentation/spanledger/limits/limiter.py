"""Whether a request may be made: what is stopped by hand, its size, then each budget that counts it, the shortest window
first; and which model it should ask."""

from __future__ import annotations

import itertools
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from math import ceil, inf
from typing import Any, Final, NamedTuple

from spanledger.guard import log
from spanledger.limits.backlog import PAUSE_SECONDS, Backlog
from spanledger.limits.documents import PolicyError, published
from spanledger.limits.policy import DOWNGRADE, WARN, Budget, Policy, Rule
from spanledger.limits.store import Account, Controls, Reserved, Store, StoreError
from spanledger.limits.windows import window

AFTER_SECONDS: Final = 86_400
"""How long the figures of a window stay after its end, for calls that end late."""
CONTROLS_SECONDS: Final = 2.0
"""How old the list of what is stopped by hand, and the published budgets, may be."""
ENDLESS: Final = 2**62
"""The amount of a budget that refuses nothing."""
MAX_TOLD: Final = 10_000
MAX_PLANS: Final = 10_000
MAX_OPEN: Final = 100_000
"""Reservations remembered by a process; the oldest are forgotten first, and run out by themselves."""


class Question(NamedTuple):
    """What a request asks for, where a nearer estimate or another model may matter."""

    model: str
    price: Callable[[str, int], int | None]
    """(model, tokens of the prompt) -> the most that it may cost, in picodollars; None: it has no price."""
    sharper: Callable[[], int | None]
    """Tokens of the prompt as a tokenizer counts them, which takes longer; None where there is none."""
    replaceable: bool = True
    """Whether another model may be asked."""


class Decision(NamedTuple):
    """What `check` says."""

    allowed: bool
    reason: str = ""
    """Why not; why another model; or "store" where the store did not answer and the request passed all the same."""
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


class _Plan(NamedTuple):
    """What counts a request of certain dimensions, as long as no window ends."""

    since: float
    until: float
    """Unix seconds."""
    max_input_tokens: int | None
    max_output_tokens: int | None
    budgets: tuple[Budget, ...]
    ends: tuple[float, ...]
    """Of each budget's window, Unix seconds."""
    accounts: tuple[Account, ...]
    floors: tuple[float, ...]
    """Of each budget, its lowest threshold in picodollars."""


class Cost(NamedTuple):
    """What a response has cost."""

    reservation: str
    """Told twice, it counts once."""
    plan: _Plan
    held: int
    spent: int


class Hold:
    """What one request holds. Each response that it turns out to bill is counted; the first one frees what was held."""

    __slots__ = ("_amount", "_limiter", "_plan", "_reservation")

    def __init__(self, limiter: Limiter, reservation: str, plan: _Plan, amount: int) -> None:
        self._limiter, self._plan, self._amount = limiter, plan, amount
        self._reservation = [reservation]

    def count(self, spent_picousd: int) -> bool:
        """Count a cost. Whether the store has it; if not, it is tried again in the background."""
        try:
            return self._limiter.count(self._reservation.pop(), self._plan, self._amount, spent_picousd)
        except IndexError:  # one more response to the same request
            return self._limiter.count(self._limiter.another(), self._plan, 0, spent_picousd)


class Limiter:
    """A policy over a store. Any number of threads may use it, and any number of processes the same Redis."""

    def __init__(self, policy: Policy, store: Store, now: Callable[[], float] = time.time) -> None:
        """`policy`: of this process; what is published in the store comes to it. `now`: Unix seconds."""
        self.policy = policy
        self._own = policy
        self._store = store
        self._now = now
        self._controls: Controls = Controls()
        self._controls_until = 0.0
        self._asleep_until = 0.0
        self._last_error = ""
        self._silences = itertools.count()
        self._told: OrderedDict[tuple[str, float], None] = OrderedDict()
        self._plans: dict[tuple[str | None, ...], _Plan] = {}
        self._name = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._open: OrderedDict[str, Hold] = OrderedDict()
        self._backlog = Backlog(self._count_again)
        self.counted: Counter[str] = Counter()
        """allowed | downgraded | refused: what became of requests; store_down: how often the store did not answer."""
        self.thresholds: Counter[tuple[str, float]] = Counter()
        """(budget, threshold) -> how often this process was the first to tell of it."""

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
                does not fail closed, and is held with nothing.
            input_tokens: of the prompt.
            output_tokens: that may be answered; 0: it does not say.
            question: where the estimate may be refined, or the model replaced.
        """
        found = self._check(request, estimate_picousd, input_tokens, output_tokens, question)
        if not found.allowed and found.retry_after_seconds and question is not None:
            found = self._sharper(found, request, input_tokens, output_tokens, question)
        self.counted["refused" if not found.allowed else "downgraded" if found.model else "allowed"] += 1
        return found

    def _sharper(
        self, refused: Decision, request: Mapping[str, str | None], read: int, written: int, question: Question
    ) -> Decision:
        """Ask again with the tokens counted, where that makes a difference."""
        counted = question.sharper()
        if counted is None or counted >= read:
            return refused
        return self._check(request, question.price(question.model, counted), counted, written, question)

    def _check(
        self, request: Mapping[str, str | None], estimate: int | None, read: int, written: int, question: Question | None
    ) -> Decision:  # fmt: skip
        self._listen()
        stopped = self._stopped(request)
        if stopped:
            return Decision(False, stopped)
        rule = self.policy.rule(request.get("feature"))
        plan = self._plan(request, rule)
        too_large = _too_large(plan, read, written, question)
        if too_large:
            return Decision(False, too_large)
        if not plan.budgets:
            return Decision(True)
        if estimate is None and not rule.critical and (closed := _closed(plan)):
            return Decision(False, f"budget {closed.name!r}: the model has no price, and the budget fails closed")
        reservation = self.another()
        try:
            return self._reserved(reservation, plan, rule, estimate, read, question)
        except StoreError as error:
            return self._unanswered(reservation, plan, rule, estimate, error)

    def _reserved(
        self, reservation: str, plan: _Plan, rule: Rule, estimate: int | None, read: int, question: Question | None
    ) -> Decision:  # fmt: skip
        """Hold the estimate, or that of a cheaper model; raises StoreError."""
        held = self._reserve(reservation, plan.accounts, estimate or 0)
        model = reason = ""
        if held.full is not None and plan.budgets[held.full].action == DOWNGRADE:
            passed = plan.budgets[held.full]
            if question is not None and question.replaceable and (model := rule.instead_of(question.model)):
                reason = (
                    f"budget {passed.name!r}: {passed.acts_at:.0%} of {passed.shown} for the {passed.window} is used"
                )
                estimate = question.price(model, read)
            held = self._reserve(reservation, _without_downgrades(plan), estimate or 0)
        if held.full is None:
            self._remember(reservation, Hold(self, reservation, plan, estimate or 0))
            return Decision(True, reason, 0, reservation, self._warnings(plan, held.spent), model)
        full = plan.budgets[held.full]
        left = plan.ends[held.full] - self._now()
        share = "" if full.acts_at == 1 else f"{full.acts_at:.0%} of "
        said = f"budget {full.name!r}: {share}{full.shown} for the {full.window} is used up"
        return Decision(False, said, max(1, ceil(left)))

    def _reserve(self, reservation: str, accounts: Sequence[Account], amount: int) -> Reserved:
        if self._asleep_until > time.monotonic():
            raise StoreError(self._last_error)
        try:
            held = self._store.reserve(reservation, accounts, amount)
        except StoreError as error:
            self._silent(error)
            raise
        return held

    def _warnings(self, plan: _Plan, spent: Sequence[int]) -> tuple[str, ...]:
        """The highest threshold that each budget has passed; the first to see it, over all processes, says so."""
        for amount, floor in zip(spent, plan.floors, strict=False):
            if amount >= floor:
                break
        else:
            return ()
        found: list[str] = []
        for number, amount in enumerate(spent):
            if amount < plan.floors[number]:
                continue
            budget = plan.budgets[number]
            share = amount / budget.amount_picousd
            passed = [threshold for threshold in budget.thresholds if share >= threshold]
            if passed:
                found.append(f"{budget.name} {passed[-1]:.0%}")
                self._tell(budget, plan.accounts[number], passed[-1], share)
        return tuple(found)

    def _tell(self, budget: Budget, account: Account, threshold: float, share: float) -> None:
        """Say that a threshold has been passed, unless somebody has. Whose amount it is stands on the rows, not in logs."""
        said = (account.key, threshold)
        if said in self._told:
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
            log.warning(
                "budget %r%s: %.0f%% of %s for the %s is spent", budget.name, whose, share * 100, budget.shown, budget.window
            )  # fmt: skip

    def _plan(self, request: Mapping[str, str | None], rule: Rule) -> _Plan:
        """What counts a request; it is worked out once while the windows last."""
        get = request.get
        key = get("tenant"), get("tier"), get("feature"), get("user")
        now = self._now()
        found = self._plans.get(key)
        if found is None or not found.since <= now < found.until:
            if len(self._plans) >= MAX_PLANS:
                self._plans = {}
            found = self._plans[key] = _planned(self.policy, request, rule, now)
        return found

    def another(self) -> str:
        """The name of a reservation."""
        return f"{self._name}:{next(self._numbers)}"

    def hold(self, request: Mapping[str, str | None]) -> Hold | None:
        """A hold of nothing, for costs that come without having asked; None where no budget counts the request."""
        plan = self._plan(request, self.policy.rule(request.get("feature")))
        return Hold(self, self.another(), plan, 0) if plan.budgets else None

    def settle(self, reservation: str, spent_picousd: int) -> bool:
        """Count what a request has cost, in picodollars (0: it failed), and free the rest of what was held.

        Returns:
            Whether it was counted. Said twice, it counts once.
        """
        hold = self.take(reservation)
        return hold is not None and hold.count(spent_picousd)

    @property
    def waiting(self) -> int:
        """Costs that the store has not taken yet."""
        return len(self._backlog)

    def close(self, seconds: float = 1.0) -> None:
        """Tell the store what it has not taken yet, if it answers, within some seconds."""
        self._backlog.flush(seconds)

    def take(self, reservation: str) -> Hold | None:
        """What a reservation holds, for who counts its costs himself; None where it is not known."""
        return self._open.pop(reservation, None)

    def _remember(self, reservation: str, hold: Hold) -> None:
        self._open[reservation] = hold
        while len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)

    # --- costs -----------------------------------------------------------------------------------------------

    def count(self, reservation: str, plan: _Plan, held: int, spent: int) -> bool:
        """Count a cost and free what was held; whether the store has it (else it is tried again in the background)."""
        if not self._asleep_until or self._asleep_until <= time.monotonic():
            try:
                self._warnings(plan, self._store.settle(reservation, plan.accounts, held, spent))
            except StoreError as error:
                self._silent(error)
            else:
                return True
        self._backlog.add(Cost(reservation, plan, held, spent))
        return False

    def _count_again(self, cost: Cost) -> None:
        self._warnings(cost.plan, self._store.settle(cost.reservation, cost.plan.accounts, cost.held, cost.spent))

    # --- what people say ---------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Hear what is stopped and what is published, where that was long ago."""
        now = time.monotonic()
        if now < self._controls_until or now < self._asleep_until:
            return
        self._controls_until = now + CONTROLS_SECONDS  # other threads go on with what there is
        try:
            found = self._store.controls()
        except StoreError as error:
            self._silent(error)  # what was stopped stays stopped
            return
        if found.published != self._controls.published:
            try:
                self.policy = self._own.with_published(published(found.published))
            except PolicyError as error:
                log.error("%s; the budgets stay as they were", error)
            self._plans = {}
        self._controls = found

    def _stopped(self, request: Mapping[str, str | None]) -> str:
        """What stops the request by hand, in words."""
        if self._controls.stopped:
            for dimension, value in request.items():
                if value is not None and f"{dimension}={value}" in self._controls.stopped:
                    return f"{dimension} {value!r} is stopped (spanledger resume {dimension}={value})"
        return ""

    # --- what goes wrong -----------------------------------------------------------------------------------------

    def _silent(self, error: StoreError) -> None:
        """The store has not answered: leave it alone for a while."""
        self._asleep_until, self._last_error = time.monotonic() + PAUSE_SECONDS, str(error)
        self.counted["store_down"] += 1
        if next(self._silences) == 0:
            log.warning("limits are not enforced: %s", error)

    def _unanswered(
        self, reservation: str, plan: _Plan, rule: Rule, estimate: int | None, error: StoreError
    ) -> Decision:  # fmt: skip
        closed = _closed(plan)
        if closed is not None and not rule.critical:
            self._backlog.add(Cost(reservation, plan, estimate or 0, 0))  # it may be held all the same
            return Decision(False, f"budget {closed.name!r}: {error}, and the budget fails closed", 1)
        self._remember(reservation, Hold(self, reservation, plan, estimate or 0))  # it may have been held all the same
        return Decision(True, "store", 0, reservation)


def _too_large(plan: _Plan, read: int, written: int, question: Question | None) -> str:
    """In words; the prompt is counted by a tokenizer before it is refused for its bound."""
    most_read, most_written = plan.max_input_tokens, plan.max_output_tokens
    if most_read is not None and read > most_read:
        counted = question.sharper() if question is not None else None
        if said := _too_many("input", read if counted is None else counted, most_read):
            return said
    if most_written is not None and written > most_written:
        return _too_many("output", written, most_written)
    return ""


def _too_many(what: str, tokens: int, cap: int) -> str:
    if tokens <= cap:
        return ""
    return f"the request may take {tokens:,} tokens of {what}, and {cap:,} are allowed"


def _closed(plan: _Plan) -> Budget | None:
    return next((budget for budget in plan.budgets if budget.fail_closed), None)


def _without_downgrades(plan: _Plan) -> list[Account]:
    """The accounts, of which those that ask for another model refuse nothing."""
    return [
        account._replace(limit_picousd=ENDLESS) if budget.action == DOWNGRADE else account
        for budget, account in zip(plan.budgets, plan.accounts, strict=True)
    ]


def _planned(policy: Policy, request: Mapping[str, str | None], rule: Rule, now: float) -> _Plan:
    budgets = tuple(budget for budget in policy.budgets if budget.counts(request))
    at = datetime.fromtimestamp(now, UTC)
    windows = [window(budget.window, at, budget.zone) for budget in budgets]
    starts, ends = (
        ([moment.timestamp() for moment in moments] for moments in zip(*windows, strict=True))
        if windows
        else ([now], [inf])
    )
    accounts: list[Account] = []
    for budget, begun, end in zip(budgets, starts, ends, strict=False):
        key = budget.account(request.get(budget.per) or "", int(begun))
        acts = budget.action != WARN and not rule.critical
        accounts.append(Account(key, budget.acts_from_picousd if acts else ENDLESS, ceil(end - begun) + AFTER_SECONDS))
    return _Plan(
        max(starts),
        min(ends),
        rule.max_input_tokens or policy.max_input_tokens,
        rule.max_output_tokens or policy.max_output_tokens,
        budgets,
        tuple(ends),
        tuple(accounts),
        tuple(min(budget.thresholds, default=inf) * budget.amount_picousd for budget in budgets),
    )
