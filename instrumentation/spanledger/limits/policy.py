"""What may be spent, on what, in which window; what becomes of a call; what one request may ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, tzinfo
from decimal import Decimal
from typing import Final, NamedTuple

from spanledger.limits.periods import WINDOWS


class Who(NamedTuple):
    """Whose call it is. None: nobody said."""

    tenant: str | None = None
    tier: str | None = None
    feature: str | None = None
    user: str | None = None


DIMENSIONS: Final = Who._fields
WARN: Final = "warn"
DOWNGRADE: Final = "downgrade"
BLOCK: Final = "block"
ACTIONS: Final = (WARN, DOWNGRADE, BLOCK)
ACTS_AT: Final = {WARN: Decimal(1), DOWNGRADE: Decimal("0.95"), BLOCK: Decimal(1)}
"""Action -> the share of the amount from which it is taken, where the budget does not say."""
EVERY: Final = "*"
"""The feature whose rule is that of all features without one."""


@dataclass(frozen=True)
class Budget:
    """An amount that may be spent in each window."""

    name: str
    window: str
    amount_picousd: int
    scope: Mapping[str, str] = field(default_factory=dict[str, str])
    """Dimension -> the value that a request must have to be counted; empty: every request."""
    per: str = ""
    """A dimension each of whose values has the amount for itself."""
    zone: tzinfo = UTC
    fail_closed: bool = False
    """Whether a request is refused where the store does not answer."""
    action: str = WARN
    """warn | downgrade | block: what becomes of a request from `at` on."""
    thresholds: tuple[float, ...] = (0.8, 0.9, 0.95, 1.0)
    """Shares of the amount that are told of, in order, each once in a window over all processes."""
    action_share: Decimal | None = None
    """The share of the amount from which the action is taken; None: as the action has it."""

    def counts(self, who: Who) -> bool:
        """Whether a request of theirs is counted. One without a user is nobody's: no budget per user counts it."""
        if self.per and not getattr(who, self.per):
            return False
        return all(getattr(who, dimension) == value for dimension, value in self.scope.items())

    def account(self, value: str, begun: int) -> str:
        """The name of the amount of one window, and of one value of `per`. `begun`: Unix seconds."""
        return f"{self.name}\x1f{value}\x1f{self.window}\x1f{begun}"

    @property
    def acts_at(self) -> Decimal:
        return ACTS_AT[self.action] if self.action_share is None else self.action_share

    @property
    def acts_from_picousd(self) -> int:
        """What is spent and held may not pass this without the action being taken."""
        return int(self.amount_picousd * self.acts_at)

    @property
    def shown(self) -> str:
        """The amount in dollars, e.g. "$0.05"."""
        return f"${Decimal(self.amount_picousd).scaleb(-12).normalize():f}"


@dataclass(frozen=True)
class Rule:
    """What holds for the calls of a feature. None: as for every request."""

    downgrade: Mapping[str, str] = field(default_factory=dict[str, str])
    """Model -> the cheaper one to ask in its place."""
    pinned: bool = False
    critical: bool = False
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None

    def instead_of(self, model: str) -> str:
        """The model to ask in place of `model`; "" where there is none."""
        return "" if self.pinned or self.critical else self.downgrade.get(model, "")


NO_RULE: Final = Rule()


@dataclass(frozen=True)
class Policy:
    """All budgets, the shortest window first, and what one request may ask for (tokens; None: anything)."""

    budgets: tuple[Budget, ...] = ()
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    assumed_output_tokens: int = 4096
    """What a call that sets no maximum is taken to answer at most."""
    enforce: bool = False
    """Whether the doors ask for every call; else only the application's code does."""
    features: Mapping[str, Rule] = field(default_factory=dict[str, Rule])

    def rule(self, feature: str | None) -> Rule:
        """What holds for the calls of a feature; None: of calls without one."""
        return self.features.get(feature or EVERY) or self.features.get(EVERY, NO_RULE)

    def with_published(self, other: Policy) -> Policy:
        """This and `other`; what has the same name is as `other` says, for that can be changed while things run."""
        names = {budget.name for budget in other.budgets}
        budgets = [*other.budgets, *(budget for budget in self.budgets if budget.name not in names)]
        return replace(self, budgets=in_order(budgets), features={**self.features, **other.features})


def in_order(budgets: list[Budget]) -> tuple[Budget, ...]:
    """The shortest window first."""
    return tuple(sorted(budgets, key=lambda budget: WINDOWS.index(budget.window)))
