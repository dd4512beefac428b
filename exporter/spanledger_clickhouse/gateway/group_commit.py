"""Takes the spans of many requests and commits them in groups: what came while one insert ran goes into the next.

A request is answered when ClickHouse has its rows. Memory is bounded by the bytes that wait; beyond them a request is
sent away, and its sender, who keeps the rows, comes again.
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
from spanledger_clickhouse.database.connection import ACCESS_DENIED, DatabaseError, Target, connected
from spanledger_clickhouse.database.rollups import Rollups
from spanledger_clickhouse.gateway.dedup import Answered, Batch, Entry, Place, Sorter, line
from spanledger_clickhouse.rows import otlp
from spanledger_clickhouse.rows.otlp import Span
from spanledger_clickhouse.ship import dead_letters

GROUP: Final = 20_000
"""Spans of one insert, about."""
ROLLUP_SECONDS: Final = 60.0
ASKED_AT_ONCE: Final = 400
"""Response ids of one question: ClickHouse takes 128 KiB of a parameter, and an id has 256 characters at most."""
LOOK_BACK_DAYS: Final = 2
"""How old a row may be that a response id is looked for in."""


class FullError(Exception):
    """As many bytes wait as may."""


class Answer(NamedTuple):
    """What became of a request's spans."""

    rows: int
    refused: int
    """Spans that ClickHouse will never take; they are kept among the dead letters."""
    reason: str


class Request(NamedTuple):
    """The spans of one request."""

    spans: list[Span]
    tenant: str
    """The tenant that the sender's token names; '' where the spans may say."""
    answer: Future[Answer]


@dataclass
class Counts:
    """What a gateway has done since it began."""

    rows: int = 0
    refused: int = 0
    dropped: Counter[str] = field(default_factory=Counter[str])
    commits: int = 0
    failed_commits: int = 0
    commit_seconds: float = 0.0
    last_commit: float = 0.0
    """Unix seconds."""


class Intake:
    """One thread that inserts, whatever the number of requests."""

    def __init__(self, target: Target, directory: Path, max_bytes: int, *, refresh_rollups: bool = True) -> None:
        """
        Args:
            where: the ledger.
            directory: for dead letters.
            max_bytes: of requests that wait, decompressed.
            roll: keep the rollups as well, once a minute.
        """
        self.counts = Counts()
        self.waiting = 0
        """Bytes of requests that are not answered yet."""
        self._where, self._directory, self._max, self._roll = target, directory, max_bytes, refresh_rollups
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._sorter = Sorter(self._known)
        self._client: Any = None
        self._out = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spanledger-intake", daemon=True)

    def start(self) -> None:
        self._thread.start()
        if self._roll:
            threading.Thread(target=self._keep_rollups, name="spanledger-rollups", daemon=True).start()

    def stop(self, timeout: float = 30.0) -> None:
        """Commit what waits, and end."""
        self._ended.set()
        self._queue.put(None)
        self._thread.join(timeout)

    @property
    def reached(self) -> bool:
        """Whether the last thing that was asked of ClickHouse worked."""
        return self._client is not None

    def admit(self, size: int) -> None:
        """Reserve bytes for a request that is about to be read.

        Raises:
            FullError: there is no room.
        """
        with self._lock:
            if self.waiting + size > self._max:
                raise FullError
            self.waiting += size

    def release(self, size: int) -> None:
        """Give back what was reserved."""
        with self._lock:
            self.waiting -= size

    def submit(self, spans: list[Span], tenant: str, size: int) -> Future[Answer]:
        """Have spans committed; the future raises DatabaseError where they were not, and may be sent again.

        `size`: bytes that were reserved for them; given back when they are committed, refused, or no longer wanted.
        """
        answer: Future[Answer] = Future()
        answer.add_done_callback(lambda _: self.release(size))
        self._queue.put(Request(spans, tenant, answer))
        return answer

    def _run(self) -> None:
        last = False
        while not last:
            group: list[Request] = []
            try:
                first = self._queue.get(timeout=1.0)
                last = first is None
                if first is not None:
                    group.append(first)
                while not last and sum(len(request.spans) for request in group) < GROUP:
                    more = self._queue.get_nowait()
                    last = more is None
                    if more is not None:
                        group.append(more)
            except queue.Empty:
                pass
            self._serve(group)
        if self._client is not None:
            self._client.close()

    def _serve(self, requests: list[Request]) -> None:
        group = [request for request in requests if request.answer.set_running_or_notify_cancel()]
        try:
            if self._client is None:
                self._client = migrations.ready(self._where)
            if group:
                self._commit(group)
                if self._out:
                    log.warning("%s takes rows again", self._where.shown)
                self._out = False
        except Exception as error:  # noqa: BLE001 - whatever it is, senders keep their rows, and the thread goes on
            self._failed(group, error)

    def _keep_rollups(self) -> None:
        """Once a minute, beside the inserts: a day of many calls takes its time."""
        while not self._ended.wait(ROLLUP_SECONDS):
            try:
                with connected(self._where) as client:
                    Rollups(client, self._where).refresh()
            except Exception as error:  # noqa: BLE001 - the next minute is another chance; verify tells of differences
                log.warning("the rollups were not brought up to date: %s", error)

    def _failed(self, group: list[Request], error: Exception) -> None:
        failure = error if isinstance(error, DatabaseError) else DatabaseError(f"{type(error).__name__} while committing")
        if not self._out:
            log.error("%s. Senders keep their rows and come again.", failure)
        self._out = True
        client, self._client = self._client, None
        if client is not None:
            try:
                client.close()
            except Exception:  # noqa: BLE001 - it is given up anyway
                log.debug("closing a broken connection failed")
        self.counts.failed_commits += bool(group)
        for request in group:
            if not request.answer.done():
                request.answer.set_exception(failure)

    def _commit(self, group: list[Request]) -> None:
        began = time.monotonic()
        classification = self._sorter.sort([Batch(request.tenant, request.spans) for request in group])
        rows: Counter[int] = Counter()
        refusals: dict[int, list[str]] = {}

        def send(entries: list[Entry]) -> None:
            insert.insert(self._client, self._where, [row for entry in entries for row in entry.contents.rows])
            insert.insert_events(
                self._client, self._where, [event for entry in entries for event in entry.contents.events]
            )
            self._sorter.learn(entries)
            for entry in entries:
                rows[entry.batch] += len(entry.contents.rows)

        def refused(entry: Entry, why: str) -> None:
            dead_letters.bury(self._directory, line(entry), why)
            refusals.setdefault(entry.batch, []).append(why)

        insert.isolate(send, classification.entries, refused)
        for number, span, why in classification.unreadable:
            dead_letters.bury(self._directory, otlp.line(span), why)
            refusals.setdefault(number, []).append(why)
        self.counts.rows += sum(rows.values())
        self.counts.refused += sum(map(len, refusals.values()))
        self.counts.dropped += classification.dropped
        self.counts.commits += 1
        self.counts.commit_seconds += time.monotonic() - began
        self.counts.last_commit = time.time()
        for number, request in enumerate(group):
            reasons = refusals.get(number, [])
            request.answer.set_result(Answer(rows[number], len(reasons), "; ".join(sorted(set(reasons)))[:500]))

    def _known(self, responses: Collection[str]) -> dict[Answered, Place]:
        """Which of the response ids have a row."""
        from clickhouse_connect.driver.exceptions import Error

        committed: dict[Answered, Place] = {}
        response_ids = list(responses)
        try:
            for begin in range(0, len(response_ids), ASKED_AT_ONCE):
                rows = self._client.query(
                    "SELECT tenant_id, provider, response_id, trace_id, span_id "
                    f"FROM `{self._where.database}`.llm_calls WHERE response_id IN {{ids:Array(String)}} "
                    f"AND start_time > now() - INTERVAL {LOOK_BACK_DAYS} DAY",
                    parameters={"ids": response_ids[begin : begin + ASKED_AT_ONCE]},
                ).result_rows
                committed |= {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}
        except Error as error:
            if getattr(error, "code", None) == ACCESS_DENIED:
                return {}  # a writer that may only insert: what this gateway remembers has to do
            raise
        return committed
