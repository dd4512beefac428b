"""Budgets as rows of the ledger: read, written, and how each stands at a moment.

A row has the figures of a `[[budget]]` in a file of limits, and is checked as one. What is spent of it is read from the
rollups where they can say it, else from the calls.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Final

from spanledger.limits.policy import Budget, Policy, Rule
from spanledger.limits.policy_documents import PolicyError, budget, policy
from spanledger.runtime.guard import log
from spanledger_clickhouse.database.connection import DatabaseError, reason
from spanledger_clickhouse.database.ledger import Ledger

SEVERAL: Final = "several"
"""The scope of a budget of more than one dimension."""
COLUMN_OF: Final = {"tenant": "tenant_id", "tier": "customer_tier", "feature": "feature", "user": "user_id"}

ROWS: Final = """
SELECT name, scope, key, dimensions, per, period, zone, amount_usd, action, at, thresholds, fail_closed
FROM budgets FINAL ORDER BY name
"""
RULES: Final = """
SELECT feature, downgrade, pinned, critical, max_input_tokens, max_output_tokens FROM feature_rules FINAL ORDER BY feature
"""


# --- rows ---------------------------------------------------------------------------------------------------


def document(ledger: Ledger) -> tuple[dict[str, Any], list[str]]:
    """All budgets and rules of features, in the form that `documents.policy` reads, and what is wrong with rows that are
    left out because they make no sense. Raises DatabaseError."""
    errors: list[str] = []
    budgets = [_described(*row) for row in ledger.query(ROWS).rows]
    features = {feature: _rule(*rest) for feature, *rest in ledger.query(RULES).rows}
    return {
        "budget": [entry for entry in budgets if _makes_sense({"budget": [entry]}, f"budget {entry['name']!r}", errors)],
        "features": {name: rule for name, rule in features.items() if _makes_sense({"features": {name: rule}}, f"feature {name!r}", errors)},
    }, errors  # fmt: skip


def _makes_sense(document: dict[str, Any], name: str, errors: list[str]) -> bool:
    try:
        policy(document, name)
    except PolicyError as error:
        errors.append(f"{error}; mend it with `spanledger budget`, or remove it")
        return False
    return True


def read(ledger: Ledger) -> Policy:
    """All budgets and rules of the ledger; rows that make no sense are left out, and logged. Raises DatabaseError."""
    policy_document, errors = document(ledger)
    complain(errors)
    return policy(policy_document, "the table budgets")


def complain(errors: list[str]) -> None:
    """Log what makes no sense, each once in this process."""
    for message in errors:
        if message not in _complained:
            _complained.add(message)
            log.error("%s", message)


_complained: Final = set[str]()


def as_json(document: dict[str, Any]) -> str:
    """A document as it is published: the same budgets are the same text."""
    return json.dumps(document, sort_keys=True, default=str)


def _described(
    name: str,
    scope: str,
    key: str,
    dimensions: dict[str, str],
    per: str,
    period: str,
    zone: str,
    amount: Decimal,
    action: str,
    acts_at: Decimal | None,
    thresholds: list[float],
    fail_closed: int,
) -> dict[str, Any]:
    budget_scope = dict(dimensions) if scope == SEVERAL else {} if scope == "global" else {scope: key}
    entry: dict[str, Any] = {
        "name": name, "window": period, "amount_usd": format(amount, "f"), "per": per, "zone": zone, "action": action,
        "thresholds": list(thresholds), "fail_closed": bool(fail_closed),
    }  # fmt: skip
    if budget_scope:
        entry["scope"] = budget_scope
    if acts_at is not None:
        entry["at"] = float(acts_at)
    return entry


def _rule(downgrade: dict[str, str], pinned: int, critical: int, most_in: int | None, most_out: int | None) -> Any:
    rule: dict[str, Any] = {"downgrade": dict(downgrade), "pinned": bool(pinned), "critical": bool(critical)}
    caps = {"max_input_tokens": most_in, "max_output_tokens": most_out}
    return rule | {name: cap for name, cap in caps.items() if cap}


def put(ledger: Ledger, budget: Budget, *, deleted: bool = False) -> None:
    """Write a budget; one of the same name is changed. Raises DatabaseError."""
    scope, key = next(iter(budget.scope.items())) if len(budget.scope) == 1 else ("global", "")
    row = [
        budget.name,
        SEVERAL if len(budget.scope) > 1 else scope,
        key,
        dict(budget.scope) if len(budget.scope) > 1 else {},
        budget.per,
        budget.window,
        str(budget.zone),
        Decimal(budget.amount_picousd).scaleb(-12),
        budget.action,
        budget.action_share,
        list(budget.thresholds),
        int(budget.fail_closed),
        int(deleted),
    ]
    columns = ["name", "scope", "key", "dimensions", "per", "period", "zone", "amount_usd", "action", "at", "thresholds", "fail_closed", "is_deleted"]  # fmt: skip
    insert(ledger, "budgets", columns, [row])


def put_rule(ledger: Ledger, feature: str, rule: Rule, *, deleted: bool = False) -> None:
    """Write what holds for a feature. Raises DatabaseError."""
    caps = [rule.max_input_tokens, rule.max_output_tokens]
    row = [feature, dict(rule.downgrade), int(rule.pinned), int(rule.critical), *caps, int(deleted)]
    columns = ["feature", "downgrade", "pinned", "critical", "max_input_tokens", "max_output_tokens", "is_deleted"]
    insert(ledger, "feature_rules", columns, [row])


def insert(ledger: Ledger, table: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Add rows to a table of the ledger. Raises DatabaseError."""
    from clickhouse_connect.driver.exceptions import Error

    try:
        ledger.client.insert(f"`{ledger.target.database}`.{table}", rows, column_names=columns)
    except Error as error:
        raise DatabaseError(f"writing to {table} failed: {reason(error)}") from error


def described(name: str, **fields: Any) -> Budget:
    """A budget from what a person says of it.

    Raises:
        DatabaseError: it makes no sense; the message says what would.
    """
    try:
        return budget(
            {"name": name, **{key: value for key, value in fields.items() if value not in (None, {})}},
            f"budget {name!r}",
        )
    except PolicyError as error:
        raise DatabaseError(str(error)) from error


def fields(budget: Budget) -> dict[str, Any]:
    """What `described` makes the same budget of."""
    options: dict[str, Any] = {
        "amount_usd": Decimal(budget.amount_picousd).scaleb(-12),
        "scope": dict(budget.scope),
        "per": budget.per,
        "window": budget.window,
        "zone": str(budget.zone),
        "action": budget.action,
        "fail_closed": budget.fail_closed,
        "thresholds": list(budget.thresholds),
    }
    return options if budget.action_share is None else {**options, "at": budget.action_share}


def with_amount(budget: Budget, amount: Decimal) -> Budget:
    """The budget with another amount, in USD. Raises DatabaseError where that is no amount of a budget."""
    return described(budget.name, **fields(budget) | {"amount_usd": amount})


# --- how they stand -----------------------------------------------------------------------------------------
