"""When the store does not answer: calls leave it alone for a while, and it is said once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from spanledger.limits.store.protocol import StoreError
from spanledger.runtime.guard import log

SILENT_SECONDS: Final = 5.0
"""How long a store that did not answer is left alone by calls; the teller asks it every second meanwhile."""
LOGGED_SECONDS: Final = 60.0
"""Outages are logged once in this time."""


class Outage:
    """Whether there is one, as far as anybody has noticed. Any thread may say so."""

    __slots__ = ("_logged", "_until", "_wonder", "last_error", "times")

    def __init__(self, wonder: Callable[[], object]) -> None:
        """`wonder`: has somebody ask whether it is over."""
        self._wonder = wonder
        self._until = 0.0
        """Until when calls leave the store alone, by the monotonic clock; 0.0: it answers."""
        self._logged = 0.0
        self.last_error = ""
        self.times = 0
        """How often the store did not answer."""

    @property
    def lasts(self) -> bool:
        """Whether calls had better not ask."""
        return self._until != 0.0 and self._until > time.monotonic()

    @property
    def doubted(self) -> bool:
        """Whether the last that was heard of the store is that it did not answer."""
        return self._until != 0.0

    def noticed(self, error: StoreError) -> None:
        """The store has not answered."""
        now = time.monotonic()
        self.times += 1
        if not error.refused:  # else it is there for others
            self._until, self.last_error = now + SILENT_SECONDS, str(error)
            self._wonder()
        if not self._logged or now - self._logged > LOGGED_SECONDS:
            self._logged = now
            log.warning("limits are not enforced: %s", error)

    def over(self) -> None:
        """The store has answered."""
        if self._until:
            log.warning("limits are enforced again")
        self._until = 0.0
