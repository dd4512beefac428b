"""Rows into `llm_calls`: one insert a batch, with a token that makes a repeated insert harmless."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from spanledger_clickhouse.database import DatabaseError, Target, reason
from spanledger_clickhouse.rows import COLUMNS, Row

NAMES: Final = list(COLUMNS)
TYPES: Final = list(COLUMNS.values())
SPAN_ID: Final = NAMES.index("span_id")
TRACE_ID: Final = NAMES.index("trace_id")


def insert(client: Any, where: Target, rows: Sequence[Row]) -> None:
    """Write rows; returns when ClickHouse has committed them.

    The driver itself sends an insert again after a connection reset (clickhouse-connect 1.12 marks
    every insert retryable), so the batch carries a deduplication token made of its span ids. A span
    that stands twice in the batch is written once.

    Raises:
        DatabaseError: the rows are not in the table.
    """
    from clickhouse_connect.driver.exceptions import Error

    unique = {(row[TRACE_ID], row[SPAN_ID]): row for row in rows}
    if not unique:
        return
    token = hashlib.sha256(repr(sorted(unique)).encode()).hexdigest()
    try:
        client.insert(
            f"`{where.database}`.llm_calls",
            list(unique.values()),
            column_names=NAMES,
            column_type_names=TYPES,
            settings={"insert_deduplication_token": token},
        )
    except (Error, OSError) as error:
        raise DatabaseError(f"inserting {len(unique)} rows into {where.shown} failed: {reason(error)}") from error
