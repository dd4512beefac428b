"""Matches budgets to a request: computed once per set of dimensions, valid until the first window ends."""

from __future__ import annotations

from datetime import UTC, datetime
from math import ceil, inf
from typing import Final, NamedTuple, Protocol

from spanledger.limits.periods import window
from spanledger.limits.policy import DOWNGRADE, WARN, Budget, Dimensions, Policy, Rule
from spanledger.limits.store.protocol import BudgetCounter

WINDOW_GRACE_SECONDS: Final = 86_400
"""How long counters outlive their window, for calls that finish late."""
UNLIMITED_PICOUSD: Final = 2**62
"""The limit of a budget that never refuses a request."""


class RequestEstimate(Protocol):
    """The cost estimate of a request, which can be refined or repeated for another model."""

    @property
    def model(self) -> str: ...

    @property
    def replaceable(self) -> bool:
        """Whether the model may be replaced."""
        ...

    def max_cost(self, model: str, input_tokens: int) -> int | None:
        """The maximum cost with this model and prompt size, in picodollars; None: the model has no price."""
        ...

    def count_prompt_tokens(self) -> int | None:
        """Exact prompt tokens from a tokenizer (slower); None if there is no tokenizer."""
        ...


class MatchedBudgets(NamedTuple):
    """The budgets that match a request's dimensions, with their counters; valid from `since` to `until`."""

    since: float
    until: float
    """Unix seconds."""
    rule: Rule
    max_input_tokens: int | None
    max_output_tokens: int | None
    budgets: tuple[Budget, ...]
    """Downgrading budgets first, so that a downgrade is known before any other budget refuses; then the shortest window."""
    window_ends: tuple[float, ...]
    """End of each budget's window, Unix seconds."""
    accounts: tuple[BudgetCounter, ...]
    lowest_thresholds: tuple[float, ...]
    """Lowest threshold of each budget, in picodollars."""
    has_token_caps: bool
    """Whether the size of a request is capped."""

    @property
    def fail_closed_budget(self) -> Budget | None:
        """The first budget that fails closed; None for a critical feature, which is never refused."""
        return None if self.rule.critical else next((budget for budget in self.budgets if budget.fail_closed), None)

    def without_downgrades(self) -> list[BudgetCounter]:
        """The counters, with no limit on those of downgrading budgets."""
        return [
            counter._replace(limit_picousd=UNLIMITED_PICOUSD) if budget.action == DOWNGRADE else counter
            for budget, counter in zip(self.budgets, self.accounts, strict=True)
        ]

    def downgrade_model(self, input_tokens: int, request_estimate: RequestEstimate | None) -> tuple[str, int]:
        """(replacement model, its maximum cost in picodollars); "" if there is none or it has no price."""
        if request_estimate is None or not request_estimate.replaceable:
            return "", 0
        model = self.rule.cheaper_model(request_estimate.model)
        price = request_estimate.max_cost(model, input_tokens) if model else None
        return ("", 0) if price is None else (model, max(1, price))

    def token_cap_violation(
        self, input_tokens: int, output_tokens: int, request_estimate: RequestEstimate | None
    ) -> str:
        """The message for a request that exceeds a token cap, or "". A prompt over its upper bound is counted with a tokenizer
        before it is refused."""
        if self.max_input_tokens is not None and input_tokens > self.max_input_tokens:
            counted_tokens = request_estimate.count_prompt_tokens() if request_estimate is not None else None
            if message := _cap_message(
                "input", input_tokens if counted_tokens is None else counted_tokens, self.max_input_tokens
            ):
                return message
        if self.max_output_tokens is not None:
            return _cap_message("output", output_tokens, self.max_output_tokens)
        return ""


def _cap_message(direction: str, tokens: int, cap: int) -> str:
    return f"the request may use {tokens:,} tokens of {direction}, and {cap:,} are allowed" if tokens > cap else ""


def match_budgets(policy: Policy, dimensions: Dimensions, now: float) -> MatchedBudgets:
    """The budgets that match a request at `now` (Unix seconds)."""
    rule = policy.rule(dimensions.value("feature"))
    budgets = sorted(policy.matching(dimensions), key=lambda b: b.action != DOWNGRADE)
    now_utc = datetime.fromtimestamp(now, UTC)
    windows = [window(budget.window, now_utc, budget.zone) for budget in budgets]
    starts, ends = [w.start.timestamp() for w in windows], [w.end.timestamp() for w in windows]
    counters: list[BudgetCounter] = []
    for budget, start, end in zip(budgets, starts, ends, strict=True):
        key = budget.counter_key((dimensions.value(budget.per) if budget.per else None) or "", int(start))
        enforced = budget.action != WARN and not rule.critical
        counters.append(
            BudgetCounter(
                key,
                budget.action_threshold_picousd if enforced else UNLIMITED_PICOUSD,
                ceil(end - start) + WINDOW_GRACE_SECONDS,
                not budget.per,
            )
        )
    max_input_tokens = None if rule.critical else rule.max_input_tokens or policy.max_input_tokens
    max_output_tokens = None if rule.critical else rule.max_output_tokens or policy.max_output_tokens
    return MatchedBudgets(
        max(starts, default=now),
        min(ends, default=inf),
        rule,
        max_input_tokens,
        max_output_tokens,
        tuple(budgets),
        tuple(ends),
        tuple(counters),
        tuple(min(budget.thresholds, default=inf) * budget.amount_picousd for budget in budgets),
        max_input_tokens is not None or max_output_tokens is not None,
    )
