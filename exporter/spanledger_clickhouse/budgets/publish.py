"""Publishes budgets to Redis, which enforcing processes poll every two seconds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from math import ceil
from typing import Final

from spanledger.limits.matching_budgets import WINDOW_GRACE_SECONDS
from spanledger.limits.periods import window
from spanledger.limits.store.protocol import BudgetCounter, StoreError
from spanledger.limits.store.redis import RedisStore
from spanledger.runtime import settings
from spanledger.runtime.guard import log
from spanledger_clickhouse.budgets import status as budget_status
from spanledger_clickhouse.budgets import table as budget_table
from spanledger_clickhouse.budgets.status import BudgetStatus
from spanledger_clickhouse.budgets.table import log_invalid
from spanledger_clickhouse.database.connection import DatabaseError, is_access_denied
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.database.statements import statement

REDIS_TIMEOUT_SECONDS: Final = 5.0
UNKNOWN_LEDGER: Final = "unknown"
"""Id of a ledger whose ClickHouse does not report one."""


def shared_store() -> RedisStore | None:
    """The Redis of SPANLEDGER_REDIS_URL, with a longer timeout than a call has; None if it is not set.

    Raises:
        StoreError: redis-py is not installed, or the URL is not valid.
    """
    url = settings.setting("redis_url")
    return RedisStore(url, REDIS_TIMEOUT_SECONDS) if url is not None else None


def publish(ledger: Ledger, *, take_over: bool = False, all_values: bool = True) -> int | None:
    """Publish the ledger's budgets and reconcile the Redis counters; returns their number, None without a Redis.

    Args:
        ledger: the ledger whose budgets are published.
        take_over: also replace budgets that another ledger has published.
        all_values: for a budget per user (tenant, ...), reconcile every value, not only those near the limit.

    Raises:
        DatabaseError: the ledger, or Redis, does not answer; the Redis has budgets of another ledger.
    """
    try:
        store = shared_store()
        if store is None:
            return None
        name, publisher = _ledger_id(ledger), store.publisher()
        if publisher != name and UNKNOWN_LEDGER not in (name, publisher) and publisher and not take_over:
            raise DatabaseError(
                "nothing was published: the budgets in Redis belong to another ledger. Set SPANLEDGER_DSN to it, or "
                "run `spanledger budget publish --take-over` to enforce the budgets of this ledger instead"
            )
        policy_document, errors = budget_table.document(ledger)  # invalid rows are not published
        log_invalid(errors)
        if not publisher:
            _restore_stops(ledger, store)
        _reconcile_counters(
            ledger, store, all_values=all_values
        )  # first, so that newly enforced budgets start from the actual spend
        store.publish(
            budget_table.as_json(policy_document), publisher if name == UNKNOWN_LEDGER and publisher else name
        )
    except StoreError as error:
        raise DatabaseError(f"nothing was published: {error}. Try `spanledger budget publish` again") from error
    return len(policy_document["budget"])


def _reconcile_counters(ledger: Ledger, store: RedisStore, *, all_values: bool) -> None:
    """Raise the Redis counters to the spend in the ledger, which also has calls of processes that do not enforce, calls
    made before the budget was set or during a Redis outage, and all spend after Redis data loss. Raises DatabaseError,
    StoreError."""
    statuses = (
        list(_current_spend(ledger))
        if all_values
        else list(budget_status.highest(budget_status.near_limit(_current_spend(ledger))))
    )
    amounts: list[tuple[BudgetCounter, int]] = []
    for status in statuses:
        begun, end = status.window.start.timestamp(), status.window.end.timestamp()
        account = BudgetCounter(
            status.budget.counter_key(status.value, int(begun)), 0, ceil(end - begun) + WINDOW_GRACE_SECONDS
        )
        amounts.append((account, int(status.spent_usd.scaleb(12))))
    store.raise_to(amounts)


def _current_spend(ledger: Ledger) -> Iterator[BudgetStatus]:
    """Current spend of each budget and each value of its `per` dimension, highest first."""
    now = datetime.now(UTC)
    for budget in budget_table.read(ledger).budgets:
        running = window(budget.window, now, budget.zone)
        for value, amount in budget_status.spending(ledger, budget, running.start, now, live=True):
            yield BudgetStatus(budget, value, running, amount)


def _ledger_id(ledger: Ledger) -> str:
    """Unique id of the ledger."""
    try:
        rows = ledger.query(statement("budgets/ledger_id"), {"database": ledger.target.database}).rows
    except DatabaseError as error:
        if not is_access_denied(error):
            raise
        return UNKNOWN_LEDGER
    return str(rows[0][0]) if rows else UNKNOWN_LEDGER


def _restore_stops(ledger: Ledger, store: RedisStore) -> None:
    """Restore manual stops in a Redis that is new or has lost its data. Raises DatabaseError, StoreError."""
    stopped = store.controls().stopped
    for dimension, key in ledger.query(statement("budgets/active_stops")).rows:
        if f"{dimension}={key}" not in stopped:
            store.stop(f"{dimension}={key}")
            log.warning("restored a stop that was missing in Redis: %s %r", dimension, key)
