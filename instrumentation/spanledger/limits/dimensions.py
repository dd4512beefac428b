"""Values of budget dimensions in the form in which they are stored on rows."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from spanledger.context.baggage import identity
from spanledger.limits.policy import Policy
from spanledger.semconv import attributes as a

ATTRIBUTES: Final = {"tenant": a.TENANT_ID, "tier": a.CUSTOMER_TIER, "feature": a.FEATURE, "user": a.USER_ID}
"""Dimension of a budget -> the attribute that says it."""


def named(policy: Policy) -> Policy:
    """A policy of a file, with the values of its scopes as they stand on rows."""
    scoped = [replace(budget, scope={d: on_rows(d, value) for d, value in budget.scope.items()}) for budget in policy.budgets]
    return replace(policy, budgets=tuple(scoped))


def on_rows(dimension: str, value: str) -> str:
    """A value of a dimension (tenant, tier, feature, user) as it stands on rows: cleaned; a user is a pseudonym where
    SPANLEDGER_HASH_USER_ID is set, unless the value is one already."""
    if dimension == "user" and re.fullmatch(r"[0-9a-f]{32}", value):
        return value
    return identity(ATTRIBUTES[dimension], value) or value
