"""Power loss: forces what was written to the spool onto the device."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable

from spanledger.runtime.forks import threads_allowed


class DeviceSync:
    """Forces what was written onto the device every few milliseconds, from a thread (SPANLEDGER_SPOOL_SYNC_MS)."""

    def __init__(self, milliseconds: int, descriptor: Callable[[], int | None]) -> None:
        """`descriptor`: of the current segment."""
        self._milliseconds, self._descriptor = milliseconds, descriptor
        self.after_fork()

    def after_fork(self) -> None:
        self._dirty = threading.Event()
        self._running = False

    def request(self) -> None:
        """The current segment has changed."""
        if not self._milliseconds:
            return
        self._dirty.set()
        if not self._running and threads_allowed():
            with contextlib.suppress(RuntimeError):  # no thread can be started now: the system decides when to write
                threading.Thread(target=self._run, name="spanledger-sync", daemon=True).start()
                self._running = True

    def _run(self) -> None:
        while True:
            self._dirty.wait()
            self._dirty.clear()
            fd = self._descriptor()
            if fd is not None:
                with contextlib.suppress(OSError):  # closed meanwhile, or a device that cannot
                    getattr(os, "fdatasync", os.fsync)(fd)  # macOS has no fdatasync
            time.sleep(self._milliseconds / 1000)
