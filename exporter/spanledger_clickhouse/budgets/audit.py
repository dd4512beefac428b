"""Who changed what of budgets and limits: rows of `limit_events`."""

from __future__ import annotations

import getpass
import os
import socket

from spanledger_clickhouse.budgets.table import insert
from spanledger_clickhouse.database.connection import DatabaseError
from spanledger_clickhouse.database.ledger import Ledger


class NotNotedError(DatabaseError):
    """What was to be done is done, and nobody knows who did it."""

    def __init__(self, error: DatabaseError) -> None:
        super().__init__(f"it is done, but noting who did it failed: {error}")


def who() -> str:
    """user@host of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def note(ledger: Ledger, kind: str, dimension: str, key: str, why: str = "") -> None:
    """Write down a change, after it was made.

    Args:
        ledger: where.
        kind: stop, resume, set, remove.
        dimension: what it is about: tenant, tier, feature, user, budget.
        key: which.
        why: in words.

    Raises:
        NotNotedError: it cannot be written.
    """
    row = [kind, dimension, key, who(), why]
    try:
        insert(ledger, "limit_events", ["kind", "dimension", "key", "who", "reason"], [row])
    except DatabaseError as error:
        raise NotNotedError(error) from error
