"""Budgets on their way to the processes that enforce them: by Redis, which each of them asks every two seconds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from math import ceil
from typing import Final

from spanledger.limits.matching_budgets import AFTER_SECONDS
from spanledger.limits.periods import window
from spanledger.limits.store.protocol import Account, StoreError
from spanledger.limits.store.redis import RedisStore
from spanledger.runtime import settings
from spanledger.runtime.guard import log
from spanledger_clickhouse.budgets import status as budget_status
from spanledger_clickhouse.budgets import table as budget_table
from spanledger_clickhouse.budgets.status import Standing
from spanledger_clickhouse.budgets.table import complain
from spanledger_clickhouse.database.connection import DatabaseError, denied
from spanledger_clickhouse.database.ledger import Ledger

PATIENCE_SECONDS: Final = 5.0
UNKNOWN: Final = "unknown"
"""The name of a ledger whose ClickHouse does not tell."""
NAME: Final = """
SELECT toString(uuid) FROM system.tables
WHERE database = {database:String} AND name = 'budgets' AND uuid != toUUID('00000000-0000-0000-0000-000000000000')
"""
STOPPED: Final = """
SELECT dimension, key FROM limit_events WHERE kind IN ('stop', 'resume')
GROUP BY dimension, key HAVING argMax(kind, at) = 'stop' ORDER BY dimension, key
"""


def shared_store() -> RedisStore | None:
    """The Redis of SPANLEDGER_REDIS_URL, asked with more patience than a call has; None where none is set.

    Raises:
        StoreError: redis-py is not installed, or the URL is none.
    """
    url = settings.setting("redis_url")
    return RedisStore(url, PATIENCE_SECONDS) if url is not None else None


def publish(ledger: Ledger, *, take_over: bool = False, all_values: bool = True) -> int | None:
    """Publish the ledger's budgets, and have Redis know what is spent of them; how many, or None where no Redis is set.

    Args:
        ledger: whose.
        take_over: also where the Redis has those of another ledger.
        everybody: whether of a budget per user (tenant, ...) all are told of, not only those who are near it.

    Raises:
        DatabaseError: the ledger, or Redis, does not answer; the Redis has budgets of another ledger.
    """
    try:
        store = shared_store()
        if store is None:
            return None
        name, publisher = _name(ledger), store.publisher()
        if publisher != name and UNKNOWN not in (name, publisher) and publisher and not take_over:
            raise DatabaseError(
                "nothing is published: the budgets in Redis are those of another ledger. Set SPANLEDGER_DSN to that one, or "
                "say `spanledger budget publish --take-over` to have those of this ledger enforced instead"
            )
        policy_document, errors = budget_table.document(ledger)  # what makes no sense is not published
        complain(errors)
        if not publisher:
            _restore_stops(ledger, store)
        _level(ledger, store, all_values=all_values)  # first: what is enforced from now on knows what is spent
        store.publish(budget_table.as_json(policy_document), publisher if name == UNKNOWN and publisher else name)
    except StoreError as error:
        raise DatabaseError(f"nothing is published: {error}. Try `spanledger budget publish` again") from error
    return len(policy_document["budget"])


def _level(ledger: Ledger, store: RedisStore, *, all_values: bool) -> None:
    """Take what is counted in Redis to be at least what the ledger has: calls of processes that do not enforce, calls made
    before a budget was set, or while Redis was away, and all of it where Redis has lost its data. Raises DatabaseError,
    StoreError."""
    statuses = list(_spent(ledger)) if all_values else list(budget_status.near(_spent(ledger)))
    amounts: list[tuple[Account, int]] = []
    for status in statuses:
        begun, end = status.window.start.timestamp(), status.window.end.timestamp()
        account = Account(status.budget.account(status.value, int(begun)), 0, ceil(end - begun) + AFTER_SECONDS)
        amounts.append((account, int(status.spent_usd.scaleb(12))))
    store.at_least(amounts)


def _spent(ledger: Ledger) -> Iterator[Standing]:
    """What is spent of each budget, of each that has it for itself, the most first."""
    now = datetime.now(UTC)
    for budget in budget_table.read(ledger).budgets:
        running = window(budget.window, now, budget.zone)
        for value, amount in budget_status.spending(ledger, budget, running.start, now, live=True):
            yield Standing(budget, value, running, amount)


def _name(ledger: Ledger) -> str:
    """What tells a ledger from others."""
    try:
        rows = ledger.query(NAME, {"database": ledger.target.database}).rows
    except DatabaseError as error:
        if not denied(error):
            raise
        return UNKNOWN
    return str(rows[0][0]) if rows else UNKNOWN


def _restore_stops(ledger: Ledger, store: RedisStore) -> None:
    """Stop what is stopped by hand, in a Redis that has lost all that it had, or is new. Raises DatabaseError, StoreError."""
    stopped = store.controls().stopped
    for dimension, key in ledger.query(STOPPED).rows:
        if f"{dimension}={key}" not in stopped:
            store.stop(f"{dimension}={key}")
            log.warning("Redis did not know it: %s %r is stopped", dimension, key)
