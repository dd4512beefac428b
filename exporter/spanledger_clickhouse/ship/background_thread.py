"""Ships an application's spool from a daemon thread of the application."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from opentelemetry import metrics
from opentelemetry.instrumentation.utils import suppress_instrumentation

from spanledger.runtime.guard import log
from spanledger.runtime.meters import observation_callback, register_row_counters
from spanledger.runtime.private_directory import may_hold_rows
from spanledger.runtime.version import VERSION
from spanledger.spool.writer import Spool
from spanledger_clickhouse.database.connection import DatabaseError
from spanledger_clickhouse.ship.shipper import (
    NOT_A_SEGMENT,
    BusyError,
    DrainStats,
    drain,
    due_reports,
    oldest_age_seconds,
    send_from_memory,
    waiting_bytes,
)
from spanledger_clickhouse.ship.sinks import Sink, sink_from_settings

MAX_PROBLEMS: Final = 1000
"""Files that are reported; further ones are not, so that memory stays bounded."""


MEMORY_BATCH: Final = 2000
"""Rows that are shipped from memory at a time."""


class BackgroundShipper:
    """Background shipper: drains the spool into the configured sink.

    An outage is logged once and retried with exponential backoff up to a minute; the rows wait in the spool. Rows of
    this process for which the spool has no place go from its memory to the destination.
    """

    PAUSE_SECONDS: Final = 1.0
    MAX_PAUSE_SECONDS: Final = 60.0
    REPORT_SECONDS: Final = 5.0
    HANG_SECONDS: Final = 2.0
    """A destination that fails after that long is not waited for until it answers again."""
    PATIENCE_SECONDS: Final = 0.25
    """A caller that has waited for less says nothing about the destination."""
    STRANDED_SECONDS: Final = 0.5
    """How long a row is in memory before it is shipped from there."""

    def __init__(self, spool: Spool) -> None:
        """`spool`: of this process."""
        self._spool = spool
        self.shipped = DrainStats()
        """Totals of this process so far."""
        self._condition = threading.Condition()
        self._flush_requested = 0
        self._flush_done = 0
        self._last_run_succeeded = True
        self._stopped = False
        self._hangs = False
        """Whether the last run failed because nobody answered for long."""
        self._run_number = 0
        self._abandoned_run = -1
        """The run for which a caller has waited in vain."""
        self._other_shipper_active = False
        self._waits_for_another = False
        """Whether rows are left to another process that ships the spool."""
        self._sink: Sink | None = None
        self._thread: threading.Thread | None = None
        self._is_unavailable = False
        self._is_incomplete = False
        self._heartbeat_sent: list[bytes] = []
        self._next_reports = 0.0

    @property
    def directories(self) -> list[Path]:
        """The spool, and where its rows are while it cannot be written, if that is this user's alone."""
        return [directory for directory in self._spool.directories if may_hold_rows(directory)]

    def start(self) -> None:
        """Start if a destination is configured; an invalid one is logged."""
        try:
            self._sink = sink_from_settings()
        except DatabaseError as error:
            log.error("%s. Rows wait in %s.", error, self._spool.directory)
        if self._sink is not None:
            self._thread = threading.Thread(target=self._run, name="spanledger-shipper", daemon=True)
            self._thread.start()

    @staticmethod
    def register_metrics(current: Callable[[], BackgroundShipper | None]) -> None:
        """Register OpenTelemetry metrics; `current` is called each time, as a forked child has its own, or none yet."""

        def shipped() -> DrainStats:
            shipper = current()
            return shipper.shipped if shipper is not None else DrainStats()

        def oldest_age() -> float:
            shipper = current()
            return max(map(oldest_age_seconds, shipper.directories)) if shipper is not None else 0.0

        register_row_counters(
            {
                "spanledger.rows.shipped": ("Rows that reached the ledger", lambda: shipped().rows),
                "spanledger.rows.dead": (
                    "Lines kept as dead letters",
                    lambda: shipped().dead + shipped().torn,
                ),
            }
        )
        metrics.get_meter("spanledger", VERSION).create_observable_gauge(
            "spanledger.spool.oldest_unshipped",
            [observation_callback(oldest_age)],
            "s",
            "Age of the oldest row that is not shipped",
        )

    def flush(self, timeout: float) -> bool:
        """Ship the current spool within `timeout` seconds; returns whether all of it was shipped.

        A destination for which a caller has waited in vain is tried again, and not waited for until it has answered.
        """
        with self._condition:
            if self._thread is None:
                return False  # the destination is not a valid one
            self._flush_requested += 1
            turn = self._flush_requested
            self._condition.notify_all()
            if self._is_down():
                return False
            shipped = self._condition.wait_for(lambda: self._flush_done >= turn, timeout)
            if not shipped and timeout >= self.PATIENCE_SECONDS:
                self._abandoned_run = self._run_number
            return shipped and self._last_run_succeeded and not self._waits_for_another and not self._spool.waiting

    def _is_down(self) -> bool:
        """Whether waiting for the destination is of no use, as another caller has waited already: the circuit is open."""
        return self._hangs or self._abandoned_run == self._run_number

    def stop(self, timeout: float = 2.0) -> None:
        """Ship once more and stop, within `timeout` seconds; remaining rows stay in the spool."""
        with self._condition:
            self._stopped = True
            self._flush_requested += 1
            self._condition.notify_all()
            is_down = self._is_down()
        if self._thread is not None and not is_down:
            self._thread.join(timeout)

    def _run(self) -> None:
        pause = self.PAUSE_SECONDS
        while True:
            with self._condition:
                delay = pause * random.uniform(0.8, 1.2)  # noqa: S311 - jitter against simultaneous retries
                self._condition.wait_for(lambda: self._flush_requested > self._flush_done, delay)
                serving, last = self._flush_requested, self._stopped
                self._run_number += 1
            began = time.monotonic()
            with suppress_instrumentation():  # our own requests are not spans of the application
                clean = self._run_once()
            pause = self.PAUSE_SECONDS if clean else min(pause * 2, self.MAX_PAUSE_SECONDS)
            with self._condition:
                self._hangs = self._is_unavailable and time.monotonic() - began > self.HANG_SECONDS
                self._flush_done, self._last_run_succeeded, self._abandoned_run = serving, clean, -1
                self._condition.notify_all()
            if last:
                return

    def _run_once(self) -> bool:
        """Drain the spool once; returns whether it succeeded."""
        self._is_incomplete = False
        failure = self._drain_once()
        if failure and not self._is_unavailable:
            log.error("%s", failure)
        elif not failure and self._is_unavailable and self._sink is not None:
            log.warning("%s is reachable again", self._sink.shown)
        self._is_unavailable = bool(failure)
        return not failure and not self._is_incomplete

    def _drain_once(self) -> str:
        """Ship the current spool; returns '' or an error message."""
        self._other_shipper_active = False
        failure = self._try_to_ship_memory()
        reports_due = self._reports_are_due()
        for directory in self.directories:
            failure = self._drain_directory(directory, reports_due=reports_due) or failure
        self._waits_for_another = self._other_shipper_active and any(map(waiting_bytes, self.directories))
        return failure

    def _drain_directory(self, directory: Path, *, reports_due: bool) -> str:
        try:
            if self._sink is not None and (waiting_bytes(directory) or (reports_due and due_reports(directory))):
                stats = drain(directory, self._sink)
                self.shipped.rows += stats.rows
                self.shipped.dead += stats.dead + stats.torn
                self._is_incomplete |= any(problem != NOT_A_SEGMENT for problem in stats.problems.values())
                for name, problem in stats.problems.items():
                    if name not in self.shipped.problems and len(self.shipped.problems) < MAX_PROBLEMS:
                        self.shipped.problems[name] = problem
                        log.error("%s cannot be shipped: %s", directory / name, problem)
        except BusyError:
            self._other_shipper_active = True  # a sidecar, or another worker of the same host, ships this directory
        except DatabaseError as error:
            return f"{error}. Rows wait in {directory} and are sent when the destination is reachable again."
        except OSError as error:
            return f"the spool {directory} cannot be read: {error}"
        except Exception as error:  # noqa: BLE001 - the thread continues after any error of a driver or server
            return f"shipping failed with {type(error).__name__}. Rows wait in {directory}."
        return ""

    def _reports_are_due(self) -> bool:
        """Whether to look for journals to report: now and then, as every worker of a host does it."""
        now = time.monotonic()
        if now < self._next_reports and not self._stopped:
            return False
        self._next_reports = now + self.REPORT_SECONDS
        return True

    def _try_to_ship_memory(self) -> str:
        """Ship the rows for which the spool had no place; returns '' or why they wait. The spool is shipped all the same."""
        try:
            if self._sink is not None:
                self._ship_memory(self._sink)
        except Exception as error:  # noqa: BLE001 - the thread continues after any error of a driver or server
            return f"rows of this process wait in its memory: {error}"
        return ""

    def _ship_memory(self, sink: Sink) -> None:
        """Ship the rows that found no place in the spool, and the totals that no journal holds."""
        rows = self._spool.stranded_rows(0.0 if self._stopped else self.STRANDED_SECONDS)[:MEMORY_BATCH]
        heartbeat = self._spool.heartbeat() if rows or self._heartbeat_sent else []
        if not rows and heartbeat == self._heartbeat_sent:
            return
        stats = send_from_memory([*(row.line for row in rows), *heartbeat], sink, self._spool.directory)
        for row in rows:
            row.is_shipped = True
        self._spool.forget_shipped()
        self._heartbeat_sent = heartbeat
        self.shipped.rows += stats.rows
        self.shipped.dead += stats.dead
