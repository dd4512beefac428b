"""Ships an application's spool from a daemon thread of the application."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from opentelemetry import metrics

from spanledger.runtime.guard import log
from spanledger.runtime.meters import counters, observing
from spanledger.runtime.version import VERSION
from spanledger_clickhouse.database.connection import DatabaseError
from spanledger_clickhouse.ship.shipper import BusyError, Drained, drain, oldest, waiting
from spanledger_clickhouse.ship.sinks import Sink, configured


class BackgroundShipper:
    """Ships to the sink that the settings name.

    An outage is logged once and retried with pauses that double up to a minute; the rows wait in the spool.
    """

    PAUSE: Final = 1.0
    LONGEST_PAUSE: Final = 60.0

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.shipped = Drained()
        """What this process has shipped so far."""
        self._turns = threading.Condition()
        self._asked = 0
        self._served = 0
        self._clean = True
        self._stopped = False
        self._elsewhere = False
        self._sink: Sink | None = None
        self._thread: threading.Thread | None = None
        self._out = False

    def start(self) -> None:
        """Begin, where a destination is set; one that makes no sense is said."""
        try:
            self._sink = configured()
        except DatabaseError as error:
            log.error("%s. Rows wait in %s.", error, self.directory)
        if self._sink is not None:
            self._thread = threading.Thread(target=self._run, name="spanledger-shipper", daemon=True)
            self._thread.start()

    @staticmethod
    def observe(current: Callable[[], BackgroundShipper]) -> None:
        """Offer what was shipped to OpenTelemetry's meter; `current` is asked each time, for a forked child has its own."""
        counters(
            {
                "spanledger.rows.shipped": ("Rows that reached the ledger", lambda: current().shipped.rows),
                "spanledger.rows.dead": (
                    "Lines among the dead letters",
                    lambda: current().shipped.dead + current().shipped.torn,
                ),
            }
        )
        metrics.get_meter("spanledger", VERSION).create_observable_gauge(
            "spanledger.spool.oldest_unshipped",
            [observing(lambda: oldest(current().directory))],
            "s",
            "How long the oldest row that is not shipped has waited",
        )

    def flush(self, timeout: float) -> bool:
        """Ship what is there now, within `timeout` seconds; whether it was shipped."""
        with self._turns:
            if self._thread is None:
                return self._sink is None
            self._asked += 1
            turn = self._asked
            self._turns.notify_all()
            shipped = self._turns.wait_for(lambda: self._served >= turn, timeout) and self._clean
            return shipped and not (self._elsewhere and waiting(self.directory))

    def stop(self, timeout: float = 2.0) -> None:
        """Ship once more and end, within `timeout` seconds; what is left stays in the spool."""
        with self._turns:
            self._stopped = True
            self._asked += 1
            self._turns.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        pause = self.PAUSE
        while True:
            with self._turns:
                delay = pause * random.uniform(0.8, 1.2)  # noqa: S311 - so that processes do not come all at once
                self._turns.wait_for(lambda: self._asked > self._served, delay)
                serving, last = self._asked, self._stopped
            clean = self._turn()
            pause = self.PAUSE if clean else min(pause * 2, self.LONGEST_PAUSE)
            with self._turns:
                self._served, self._clean = serving, clean
                self._turns.notify_all()
            if last:
                return

    def _turn(self) -> bool:
        """One pass over the spool; whether nothing stood in its way."""
        failure = self._pass()
        if failure and not self._out:
            log.error("%s", failure)
        elif not failure and self._out and self._sink is not None:
            log.warning("%s is reached again", self._sink.shown)
        self._out = bool(failure)
        return not failure

    def _pass(self) -> str:
        """Ship what is there; '' or what is wrong."""
        self._elsewhere = False
        try:
            if self._sink is not None and waiting(self.directory):
                stats = drain(self.directory, self._sink)
                self.shipped.rows += stats.rows
                self.shipped.dead += stats.dead + stats.torn
        except BusyError:
            self._elsewhere = True  # a sidecar, or another worker of the same host, ships this directory
        except DatabaseError as error:
            return f"{error}. Rows wait in {self.directory} and are sent when it can be reached."
        except OSError as error:
            return f"the spool {self.directory} cannot be read: {error}"
        except Exception as error:  # noqa: BLE001 - the thread goes on, whatever a driver or a server comes up with
            return f"shipping failed with {type(error).__name__}. Rows wait in {self.directory}."
        return ""
