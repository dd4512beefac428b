"""Who changed what of budgets and limits: rows of `limit_events`."""

from __future__ import annotations

import getpass
import os
import socket

from spanledger_clickhouse.budgets import insert
from spanledger_clickhouse.ledger import Ledger


def who() -> str:
    """user@host of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def note(ledger: Ledger, kind: str, dimension: str, key: str, why: str = "") -> None:
    """Write down a change.

    Args:
        ledger: where.
        kind: stop, resume, set, remove.
        dimension: what it is about: tenant, tier, feature, user, budget.
        key: which.
        why: in words.

    Raises:
        DatabaseError: it cannot be written.
    """
    row = [kind, dimension, key, who(), why]
    insert(ledger, "limit_events", ["kind", "dimension", "key", "who", "reason"], [row])
