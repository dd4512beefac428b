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
    wrong: list[str] = []
    budgets = [_described(*row) for row in ledger.query(ROWS).rows]
    features = {feature: _rule(*rest) for feature, *rest in ledger.query(RULES).rows}
    return {
        "budget": [each for each in budgets if _makes_sense({"budget": [each]}, f"budget {each['name']!r}", wrong)],
        "features": {name: each for name, each in features.items() if _makes_sense({"features": {name: each}}, f"feature {name!r}", wrong)},
    }, wrong  # fmt: skip


def _makes_sense(found: dict[str, Any], name: str, wrong: list[str]) -> bool:
    try:
        policy(found, name)
    except PolicyError as error:
        wrong.append(f"{error}; mend it with `spanledger budget`, or remove it")
        return False
    return True


def read(ledger: Ledger) -> Policy:
    """All budgets and rules of the ledger; rows that make no sense are left out, and logged. Raises DatabaseError."""
    found, wrong = document(ledger)
    complain(wrong)
    return policy(found, "the table budgets")


def complain(wrong: list[str]) -> None:
    """Log what makes no sense, each once in this process."""
    for each in wrong:
        if each not in _complained:
            _complained.add(each)
            log.error("%s", each)


_complained: Final = set[str]()


def as_json(found: dict[str, Any]) -> str:
    """A document as it is published: the same budgets are the same text."""
    return json.dumps(found, sort_keys=True, default=str)


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
    at: Decimal | None,
    thresholds: list[float],
    fail_closed: int,
) -> dict[str, Any]:
    of = dict(dimensions) if scope == SEVERAL else {} if scope == "global" else {scope: key}
    found: dict[str, Any] = {
        "name": name, "window": period, "amount_usd": format(amount, "f"), "per": per, "zone": zone, "action": action,
        "thresholds": list(thresholds), "fail_closed": bool(fail_closed),
    }  # fmt: skip
    if of:
        found["scope"] = of
    if at is not None:
        found["at"] = float(at)
    return found


def _rule(downgrade: dict[str, str], pinned: int, critical: int, most_in: int | None, most_out: int | None) -> Any:
    found: dict[str, Any] = {"downgrade": dict(downgrade), "pinned": bool(pinned), "critical": bool(critical)}
    caps = {"max_input_tokens": most_in, "max_output_tokens": most_out}
    return found | {name: cap for name, cap in caps.items() if cap}


def put(ledger: Ledger, found: Budget, *, deleted: bool = False) -> None:
    """Write a budget; one of the same name is changed. Raises DatabaseError."""
    scope, key = next(iter(found.scope.items())) if len(found.scope) == 1 else ("global", "")
    row = [
        found.name,
        SEVERAL if len(found.scope) > 1 else scope,
        key,
        dict(found.scope) if len(found.scope) > 1 else {},
        found.per,
        found.window,
        str(found.zone),
        Decimal(found.amount_picousd).scaleb(-12),
        found.action,
        found.at,
        list(found.thresholds),
        int(found.fail_closed),
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
        ledger.client.insert(f"`{ledger.where.database}`.{table}", rows, column_names=columns)
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


def fields(found: Budget) -> dict[str, Any]:
    """What `described` makes the same budget of."""
    made: dict[str, Any] = {
        "amount_usd": Decimal(found.amount_picousd).scaleb(-12),
        "scope": dict(found.scope),
        "per": found.per,
        "window": found.window,
        "zone": str(found.zone),
        "action": found.action,
        "fail_closed": found.fail_closed,
        "thresholds": list(found.thresholds),
    }
    return made if found.at is None else {**made, "at": found.at}


def with_amount(found: Budget, amount: Decimal) -> Budget:
    """The budget with another amount, in USD. Raises DatabaseError where that is no amount of a budget."""
    return described(found.name, **fields(found) | {"amount_usd": amount})


# --- how they stand -----------------------------------------------------------------------------------------
