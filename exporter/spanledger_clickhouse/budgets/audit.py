"""Audit log of changes to budgets and limits: rows of `limit_events`."""

from __future__ import annotations

import getpass
import os
import socket

from spanledger_clickhouse.budgets.table import insert
from spanledger_clickhouse.database.connection import DatabaseError
from spanledger_clickhouse.database.ledger import Ledger


class AuditError(DatabaseError):
    """The change was applied, but its audit row could not be written."""

    def __init__(self, error: DatabaseError) -> None:
        super().__init__(f"the change was applied, but writing its audit row failed: {error}")


def actor() -> str:
    """The user@host of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def log_change(ledger: Ledger, kind: str, dimension: str, key: str, why: str = "") -> None:
    """Write an audit row for a change that was already applied.

    Args:
        ledger: the ledger to write to.
        kind: stop, resume, set, remove, close, reopen.
        dimension: subject of the change: tenant, tier, feature, user, budget, month.
        key: which one.
        why: a free-text reason.

    Raises:
        AuditError: the row cannot be written.
    """
    row = [kind, dimension, key, actor(), why]
    try:
        insert(ledger, "limit_events", ["kind", "dimension", "key", "who", "reason"], [row])
    except DatabaseError as error:
        raise AuditError(error) from error
