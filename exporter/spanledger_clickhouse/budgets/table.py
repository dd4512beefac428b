"""Reads and writes budgets and feature rules as rows of the ledger.

A row has the fields of a `[[budget]]` in a limits file, and is validated in the same way.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Final

from spanledger.limits.policy import Budget, Policy, Rule
from spanledger.limits.policy_documents import PolicyError, budget_from_table, policy_from_document
from spanledger.runtime.guard import log
from spanledger_clickhouse.database.connection import DatabaseError, reason
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.database.statements import statement

MULTIPLE_DIMENSIONS: Final = "several"
"""The scope of a budget of more than one dimension."""


# --- rows ---------------------------------------------------------------------------------------------------


def document(ledger: Ledger) -> tuple[dict[str, Any], list[str]]:
    """All budgets and feature rules in the form that `policy_documents.policy` reads, and the errors of invalid rows,
    which are left out. Raises DatabaseError."""
    errors: list[str] = []
    budgets = [_budget_entry(*row) for row in ledger.query(statement("budgets/budgets")).rows]
    features = {feature: _rule(*rest) for feature, *rest in ledger.query(statement("budgets/feature_rules")).rows}
    return {
        "budget": [entry for entry in budgets if _is_valid({"budget": [entry]}, f"budget {entry['name']!r}", errors)],
        "features": {name: rule for name, rule in features.items() if _is_valid({"features": {name: rule}}, f"feature {name!r}", errors)},
    }, errors  # fmt: skip


def _is_valid(document: dict[str, Any], name: str, errors: list[str]) -> bool:
    try:
        policy_from_document(document, name)
    except PolicyError as error:
        errors.append(f"{error}; fix it with `spanledger budget`, or remove it")
        return False
    return True


def read(ledger: Ledger) -> Policy:
    """All budgets and rules of the ledger; invalid rows are left out and logged. Raises DatabaseError."""
    policy_document, errors = document(ledger)
    log_invalid(errors)
    return policy_from_document(policy_document, "the table budgets")


def log_invalid(errors: list[str]) -> None:
    """Log each error about an invalid row once per process."""
    for message in errors:
        if message not in _logged:
            _logged.add(message)
            log.error("%s", message)


_logged: Final = set[str]()


def as_json(document: dict[str, Any]) -> str:
    """The document as canonical JSON: equal budgets give equal text."""
    return json.dumps(document, sort_keys=True, default=str)


def _budget_entry(
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
    budget_scope = dict(dimensions) if scope == MULTIPLE_DIMENSIONS else {} if scope == "global" else {scope: key}
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
    """Write a budget; an existing budget of that name is replaced. Raises DatabaseError."""
    scope, key = next(iter(budget.scope.items())) if len(budget.scope) == 1 else ("global", "")
    row = [
        budget.name,
        MULTIPLE_DIMENSIONS if len(budget.scope) > 1 else scope,
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
    """Write the rule of a feature. Raises DatabaseError."""
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


def parse_budget(name: str, **fields: Any) -> Budget:
    """Parse a budget from user input.

    Raises:
        DatabaseError: the budget is not valid; the message says why.
    """
    try:
        return budget_from_table(
            {"name": name, **{key: value for key, value in fields.items() if value not in (None, {})}},
            f"budget {name!r}",
        )
    except PolicyError as error:
        raise DatabaseError(str(error)) from error


def budget_options(budget: Budget) -> dict[str, Any]:
    """The arguments from which `parse_budget` makes the same budget."""
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
    """The budget with another amount, in USD. Raises DatabaseError if the amount is not valid."""
    return parse_budget(budget.name, **budget_options(budget) | {"amount_usd": amount})
