"""Normalizes budget dimensions to the values stored on rows."""

from __future__ import annotations

import re
from dataclasses import replace

from spanledger.context.baggage import dimension_value
from spanledger.limits.policy import Policy
from spanledger.semconv.dimensions import LIMIT_DIMENSIONS


def normalize_policy(policy: Policy) -> Policy:
    """A policy from a file, with its scope values normalized."""
    scoped = [
        replace(budget, scope={d: normalize_dimension(d, value) for d, value in budget.scope.items()})
        for budget in policy.budgets
    ]
    return replace(policy, budgets=tuple(scoped))


def normalize_dimension(dimension: str, value: str) -> str:
    """A dimension's value as stored on rows: cleaned; a user is pseudonymized if
    SPANLEDGER_HASH_USER_ID is set, unless the value already is a pseudonym."""
    if dimension == "user" and re.fullmatch(r"[0-9a-f]{32}", value):
        return value
    return dimension_value(LIMIT_DIMENSIONS[dimension].attribute, value) or value
