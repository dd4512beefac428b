"""Connecting to Redis in a thread of its own, so that no call waits for a name that takes seconds to resolve.

What is not there in time goes on in the thread, and the next who wants the connection finds it made, or waits in turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

CONNECT_SECONDS: Final = 2.0
"""How long the thread tries."""


class _Attempt:
    """One attempt, in a thread."""

    def __init__(self, connect: Callable[[], object]) -> None:
        self._connect = connect
        self.done = threading.Event()
        self.error: BaseException | None = None
        threading.Thread(target=self._run, name="spanledger-redis", daemon=True).start()

    def _run(self) -> None:
        try:
            self._connect()
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits for it
            self.error = error
        finally:
            self.done.set()


def patient(base: type[Any], seconds: float, late: Callable[[], Exception]) -> type[Any]:
    """A class of connections whose `connect` takes no longer than this.

    Args:
        base: one of redis-py's (plain, TLS, Unix socket).
        seconds: that a caller waits.
        late: what is raised then.
    """

    class Patient(base):
        _attempt: _Attempt | None = None

        def connect(self, *arguments: Any, **options: Any) -> None:
            own: Any = super()
            attempt = self._attempt
            if attempt is None or attempt.done.is_set():
                if self._sock is not None:
                    own.connect(*arguments, **options)
                    return
                attempt = self._attempt = _Attempt(own.connect)
            if not attempt.done.wait(seconds):
                raise late()
            self._attempt = None
            if attempt.error is not None:
                raise attempt.error

    return Patient
