"""Which budgets count a request, and in which accounts: worked out once for each set of dimensions, while windows last."""

from __future__ import annotations

from datetime import UTC, datetime
from math import ceil, inf
from typing import Final, NamedTuple, Protocol

from spanledger.limits.periods import window
from spanledger.limits.policy import DOWNGRADE, WARN, Budget, Policy, Rule, Who
from spanledger.limits.store.protocol import Account

AFTER_SECONDS: Final = 86_400
"""How long the figures of a window stay after its end, for calls that end late."""
ENDLESS: Final = 2**62
"""The amount of a budget that refuses nothing."""


class Question(Protocol):
    """What a request asks for, where a nearer estimate or another model may matter."""

    @property
    def model(self) -> str: ...

    @property
    def replaceable(self) -> bool:
        """Whether another model may be asked."""
        ...

    def price(self, model: str, read: int) -> int | None:
        """The most that it may cost at a model, with so many tokens of prompt, in picodollars; None: it has no price."""
        ...

    def sharper(self) -> int | None:
        """Tokens of the prompt as a tokenizer counts them, which takes longer; None where there is none."""
        ...


class Plan(NamedTuple):
    """What counts a request of certain dimensions, as long as no window ends."""

    since: float
    until: float
    """Unix seconds."""
    rule: Rule
    max_input_tokens: int | None
    max_output_tokens: int | None
    budgets: tuple[Budget, ...]
    """Those that ask for another model first: whether one does is known before any other refuses. Then the shortest window."""
    ends: tuple[float, ...]
    """Of each budget's window, Unix seconds."""
    accounts: tuple[Account, ...]
    floors: tuple[float, ...]
    """Of each budget, its lowest threshold in picodollars."""
    capped: bool
    """Whether a request may not be of any size."""

    @property
    def closed(self) -> Budget | None:
        """A budget that refuses what it cannot count, if a request may be refused at all."""
        return None if self.rule.critical else next((budget for budget in self.budgets if budget.fail_closed), None)

    def without_downgrades(self) -> list[Account]:
        """The accounts, of which those that ask for another model refuse nothing."""
        return [
            account._replace(limit_picousd=ENDLESS) if budget.action == DOWNGRADE else account
            for budget, account in zip(self.budgets, self.accounts, strict=True)
        ]

    def cheaper(self, read: int, question: Question | None) -> tuple[str, int]:
        """(the model to ask instead, what it may cost at most); "" where there is none, or it has no price."""
        if question is None or not question.replaceable:
            return "", 0
        model = self.rule.instead_of(question.model)
        price = question.price(model, read) if model else None
        return ("", 0) if price is None else (model, max(1, price))

    def too_large(self, read: int, written: int, question: Question | None) -> str:
        """Whether a request is larger than one may be, in words; a prompt is counted by a tokenizer before it is refused
        for its bound."""
        if self.max_input_tokens is not None and read > self.max_input_tokens:
            counted = question.sharper() if question is not None else None
            if message := _too_many("input", read if counted is None else counted, self.max_input_tokens):
                return message
        if self.max_output_tokens is not None:
            return _too_many("output", written, self.max_output_tokens)
        return ""


def _too_many(what: str, tokens: int, cap: int) -> str:
    return f"the request may take {tokens:,} tokens of {what}, and {cap:,} are allowed" if tokens > cap else ""


def planned(policy: Policy, who: Who, now: float) -> Plan:
    """What counts a request now (Unix seconds)."""
    rule = policy.rule(who.feature)
    budgets = sorted((b for b in policy.budgets if b.counts(who)), key=lambda b: b.action != DOWNGRADE)
    now_utc = datetime.fromtimestamp(now, UTC)
    windows = [window(budget.window, now_utc, budget.zone) for budget in budgets]
    starts, ends = [w.start.timestamp() for w in windows], [w.end.timestamp() for w in windows]
    accounts: list[Account] = []
    for budget, begun, end in zip(budgets, starts, ends, strict=True):
        key = budget.account((getattr(who, budget.per) if budget.per else None) or "", int(begun))
        acts = budget.action != WARN and not rule.critical
        accounts.append(
            Account(
                key, budget.acts_from_picousd if acts else ENDLESS, ceil(end - begun) + AFTER_SECONDS, not budget.per
            )
        )
    max_input_tokens = None if rule.critical else rule.max_input_tokens or policy.max_input_tokens
    max_output_tokens = None if rule.critical else rule.max_output_tokens or policy.max_output_tokens
    return Plan(
        max(starts, default=now),
        min(ends, default=inf),
        rule,
        max_input_tokens,
        max_output_tokens,
        tuple(budgets),
        tuple(ends),
        tuple(accounts),
        tuple(min(budget.thresholds, default=inf) * budget.amount_picousd for budget in budgets),
        max_input_tokens is not None or max_output_tokens is not None,
    )
