"""Group commit writer with back pressure: spans that arrive during one insert go into the next.

A request is answered after ClickHouse has committed its rows. Memory is bounded by the bytes that wait; beyond the
limit a request is rejected, and its sender keeps the rows and retries.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from spanledger.runtime.guard import log
from spanledger_clickhouse.database import insert, migrations
from spanledger_clickhouse.database.connection import ACCESS_DENIED, DatabaseError, Target, open_client, reason
from spanledger_clickhouse.database.insert import SuspectError
from spanledger_clickhouse.database.rollups import Rollups
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.gateway.dedup import Batch, Entry, ResponseKey, SpanDeduplicator, SpanKey, spool_line
from spanledger_clickhouse.rows import otlp
from spanledger_clickhouse.rows.otlp import Span
from spanledger_clickhouse.ship import dead_letters

GROUP_SPANS: Final = 20_000
"""Approximate number of spans per insert."""
ROLLUP_SECONDS: Final = 60.0
PARAMETER_BYTES: Final = 100_000
"""Response ids in a query: ClickHouse takes 128 KiB of a parameter."""
LOOK_BACK_DAYS: Final = 2
"""How far back rows are searched for a response id."""
WORKERS: Final = 2
"""Inserting threads: one sender's slow commit leaves the others one."""
MAX_CELLS: Final = 1000
"""Senders whose memory of spans is kept; the one that was idle for longest is forgotten."""
MOST_OVER_LIMIT: Final = 2
"""How many times the limit all senders together may have waiting: a late one has its share while earlier ones hold more."""
MAX_DEAD_BYTES: Final = 64 << 20
"""Dead letters of one group of requests; further ones are only counted."""
MIN_MEMORY_SHARE: Final = 0.01
"""Share of the memory of spans that a sender has at least."""
REST_SECONDS: Final = (1.0, 30.0)
"""How long a sender whose spans could not be committed is turned away, at first and at most."""


class QueueFullError(Exception):
    """The sender's share of waiting bytes is full."""


class CommitResult(NamedTuple):
    """Outcome of a request's spans."""

    rows: int
    refused: int
    """Spans that ClickHouse refuses permanently; they are kept as dead letters."""
    reason: str


@dataclass(eq=False)
class CommitRequest:
    """Spans of one request that wait for their commit."""

    spans: list[Span]
    tenant: str
    """The tenant of the sender's token; '' if the spans decide."""
    future: Future[CommitResult]


class Cell:
    """What a sender has in the gateway: its queue, its bytes, its memory of spans, its failures. Nobody else's."""

    def __init__(self, deduplicator: SpanDeduplicator) -> None:
        self.deduplicator = deduplicator
        self.requests: deque[CommitRequest] = deque()
        self.waiting_bytes = 0
        self.is_committing = False
        self.failures = 0
        """Failed commits in a row."""
        self.rests_until = 0.0
        """Monotonic time until which its requests are turned away."""


@dataclass
class GatewayCounts:
    """Counters of a gateway since it started."""

    rows: int = 0
    refused: int = 0
    dropped: Counter[str] = field(default_factory=Counter[str])
    commits: int = 0
    failed_commits: int = 0
    commit_seconds: float = 0.0
    last_commit: float = 0.0
    """Unix seconds."""


class GroupCommitWriter:
    """Group commit writer: a few inserting threads for any number of senders, each with a cell of its own.

    Spans of different senders never share an insert: one sender's rows that ClickHouse refuses, its slow queries and its
    full queue are its own. Senders take turns, and one sender's spans are committed by one thread at a time.
    """

    def __init__(self, target: Target, directory: Path, max_bytes: int, *, refresh_rollups: bool = True) -> None:
        """
        Args:
            target: the ledger.
            directory: the spool directory, for dead letters.
            max_bytes: of requests that wait, decompressed. Half of it is anybody's, the other half is shared evenly by
                the senders that have requests waiting.
            refresh_rollups: also refresh the rollups once a minute.
        """
        self.counts = GatewayCounts()
        self._target, self._directory, self._max_bytes, self._refresh_rollups = (
            target,
            directory,
            max_bytes,
            refresh_rollups,
        )
        self._cells: OrderedDict[str, Cell] = OrderedDict()
        """Sender -> its cell, the one that committed last at the end."""
        self._changed = threading.Condition()
        """Guards the cells and counts; notified when there is work, or room to work."""
        self._waiting_bytes = 0
        self._migrating = threading.Lock()
        self._is_connected = False
        self._is_unavailable = False
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"spanledger-intake-{number}", daemon=True)
            for number in range(WORKERS)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        if self._refresh_rollups:
            threading.Thread(target=self._keep_rollups, name="spanledger-rollups", daemon=True).start()

    def stop(self, timeout: float = 30.0) -> None:
        """Commit the waiting requests, then stop."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        until = time.monotonic() + timeout
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))

    @property
    def is_connected(self) -> bool:
        """Whether ClickHouse answered last time."""
        return self._is_connected

    @property
    def waiting_bytes(self) -> int:
        """Reserved bytes of requests that are not answered yet."""
        return self._waiting_bytes

    def _cell(self, sender: str) -> Cell:
        cell = self._cells.get(sender)
        if cell is None:
            cell = self._cells[sender] = Cell(SpanDeduplicator())
            if len(self._cells) > MAX_CELLS:
                idle = (name for name, other in self._cells.items() if not other.waiting_bytes and other is not cell)
                if (oldest := next(idle, None)) is not None:
                    del self._cells[oldest]
        return cell

    def reserve(self, size: int, sender: str = "") -> None:
        """Reserve bytes for a request that is about to be read.

        Raises:
            QueueFullError: the sender's share and what is anybody's are full.
            DatabaseError: the sender's last spans could not be committed; it should wait.
        """
        with self._changed:
            cell = self._cell(sender)
            if time.monotonic() < cell.rests_until:
                raise DatabaseError("the last request of this sender was refused, or could not be committed")
            if self._waiting_bytes + size > MOST_OVER_LIMIT * self._max_bytes:
                raise QueueFullError
            others = [
                other.waiting_bytes for other in self._cells.values() if other.waiting_bytes and other is not cell
            ]
            share = self._max_bytes // 2 // (1 + len(others))
            if cell.waiting_bytes + size > share:
                shared = sum(max(0, waiting - share) for waiting in others)
                if cell.waiting_bytes + size > share + max(0, self._max_bytes - self._max_bytes // 2 - shared):
                    raise QueueFullError
            cell.waiting_bytes += size
            self._waiting_bytes += size

    def rest(self, seconds: float, sender: str) -> None:
        """Turn a sender away for a while."""
        with self._changed:
            self._cell(sender).rests_until = time.monotonic() + min(seconds, REST_SECONDS[1])

    def release(self, size: int, sender: str = "") -> None:
        """Release reserved bytes."""
        with self._changed:
            self._cell(sender).waiting_bytes -= size
            self._waiting_bytes -= size

    def submit(self, spans: list[Span], tenant: str, size: int, sender: str = "") -> Future[CommitResult]:
        """Queue spans for commit; the future raises DatabaseError if they were not committed and may be resent.

        Args:
            spans: of one request.
            tenant: the tenant of the sender's token; '' if the spans decide.
            size: bytes reserved for them; released when they are committed, refused or cancelled.
            sender: whose cell they belong to.
        """
        answer: Future[CommitResult] = Future()
        request = CommitRequest(spans, tenant, answer)
        with self._changed:
            cell = self._cell(sender)
            cell.requests.append(request)
            self._changed.notify()
        answer.add_done_callback(lambda _: self._forget(cell, request, size, sender))
        return answer

    def _forget(self, cell: Cell, request: CommitRequest, size: int, sender: str) -> None:
        """A request is answered, or its sender no longer waits: its spans and its bytes are given up together."""
        with self._changed, contextlib.suppress(ValueError):
            cell.requests.remove(request)
        self.release(size, sender)

    def _run(self) -> None:
        client: Any = None
        while True:
            if client is None:
                client = self._connect()
            cell, group = self._next_group(client is not None)
            if cell is None:
                if self._stopping.is_set():
                    break
                continue
            error = self._answer_group(client, cell, group)
            if error is not None:
                client = self._after_failure(client, error)
            with self._changed:
                cell.is_committing = False
                cell.failures = cell.failures + 1 if error is not None and _is_of_sender(error) else 0
                if cell.failures:
                    cell.rests_until = time.monotonic() + min(
                        REST_SECONDS[1], REST_SECONDS[0] * 2 ** min(cell.failures - 1, 10)
                    )
                self._changed.notify_all()
        if client is not None:
            client.close()

    def _next_group(self, is_connected: bool) -> tuple[Cell | None, list[CommitRequest]]:
        """The requests to commit next, of the sender whose turn it is; (None, []) if there is nothing to do for now."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._stopping.is_set() or any(c.requests and not c.is_committing for c in self._cells.values())
                ),
                1.0,
            )
            for sender, cell in self._cells.items():
                if cell.requests and not cell.is_committing:
                    self._cells.move_to_end(sender)
                    group: list[CommitRequest] = []
                    spans = 0
                    while cell.requests and spans < GROUP_SPANS:
                        group.append(cell.requests.popleft())
                        spans += len(group[-1].spans)
                    cell.is_committing = True
                    cell.deduplicator.share = max(MIN_MEMORY_SHARE, 1 / len(self._cells))
                    return cell, group
        if not is_connected:
            self._stopping.wait(0.2)
        return None, []

    def _connect(self) -> Any:
        """A connection whose schema is in place; None if ClickHouse is away, which is logged."""
        try:
            with self._migrating:  # one thread at a time
                client = migrations.connect_and_migrate(self._target)
        except Exception as error:  # noqa: BLE001 - on any error senders keep their rows, and the thread continues
            self._note_unavailable(error)
            return None
        self._is_connected = True
        return client

    def _answer_group(self, client: Any, cell: Cell, requests: list[CommitRequest]) -> Exception | None:
        """Commit requests of one sender and answer them; returns why that failed."""
        group = [request for request in requests if request.future.set_running_or_notify_cancel()]
        error: Exception | None = None
        try:
            if client is None:
                raise DatabaseError("ClickHouse cannot be reached")  # noqa: TRY301 - senders are answered in one place
            if group:
                self._commit(client, cell, group)
                if self._is_unavailable:
                    log.warning("%s accepts rows again", self._target.masked_dsn)
                self._is_unavailable, self._is_connected = False, True
        except Exception as failure:  # noqa: BLE001 - on any error senders keep their rows, and the thread continues
            error = failure
            self.counts.failed_commits += bool(group)
            for request in group:
                if not request.future.done():
                    request.future.set_exception(_as_database_error(failure))
        return error

    def _after_failure(self, client: Any, error: Exception) -> Any:
        """The connection, if the spans may be at fault; else None, and it is closed."""
        if _is_of_sender(error):
            log.error("%s. Its sender keeps its rows and retries; others are not affected.", _as_database_error(error))
            return client
        if client is not None:
            self._note_unavailable(error)
            try:
                client.close()
            except Exception:  # noqa: BLE001 - the connection is discarded anyway
                log.debug("closing a broken connection failed")
        return None

    def _note_unavailable(self, error: Exception) -> None:
        self._is_connected = False
        if not self._is_unavailable:
            log.error("%s. Senders keep their rows and retry.", _as_database_error(error))
        self._is_unavailable = True

    def _keep_rollups(self) -> None:
        """Refresh the rollups once a minute, in parallel with the inserts: a day with many calls takes long."""
        while not self._stopping.wait(ROLLUP_SECONDS):
            try:
                with open_client(self._target) as client:
                    Rollups(client, self._target).refresh()
            except Exception as error:  # noqa: BLE001 - retried in a minute; `verify` reports differences
                log.warning("refreshing the rollups failed: %s", error)

    def _commit(self, client: Any, cell: Cell, group: list[CommitRequest]) -> None:
        began = time.monotonic()
        deduplicator = cell.deduplicator
        classification = deduplicator.classify(
            [Batch(request.tenant, request.spans) for request in group],
            lambda response_ids: self._committed_responses(client, response_ids),
        )
        rows: Counter[int] = Counter()
        refusals: dict[int, list[str]] = {}
        dead_bytes = 0

        def keep(number: int, line: bytes, why: str) -> None:
            nonlocal dead_bytes
            dead_bytes += len(line)
            if dead_bytes <= MAX_DEAD_BYTES:
                dead_letters.add(self._directory, line, why)
            refusals.setdefault(number, []).append(why)

        def send(entries: list[Entry]) -> None:
            for tenant in {entry.tenant for entry in entries}:
                own = (entry.contents for entry in entries if entry.tenant == tenant)
                insert.insert_contents(client, self._target, own, tenant)
            deduplicator.remember_committed(entries)
            for entry in entries:
                rows[entry.batch] += len(entry.contents.rows)

        def refused(entry: Entry, why: str) -> None:
            keep(entry.batch, spool_line(entry), why)

        expired = insert.ExpiredRows(client, self._target)
        insert.isolate(
            send,
            classification.entries,
            refused,
            lambda entry: bool(entry.contents.rows),
            lambda entry: expired.reason(entry.contents.rows),
        )
        for number, span, why in classification.unreadable:
            keep(number, otlp.to_json_line(otlp.compact(span)), why)
        with self._changed:
            self.counts.rows += sum(rows.values())
            self.counts.refused += sum(map(len, refusals.values()))
            self.counts.dropped += classification.dropped
            self.counts.commits += 1
            self.counts.commit_seconds += time.monotonic() - began
            self.counts.last_commit = time.time()
        for number, request in enumerate(group):
            reasons = refusals.get(number, [])
            request.future.set_result(CommitResult(rows[number], len(reasons), "; ".join(sorted(set(reasons)))[:500]))

    def _committed_responses(self, client: Any, responses: Collection[str]) -> dict[ResponseKey, SpanKey]:
        """Response keys, among the ids, that already have a row."""
        from clickhouse_connect.driver.exceptions import Error

        committed: dict[ResponseKey, SpanKey] = {}
        try:
            for ids in _in_chunks(responses):
                rows = client.query(
                    statement("gateway/calls_of_responses", db=f"`{self._target.database}`"),
                    parameters={"ids": ids, "days": LOOK_BACK_DAYS},
                ).result_rows
                committed |= {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}
        except Error as error:
            if getattr(error, "code", None) == ACCESS_DENIED:
                return {}  # the user has INSERT rights only: fall back to the memory of this gateway
            raise insert.kind_of(error)(
                f"looking up responses in {self._target.masked_dsn} failed: {reason(error)}"
            ) from error
        return committed


def _in_chunks(responses: Collection[str]) -> Iterator[list[str]]:
    """Response ids, in lists that fit into a parameter of a query."""
    chunk: list[str] = []
    size = 0
    for response in responses:
        length = 4 * len(response.encode("utf-8", "replace")) + 8  # quoted, and escaped in an address
        if chunk and size + length > PARAMETER_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(response)
        size += length
    if chunk:
        yield chunk


def _is_of_sender(error: Exception) -> bool:
    """Whether an error may lie in the sender's spans: ClickHouse itself seems to be well."""
    return isinstance(error, SuspectError) or not isinstance(error, DatabaseError)


def _as_database_error(error: Exception) -> DatabaseError:
    return error if isinstance(error, DatabaseError) else DatabaseError(f"{type(error).__name__} while committing")
