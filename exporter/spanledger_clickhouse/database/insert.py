"""Inserts rows into ClickHouse: one insert per batch and table, idempotent by a deduplication token.

Errors are of three kinds. `DatabaseError`: the server is away, busy, or not set up; the same rows will be taken
later. `PoisonError`: the rows themselves are refused, and would be refused again. `SuspectError`: unknown which.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar, cast
from weakref import WeakKeyDictionary

from spanledger_clickhouse.database.connection import DatabaseError, Target, reason
from spanledger_clickhouse.database.jobs import attributed
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.rows.rows import COLUMNS, EVENT_COLUMNS, JOB_COLUMNS, OUTCOME_COLUMNS, Contents, Row

T = TypeVar("T")

COLUMN_NAMES: Final = list(COLUMNS)
TENANT_ID: Final = COLUMN_NAMES.index("tenant_id")
SPAN_ID: Final = COLUMN_NAMES.index("span_id")
TRACE_ID: Final = COLUMN_NAMES.index("trace_id")
START_TIME: Final = COLUMN_NAMES.index("start_time")
RETENTION_SECONDS: Final = 600.0
"""How often a connection asks for how long calls are kept."""

CORRECTION_COLUMNS: Final = {**COLUMNS, "row_version": "UInt64"}

TRANSIENT_ERRORS: Final = frozenset({
    74, 75, 76, 159, 160, 164, 173, 198, 201, 202, 203, 209, 210, 225, 236, 241, 242, 243, 265, 279, 285, 286, 289, 290, 319, 394, 425,
    439, 473, 499, 571, 692, 722, 745, 999, 1000, 1001, 1002,
})  # fmt: skip
"""Transient ClickHouse error codes: timeouts, quotas, memory, read-only, lost replicas."""
SETUP_ERRORS: Final = frozenset({16, 36, 47, 60, 62, 81, 115, 192, 193, 218, 497, 516})
"""Codes of a wrong setup: an unknown or dropped column, table or database, an unknown user, missing privileges."""
DATA_ERRORS: Final = frozenset({6, 26, 27, 38, 41, 53, 69, 70, 72, 117, 128, 131, 321, 349, 407, 469})
"""Codes that only the rows can cause: a value that cannot be parsed or converted, is out of range, or violates a
constraint (ErrorCodes.cpp of ClickHouse 26.9)."""
MAX_PROBES: Final = 24
"""Failed attempts after which the server, not a row, is taken for the cause: a descent to one item of a batch takes eleven."""


SMALL_BATCH_ROWS: Final = 1000
"""Batches below this number of rows use asynchronous inserts; the embedded engine has none."""
ASYNC_INSERT: Final = {"async_insert": 1, "wait_for_async_insert": 1}
"""With waiting: an unacknowledged insert would lose rows and errors silently."""


class PoisonError(DatabaseError):
    """The rows themselves are refused."""


class SuspectError(DatabaseError):
    """The insert failed for a reason that may lie in the rows or in the server: whether other rows pass decides."""


def insert(client: Any, target: Target, rows: Sequence[Row], row_version: int = 0) -> None:
    """Insert rows; returns when ClickHouse has committed them.

    `row_version`, milliseconds since 1970, makes them corrections: they replace the rows written before. A row
    made from a span has the end of its call as its version, so one that is delivered again never undoes a
    correction.

    The driver itself sends an insert again after a connection reset (clickhouse-connect 1.12 marks
    every insert retryable), so the batch carries a deduplication token made of its span ids. A span
    that stands twice in the batch is written once.

    Raises:
        PoisonError: the rows are refused.
        SuspectError: the rows or the server are at fault (see `isolate`).
        DatabaseError: the rows are not in the table, and may be sent again.
    """
    unique = {(row[TENANT_ID], row[TRACE_ID], row[SPAN_ID]): row for row in rows}
    rows, columns, identity = list(unique.values()), COLUMNS, repr(sorted(unique))
    if row_version:  # a separate token: with the first delivery's, ClickHouse would silently drop the correction
        rows, columns = [(*row, row_version) for row in rows], CORRECTION_COLUMNS
        identity = f"{row_version}:{identity}"
    _insert(client, target, "llm_calls", columns, rows, identity)


class ExpiredRows:
    """Rows that ClickHouse would take and delete at once, because they are older than it keeps calls."""

    def __init__(self, client: Any, target: Target) -> None:
        self._days = _retention_days(client, target)
        self._limit = datetime.now(UTC) - timedelta(days=self._days)
        self._shown = target.masked_dsn

    def reason(self, rows: Sequence[Row]) -> str:
        """Why rows are refused; "" if none of them is."""
        if not self._days or all(cast("datetime", row[START_TIME]) >= self._limit for row in rows):
            return ""
        return f"the call is older than the {self._days} days for which {self._shown} keeps calls"


_known_retention: WeakKeyDictionary[Any, tuple[int, float]] = WeakKeyDictionary()
"""Connection -> (days that calls are kept, 0: for ever; when that was asked, monotonic)."""


def _retention_days(client: Any, target: Target) -> int:
    """For how many days the ledger keeps calls; 0: for ever, or it is not known (a user who may only insert)."""
    from clickhouse_connect.driver.exceptions import Error

    days, asked_at = _known_retention.get(client, (0, 0.0))
    if not asked_at or time.monotonic() - asked_at > RETENTION_SECONDS:
        try:
            found = client.query(statement("migrations/retention_days"), parameters={"db": target.database}).result_rows
            days = int(found[0][0]) if found else 0
        except (Error, OSError):
            days = 0
        _known_retention[client] = days, time.monotonic()
    return days


def insert_contents(client: Any, target: Target, contents: Iterable[Contents], tenant: str = "") -> None:
    """Insert what some lines hold: who began jobs, calls, markers. `tenant`: whose jobs count, where a sender has one.

    Raises as `insert` does.
    """
    contents = list(contents)
    jobs = [job for line in contents for job in line.jobs]
    _insert(client, target, "llm_jobs", JOB_COLUMNS, jobs, repr(sorted(map(repr, jobs))))
    outcomes = [outcome for line in contents for outcome in line.outcomes]
    _insert(client, target, "outcomes", OUTCOME_COLUMNS, outcomes, repr(sorted(map(repr, outcomes))))
    insert(client, target, attributed(client, target, [row for line in contents for row in line.rows], tenant))
    insert_events(client, target, [event for line in contents for event in line.events])


def insert_events(client: Any, target: Target, events: Sequence[Row]) -> None:
    """Insert markers (`ledger_events`); raises as `insert` does."""
    _insert(client, target, "ledger_events", EVENT_COLUMNS, list(events), repr(sorted(map(repr, events))))


def _insert(
    client: Any, target: Target, table: str, columns: Mapping[str, str], rows: list[Row], identity: str
) -> None:
    from clickhouse_connect.driver.exceptions import Error

    if not rows:
        return
    names, types, values = _drop_defaults(columns, rows)
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
                **(ASYNC_INSERT if len(rows) < SMALL_BATCH_ROWS and not target.embedded else {}),
            },
        )
    except (Error, OSError) as error:
        raise kind_of(error)(
            f"inserting {len(rows)} rows into {table} of {target.masked_dsn} failed: {reason(error)}"
        ) from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise PoisonError(f"{len(rows)} rows do not fit the columns of {table}: {reason(error)}") from error


def isolate(
    send: Callable[[list[T]], None],
    batch: list[T],
    on_refused: Callable[[T, str], None],
    is_evidence: Callable[[T], bool] = lambda _: True,
    refusal: Callable[[T], str] = lambda _: "",
) -> None:
    """Send a batch; bisect it where it is refused, and report each item that is refused by itself to `on_refused`.

    After a `SuspectError` an item is refused only if another one passes, and still passes when the last has failed.
    Halves are tried in random order, depth first: a later attempt probes other items. Nothing is reported before all
    is decided.

    Args:
        send: sends items, and raises as `insert` does.
        batch: the items.
        on_refused: is given an item and the reason.
        is_evidence: whether an item that passes says something about the others (a marker goes to another table).
        refusal: why an item is refused without an attempt; "" if it is not.

    Raises:
        DatabaseError: the server is at fault; the whole batch may be sent again.
    """
    refused: list[tuple[T, PoisonError | SuspectError]] = []
    sendable: list[T] = []
    for item in batch:
        why = refusal(item)
        if why:
            refused.append((item, PoisonError(why)))
        else:
            sendable.append(item)
    waiting = [sendable] if sendable else []
    witness: list[T] = []
    failed_probes = 0
    while waiting:
        part = waiting.pop()
        error = _refusal(send, part)
        if error is None:
            witness = [item for item in part if is_evidence(item)][:1] or witness
            continue
        failed_probes += isinstance(error, SuspectError) and not witness
        if failed_probes >= MAX_PROBES and not witness:
            raise error
        if len(part) == 1:
            refused.append((part[0], error))
            continue
        middle = len(part) // 2
        halves = [part[:middle], part[middle:]]
        waiting += halves if random.random() < 0.5 else reversed(halves)  # noqa: S311 - no secret
    suspects = [error for _, error in refused if isinstance(error, SuspectError)]
    if suspects and not witness:
        raise suspects[0]
    if suspects:
        send(witness)  # idempotent
    for item, error in refused:
        on_refused(item, str(error))


def _refusal(send: Callable[[list[T]], None], part: list[T]) -> PoisonError | SuspectError | None:
    """The refusal of a part; other errors are raised."""
    try:
        send(part)
    except (PoisonError, SuspectError) as error:
        return error
    return None


def _drop_defaults(columns: Mapping[str, str], rows: list[Row]) -> tuple[list[str], list[str], list[Sequence[object]]]:
    """Names, types and values of the columns in which some row differs from the default: a batch uses few of the
    seventy meters and labels, and the rest would be half of the work."""
    names: list[str] = []
    types: list[str] = []
    values: list[Sequence[object]] = []
    for (name, kind), column in zip(columns.items(), zip(*rows, strict=True), strict=True):
        if any(value is not None for value in column) if "Nullable" in kind else any(column):
            names.append(name)
            types.append(kind)
            values.append(column)
    return names, types, values


def kind_of(error: BaseException) -> type[DatabaseError]:
    """Whose fault a driver error is.

    OperationalError without a code is a connection that failed, 503 or 429 (clickhouse-connect 1.12).
    """
    from clickhouse_connect.driver.exceptions import DataError

    code = getattr(error, "code", None)
    if isinstance(error, DataError) or code in DATA_ERRORS:
        return PoisonError
    is_known = not isinstance(code, int) or code <= 0 or code in TRANSIENT_ERRORS or code in SETUP_ERRORS
    return DatabaseError if is_known else SuspectError
