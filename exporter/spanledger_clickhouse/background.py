"""Ships an application's spool from a daemon thread of the application."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Final

from spanledger.guard import log
from spanledger_clickhouse.database import DatabaseError
from spanledger_clickhouse.shipper import BusyError, Drained, drain, waiting
from spanledger_clickhouse.sinks import Sink, configured


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
        self._wake = threading.Event()
        self._stopped = False
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

    def flush(self) -> None:
        """Ship what is there without waiting for the next turn."""
        self._wake.set()

    def stop(self, timeout: float = 2.0) -> None:
        """Ship once more and end, within `timeout` seconds; what is left stays in the spool."""
        self._stopped = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        pause = self.PAUSE
        while True:
            self._wake.wait(pause * random.uniform(0.8, 1.2))  # noqa: S311 - so that processes do not come all at once
            self._wake.clear()
            last = self._stopped
            pause = self.PAUSE if self._turn() else min(pause * 2, self.LONGEST_PAUSE)
            if last:
                return

    def _turn(self) -> bool:
        sink = self._sink
        if sink is None:
            return True
        try:
            if waiting(self.directory):
                done = drain(self.directory, sink)
                self.shipped.rows += done.rows
                self.shipped.dead += done.dead + done.torn
        except BusyError:
            return True  # a sidecar, or another worker of the same host, ships this directory
        except DatabaseError as error:
            if not self._out:
                self._out = True
                log.error("%s. Rows wait in %s and are sent when it can be reached.", error, self.directory)
            return False
        except OSError as error:
            if not self._out:
                self._out = True
                log.error("the spool %s cannot be read: %s", self.directory, error)
            return False
        if self._out:
            self._out = False
            log.warning("%s is reached again", sink.shown)
        return True
