"""Group commit writer with back pressure: spans that arrive during one insert go into the next.

A request is answered after ClickHouse has committed its rows. Memory is bounded by the bytes that wait; beyond the
limit a request is rejected, and its sender keeps the rows and retries.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from spanledger.runtime.guard import log
from spanledger_clickhouse.database import insert, migrations
from spanledger_clickhouse.database.connection import ACCESS_DENIED, DatabaseError, Target, open_client
from spanledger_clickhouse.database.rollups import Rollups
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.gateway.dedup import Batch, Entry, ResponseKey, SpanDeduplicator, SpanKey, spool_line
from spanledger_clickhouse.rows import otlp
from spanledger_clickhouse.rows.otlp import Span
from spanledger_clickhouse.ship import dead_letters

GROUP_SPANS: Final = 20_000
"""Approximate number of spans per insert."""
ROLLUP_SECONDS: Final = 60.0
IDS_PER_QUERY: Final = 400
"""Response ids per query: ClickHouse takes 128 KiB of a parameter, and an id has 256 characters at most."""
LOOK_BACK_DAYS: Final = 2
"""How far back rows are searched for a response id."""


class QueueFullError(Exception):
    """The queue of waiting bytes is full."""


class CommitResult(NamedTuple):
    """Outcome of a request's spans."""

    rows: int
    refused: int
    """Spans that ClickHouse refuses permanently; they are kept as dead letters."""
    reason: str


class CommitRequest(NamedTuple):
    """Spans of one request that wait for their commit."""

    spans: list[Span]
    tenant: str
    """The tenant of the sender's token; '' if the spans decide."""
    future: Future[CommitResult]


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
    """Group commit writer: one inserting thread for any number of requests."""

    def __init__(self, target: Target, directory: Path, max_bytes: int, *, refresh_rollups: bool = True) -> None:
        """
        Args:
            target: the ledger.
            directory: the spool directory, for dead letters.
            max_bytes: of requests that wait, decompressed.
            refresh_rollups: also refresh the rollups once a minute.
        """
        self.counts = GatewayCounts()
        self.waiting_bytes = 0
        """Reserved bytes of requests that are not answered yet."""
        self._target, self._directory, self._max_bytes, self._refresh_rollups = (
            target,
            directory,
            max_bytes,
            refresh_rollups,
        )
        self._queue: queue.SimpleQueue[CommitRequest | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._deduplicator = SpanDeduplicator(self._committed_responses)
        self._client: Any = None
        self._is_unavailable = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spanledger-intake", daemon=True)

    def start(self) -> None:
        self._thread.start()
        if self._refresh_rollups:
            threading.Thread(target=self._keep_rollups, name="spanledger-rollups", daemon=True).start()

    def stop(self, timeout: float = 30.0) -> None:
        """Commit the waiting requests, then stop."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join(timeout)

    @property
    def is_connected(self) -> bool:
        """Whether the last operation on ClickHouse succeeded."""
        return self._client is not None

    def reserve(self, size: int) -> None:
        """Reserve bytes for a request that is about to be read.

        Raises:
            QueueFullError: the limit is reached.
        """
        with self._lock:
            if self.waiting_bytes + size > self._max_bytes:
                raise QueueFullError
            self.waiting_bytes += size

    def release(self, size: int) -> None:
        """Release reserved bytes."""
        with self._lock:
            self.waiting_bytes -= size

    def submit(self, spans: list[Span], tenant: str, size: int) -> Future[CommitResult]:
        """Queue spans for commit; the future raises DatabaseError if they were not committed and may be resent.

        `size`: bytes reserved for them; released when they are committed, refused or cancelled.
        """
        answer: Future[CommitResult] = Future()
        answer.add_done_callback(lambda _: self.release(size))
        self._queue.put(CommitRequest(spans, tenant, answer))
        return answer

    def _run(self) -> None:
        last = False
        while not last:
            group: list[CommitRequest] = []
            try:
                first = self._queue.get(timeout=1.0)
                last = first is None
                if first is not None:
                    group.append(first)
                while not last and sum(len(request.spans) for request in group) < GROUP_SPANS:
                    more = self._queue.get_nowait()
                    last = more is None
                    if more is not None:
                        group.append(more)
            except queue.Empty:
                pass
            self._answer_group(group)
        if self._client is not None:
            self._client.close()

    def _answer_group(self, requests: list[CommitRequest]) -> None:
        group = [request for request in requests if request.future.set_running_or_notify_cancel()]
        try:
            if self._client is None:
                self._client = migrations.connect_and_migrate(self._target)
            if group:
                self._commit(group)
                if self._is_unavailable:
                    log.warning("%s accepts rows again", self._target.masked_dsn)
                self._is_unavailable = False
        except Exception as error:  # noqa: BLE001 - on any error senders keep their rows, and the thread continues
            self._fail_group(group, error)

    def _keep_rollups(self) -> None:
        """Refresh the rollups once a minute, in parallel with the inserts: a day with many calls takes long."""
        while not self._stopping.wait(ROLLUP_SECONDS):
            try:
                with open_client(self._target) as client:
                    Rollups(client, self._target).refresh()
            except Exception as error:  # noqa: BLE001 - retried in a minute; `verify` reports differences
                log.warning("refreshing the rollups failed: %s", error)

    def _fail_group(self, group: list[CommitRequest], error: Exception) -> None:
        failure = (
            error if isinstance(error, DatabaseError) else DatabaseError(f"{type(error).__name__} while committing")
        )
        if not self._is_unavailable:
            log.error("%s. Senders keep their rows and retry.", failure)
        self._is_unavailable = True
        client, self._client = self._client, None
        if client is not None:
            try:
                client.close()
            except Exception:  # noqa: BLE001 - the connection is discarded anyway
                log.debug("closing a broken connection failed")
        self.counts.failed_commits += bool(group)
        for request in group:
            if not request.future.done():
                request.future.set_exception(failure)

    def _commit(self, group: list[CommitRequest]) -> None:
        began = time.monotonic()
        classification = self._deduplicator.classify([Batch(request.tenant, request.spans) for request in group])
        rows: Counter[int] = Counter()
        refusals: dict[int, list[str]] = {}

        def send(entries: list[Entry]) -> None:
            insert.insert(self._client, self._target, [row for entry in entries for row in entry.contents.rows])
            insert.insert_events(
                self._client, self._target, [event for entry in entries for event in entry.contents.events]
            )
            self._deduplicator.remember_committed(entries)
            for entry in entries:
                rows[entry.batch] += len(entry.contents.rows)

        def refused(entry: Entry, why: str) -> None:
            dead_letters.add(self._directory, spool_line(entry), why)
            refusals.setdefault(entry.batch, []).append(why)

        insert.isolate(send, classification.entries, refused, lambda entry: bool(entry.contents.rows))
        for number, span, why in classification.unreadable:
            dead_letters.add(self._directory, otlp.to_json_line(span), why)
            refusals.setdefault(number, []).append(why)
        self.counts.rows += sum(rows.values())
        self.counts.refused += sum(map(len, refusals.values()))
        self.counts.dropped += classification.dropped
        self.counts.commits += 1
        self.counts.commit_seconds += time.monotonic() - began
        self.counts.last_commit = time.time()
        for number, request in enumerate(group):
            reasons = refusals.get(number, [])
            request.future.set_result(CommitResult(rows[number], len(reasons), "; ".join(sorted(set(reasons)))[:500]))

    def _committed_responses(self, responses: Collection[str]) -> dict[ResponseKey, SpanKey]:
        """Response keys, among the ids, that already have a row."""
        from clickhouse_connect.driver.exceptions import Error

        committed: dict[ResponseKey, SpanKey] = {}
        response_ids = list(responses)
        try:
            for begin in range(0, len(response_ids), IDS_PER_QUERY):
                rows = self._client.query(
                    statement("gateway/calls_of_responses", db=f"`{self._target.database}`"),
                    parameters={"ids": response_ids[begin : begin + IDS_PER_QUERY], "days": LOOK_BACK_DAYS},
                ).result_rows
                committed |= {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}
        except Error as error:
            if getattr(error, "code", None) == ACCESS_DENIED:
                return {}  # the user has INSERT rights only: fall back to the memory of this gateway
            raise
        return committed
