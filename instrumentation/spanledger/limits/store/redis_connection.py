"""Connects to Redis in a background thread with a deadline, so that slow name resolution blocks no call.

A connection attempt that misses the deadline continues in its thread; the next caller reuses it, or waits in turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

CONNECT_SECONDS: Final = 2.0
"""Timeout of the connection attempt in the thread."""


class _ConnectAttempt:
    """One connection attempt, in a background thread."""

    def __init__(self, connect: Callable[[], object]) -> None:
        self._connect = connect
        self.finished = threading.Event()
        self.error: BaseException | None = None
        threading.Thread(target=self._run, name="spanledger-redis", daemon=True).start()

    def _run(self) -> None:
        try:
            self._connect()
        except BaseException as error:  # noqa: BLE001 - it is re-raised in the waiting caller
            self.error = error
        finally:
            self.finished.set()


def with_connect_deadline(base: type[Any], seconds: float, timeout_error: Callable[[], Exception]) -> type[Any]:
    """A connection class whose `connect` has a deadline.

    Args:
        base: one of redis-py's (plain, TLS, Unix socket).
        seconds: maximum wait of a caller.
        timeout_error: creates the exception to raise on timeout.
    """

    class DeadlineConnection(base):
        _attempt: _ConnectAttempt | None = None

        def connect(self, *arguments: Any, **options: Any) -> None:
            own: Any = super()
            attempt = self._attempt
            if attempt is None or attempt.finished.is_set():
                if self._sock is not None:
                    own.connect(*arguments, **options)
                    return
                attempt = self._attempt = _ConnectAttempt(own.connect)
            if not attempt.finished.wait(seconds):
                raise timeout_error()
            self._attempt = None
            if attempt.error is not None:
                raise attempt.error

    return DeadlineConnection
