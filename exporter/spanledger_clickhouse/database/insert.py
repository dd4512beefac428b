"""Rows into ClickHouse: one insert a batch and a table, with a token that makes a repeated insert harmless.

Errors are of two kinds. `DatabaseError`: the server is away, busy, or not set up; the same rows will be taken
later. `PoisonError`: the rows themselves are refused, and would be refused again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from spanledger_clickhouse.database.connection import DatabaseError, Target, reason
from spanledger_clickhouse.rows.rows import COLUMNS, EVENT_COLUMNS, Row

T = TypeVar("T")

NAMES: Final = list(COLUMNS)
TENANT_ID: Final = NAMES.index("tenant_id")
SPAN_ID: Final = NAMES.index("span_id")
TRACE_ID: Final = NAMES.index("trace_id")

CORRECTED: Final = {**COLUMNS, "row_version": "UInt64"}

TRANSIENT: Final = frozenset({
    74, 75, 76, 159, 160, 164, 173, 198, 201, 202, 203, 209, 210, 225, 236, 241, 242, 243, 252, 265, 279, 285, 286, 289, 290, 319, 394, 425,
    439, 473, 499, 571, 692, 722, 745, 999, 1000, 1001, 1002,
})  # fmt: skip
"""Error codes of ClickHouse that pass: time-outs, quotas, memory, too many parts, read-only, lost replicas."""
SET_UP: Final = frozenset({16, 36, 47, 60, 62, 81, 115, 193, 497, 516})
"""Codes that say the database is not as it should be: an unknown column, table or database, missing rights."""


SMALL: Final = 1000
"""Rows of a batch below which the server gathers batches into one part; the embedded engine cannot."""
GATHERED: Final = {"async_insert": 1, "wait_for_async_insert": 1}
"""Waiting: an insert that is not waited for would lose rows, and errors, without a word."""


class PoisonError(DatabaseError):
    """ClickHouse refuses the rows themselves."""


def insert(client: Any, target: Target, rows: Sequence[Row], row_version: int = 0) -> None:
    """Write rows; returns when ClickHouse has committed them.

    `edition`, milliseconds since 1970, makes them corrections: they take the place of what was written before. Rows
    as they come from a span have the end of their call for an edition, so one that is delivered again never undoes a
    correction.

    The driver itself sends an insert again after a connection reset (clickhouse-connect 1.12 marks
    every insert retryable), so the batch carries a deduplication token made of its span ids. A span
    that stands twice in the batch is written once.

    Raises:
        PoisonError: the rows are refused.
        DatabaseError: the rows are not in the table, and may be sent again.
    """
    unique = {(row[TENANT_ID], row[TRACE_ID], row[SPAN_ID]): row for row in rows}
    rows, columns, identity = list(unique.values()), COLUMNS, repr(sorted(unique))
    if row_version:  # a token of its own: with the first delivery's, ClickHouse would drop the correction without a word
        rows, columns = [(*row, row_version) for row in rows], CORRECTED
        identity = f"{row_version}:{identity}"
    _insert(client, target, "llm_calls", columns, rows, identity)


def insert_events(client: Any, target: Target, events: Sequence[Row]) -> None:
    """Write markers; raises as `insert` does."""
    _insert(client, target, "ledger_events", EVENT_COLUMNS, list(events), repr(sorted(map(repr, events))))


def _insert(client: Any, target: Target, table: str, columns: Mapping[str, str], rows: list[Row], identity: str) -> None:
    from clickhouse_connect.driver.exceptions import Error

    if not rows:
        return
    names, types, values = _told(columns, rows)
    try:
        client.insert(
            f"`{target.database}`.{table}",
            values,
            column_names=names,
            column_type_names=types,
            column_oriented=True,
            settings={
                "insert_deduplication_token": hashlib.sha256(identity.encode()).hexdigest(),
                "distributed_foreground_insert": 1,  # on a cluster: when the shard has it, not when it is queued
                "optimize_on_insert": 0,  # no row stands twice in a batch: nothing to collapse, and twice as fast
                **(GATHERED if len(rows) < SMALL and not target.embedded else {}),
            },
        )
    except (Error, OSError) as error:
        kind = PoisonError if poisonous(error) else DatabaseError
        raise kind(f"inserting {len(rows)} rows into {table} of {target.shown} failed: {reason(error)}") from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise PoisonError(f"{len(rows)} rows cannot be written as {table} has it: {reason(error)}") from error


def isolate(send: Callable[[list[T]], None], batch: list[T], on_refused: Callable[[T, str], None]) -> None:
    """Send a batch; where it is refused, its halves, until what is refused stands alone and is told to `refused`.

    Raises:
        DatabaseError: of `send`, other than `PoisonError`: nothing more is sent.
    """
    if not batch:
        return
    try:
        send(batch)
    except PoisonError as error:
        if len(batch) == 1:
            on_refused(batch[0], str(error))
            return
        middle = len(batch) // 2
        isolate(send, batch[:middle], on_refused)
        isolate(send, batch[middle:], on_refused)


def _told(columns: Mapping[str, str], rows: list[Row]) -> tuple[list[str], list[str], list[Sequence[object]]]:
    """Names, types and values of the columns in which a row says more than the column's default: of the seventy meters
    and labels a batch has few, and the rest would be half of the work."""
    names: list[str] = []
    types: list[str] = []
    values: list[Sequence[object]] = []
    for (name, kind), column in zip(columns.items(), zip(*rows, strict=True), strict=True):
        if any(value is not None for value in column) if "Nullable" in kind else any(column):
            names.append(name)
            types.append(kind)
            values.append(column)
    return names, types, values


def poisonous(error: BaseException) -> bool:
    """Whether an error of the driver is about the rows: it has a code, and not one that passes or asks for set-up.

    OperationalError without a code is a connection that failed, 503 or 429 (clickhouse-connect 1.12).
    """
    from clickhouse_connect.driver.exceptions import DataError

    if isinstance(error, DataError):
        return True
    code = getattr(error, "code", None)
    return isinstance(code, int) and code > 0 and code not in TRANSIENT and code not in SET_UP
