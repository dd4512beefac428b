"""The limits policy: budgets with scope, window and action, rules per feature, and token caps per request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, tzinfo
from decimal import Decimal
from functools import cached_property
from typing import Final, Self, Unpack

from spanledger.limits.periods import WINDOWS
from spanledger.semconv.dimensions import LIMIT_DIMENSIONS, LimitDimensions


class Dimensions(tuple[str | None, ...]):
    """The values of a call's budget dimensions, in the order of `LIMIT_DIMENSIONS`. None: unattributed."""

    __slots__ = ()

    def __new__(cls, **values: Unpack[LimitDimensions]) -> Self:
        """Raises TypeError for a name that is not a budget dimension."""
        if unknown := values.keys() - LIMIT_DIMENSIONS.keys():
            raise TypeError(f"{', '.join(sorted(unknown))}: not a budget dimension; use {', '.join(LIMIT_DIMENSIONS)}")
        return super().__new__(cls, map(values.get, LIMIT_DIMENSIONS))

    @classmethod
    def of_attributes(cls, attributes: Mapping[str, str | None]) -> Self:
        """The dimensions of a call, from its span attributes."""
        return super().__new__(cls, map(attributes.get, _ATTRIBUTES))

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, str | None]]:
        return (), dict(zip(LIMIT_DIMENSIONS, self, strict=True))

    def __repr__(self) -> str:
        values = zip(LIMIT_DIMENSIONS, self, strict=True)
        return f"Dimensions({', '.join(f'{name}={value!r}' for name, value in values if value is not None)})"

    def value(self, dimension: str) -> str | None:
        return self[_INDEX[dimension]]


_ATTRIBUTES: Final = tuple(row.attribute for row in LIMIT_DIMENSIONS.values())
_INDEX: Final = {name: index for index, name in enumerate(LIMIT_DIMENSIONS)}

WARN: Final = "warn"
DOWNGRADE: Final = "downgrade"
BLOCK: Final = "block"
ACTIONS: Final = (WARN, DOWNGRADE, BLOCK)
DEFAULT_ACTION_SHARES: Final = {WARN: Decimal(1), DOWNGRADE: Decimal("0.95"), BLOCK: Decimal(1)}
"""Action -> its default share of the amount."""
ANY_FEATURE: Final = "*"
"""Wildcard: the rule for all features without their own."""


@dataclass(frozen=True)
class Budget:
    """A spending limit per window."""

    name: str
    window: str
    amount_picousd: int
    scope: Mapping[str, str] = field(default_factory=dict[str, str])
    """Dimension -> required value; empty: the budget matches every request."""
    per: str = ""
    """A dimension: each of its values gets its own amount."""
    zone: tzinfo = UTC
    fail_closed: bool = False
    """Whether a request is refused if the store does not respond."""
    action: str = WARN
    """warn | downgrade | block: what happens to a request above `action_share`."""
    thresholds: tuple[float, ...] = (0.8, 0.9, 0.95, 1.0)
    """Shares of the amount that are reported, ascending, each once per window across all processes."""
    action_share: Decimal | None = None
    """The share of the amount above which the action is taken; None: the action's default."""

    def matches(self, dimensions: Dimensions) -> bool:
        """Whether the budget matches a request. A request without a user matches no budget per user."""
        if self.per and not dimensions.value(self.per):
            return False
        return all(dimensions.value(dimension) == value for dimension, value in self.scope.items())

    def counter_key(self, value: str, window_start: int) -> str:
        """The counter key for one window and one value of `per`. `window_start`: Unix seconds."""
        return f"{self.name}\x1f{value}\x1f{self.window}\x1f{window_start}"

    @property
    def effective_action_share(self) -> Decimal:
        return DEFAULT_ACTION_SHARES[self.action] if self.action_share is None else self.action_share

    @property
    def action_threshold_picousd(self) -> int:
        """The action is taken when spent plus held would exceed this."""
        return int(self.amount_picousd * self.effective_action_share)

    @property
    def amount_text(self) -> str:
        """The amount in dollars, e.g. "$0.05"."""
        return f"${Decimal(self.amount_picousd).scaleb(-12).normalize():f}"


@dataclass(frozen=True)
class Rule:
    """Overrides for the calls of one feature. None: the policy's default."""

    downgrade: Mapping[str, str] = field(default_factory=dict[str, str])
    """Model -> cheaper replacement."""
    pinned: bool = False
    critical: bool = False
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    max_stream_seconds: int | None = None

    def cheaper_model(self, model: str) -> str:
        """The replacement for `model`; "" if there is none."""
        return "" if self.pinned or self.critical else self.downgrade.get(model, "")


NO_RULE: Final = Rule()


@dataclass(frozen=True)
class Policy:
    """All budgets, the shortest window first, and the caps of a request (None: no cap)."""

    budgets: tuple[Budget, ...] = ()
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    assumed_output_tokens: int = 4096
    """Assumed maximum output of a call that sets none."""
    enforce: bool = False
    """Whether the SDK hooks authorize every call; otherwise only the application's own code does."""
    features: Mapping[str, Rule] = field(default_factory=dict[str, Rule])
    max_stream_seconds: int | None = None
    """How long a stream may take; None: as long as it does."""

    def matching(self, dimensions: Dimensions) -> list[Budget]:
        """The budgets that match a request, in order; found by their first required value, however many there are."""
        everybody, by_value = self._index
        places = list(everybody)
        for dimension, value in zip(LIMIT_DIMENSIONS, dimensions, strict=True):
            if value is not None:
                places += by_value.get((dimension, value), ())
        candidates = (self.budgets[place] for place in sorted(places))
        return [budget for budget in candidates if budget.matches(dimensions)]

    @cached_property
    def _index(self) -> tuple[list[int], dict[tuple[str, str], list[int]]]:
        """Places of the budgets without a scope, and of the others by one (dimension, value) of it."""
        everybody: list[int] = []
        by_value: dict[tuple[str, str], list[int]] = {}
        for place, budget in enumerate(self.budgets):
            required = next(iter(budget.scope.items()), None)
            (everybody if required is None else by_value.setdefault(required, [])).append(place)
        return everybody, by_value

    def relevant(self, dimensions: Dimensions) -> Dimensions:
        """The dimensions by which this policy selects; the others are None, so that the budgets of calls are found once for all requests."""
        places = zip(LIMIT_DIMENSIONS.values(), dimensions, self._is_used, strict=True)
        return Dimensions.of_attributes({row.attribute: value for row, value, is_used in places if is_used})

    @cached_property
    def _is_used(self) -> tuple[bool, ...]:
        used = {
            "feature",
            *(budget.per for budget in self.budgets),
            *(d for budget in self.budgets for d in budget.scope),
        }
        return tuple(name in used for name in LIMIT_DIMENSIONS)

    def rule(self, feature: str | None) -> Rule:
        """The rule for a feature; None: for calls without a feature."""
        return self.features.get(feature or ANY_FEATURE) or self.features.get(ANY_FEATURE, NO_RULE)

    def with_published(self, other: Policy) -> Policy:
        """This policy merged with `other`; on equal names `other` wins, because it can be changed at run time."""
        names = {budget.name for budget in other.budgets}
        budgets = [*other.budgets, *(budget for budget in self.budgets if budget.name not in names)]
        return replace(self, budgets=sorted_by_window(budgets), features={**self.features, **other.features})


def sorted_by_window(budgets: list[Budget]) -> tuple[Budget, ...]:
    """Budgets sorted by window, the shortest first."""
    return tuple(sorted(budgets, key=lambda budget: WINDOWS.index(budget.window)))
