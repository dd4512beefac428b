"""Normalizes budget dimensions to the values stored on rows."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from spanledger.context.baggage import dimension_value
from spanledger.limits.policy import Policy
from spanledger.semconv import attributes as a

DIMENSION_ATTRIBUTES: Final = {"tenant": a.TENANT_ID, "tier": a.CUSTOMER_TIER, "feature": a.FEATURE, "user": a.USER_ID}
"""Budget dimension -> span attribute."""


def normalize_policy(policy: Policy) -> Policy:
    """A policy from a file, with its scope values normalized."""
    scoped = [
        replace(budget, scope={d: normalize_dimension(d, value) for d, value in budget.scope.items()})
        for budget in policy.budgets
    ]
    return replace(policy, budgets=tuple(scoped))


def normalize_dimension(dimension: str, value: str) -> str:
    """A dimension's value (tenant, tier, feature, user) as stored on rows: cleaned; a user is pseudonymized if
    SPANLEDGER_HASH_USER_ID is set, unless the value already is a pseudonym."""
    if dimension == "user" and re.fullmatch(r"[0-9a-f]{32}", value):
        return value
    return dimension_value(DIMENSION_ATTRIBUTES[dimension], value) or value
