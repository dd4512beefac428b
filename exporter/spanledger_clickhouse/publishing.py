"""Budgets on their way to the processes that enforce them: by Redis, which each of them asks every two seconds."""

from __future__ import annotations

from typing import Final

from spanledger import settings
from spanledger.guard import log
from spanledger.limits.store import RedisStore, StoreError
from spanledger_clickhouse import budgets
from spanledger_clickhouse.database import DatabaseError
from spanledger_clickhouse.ledger import Ledger

PATIENCE_SECONDS: Final = 5.0


def shared_store() -> RedisStore | None:
    """The Redis of SPANLEDGER_REDIS_URL, asked with more patience than a call has; None where none is set.

    Raises:
        StoreError: redis-py is not installed, or the URL is none.
    """
    url = settings.setting("redis_url")
    return RedisStore(url, PATIENCE_SECONDS) if url is not None else None


def publish(ledger: Ledger) -> int | None:
    """Publish the ledger's budgets; how many, or None where no Redis is set.

    Raises:
        DatabaseError: the ledger, or Redis, does not answer.
    """
    try:
        store = shared_store()
        if store is None:
            return None
        found, wrong = budgets.document(ledger)  # what makes no sense is not published
        for each in wrong:
            log.error("%s", each)
        store.publish(budgets.as_json(found))
    except StoreError as error:
        raise DatabaseError(
            f"the ledger has it, but it is not published: {error}. Try `spanledger budget publish` again"
        ) from error
    return len(found["budget"])
