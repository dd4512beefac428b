"""Circuit breaker for the store: after a failure, calls skip the store for a while; the outage is logged once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from spanledger.limits.store.protocol import StoreError
from spanledger.runtime.guard import log

OPEN_SECONDS: Final = 5.0
"""How long calls skip a store that did not respond; the settlement worker probes it every second meanwhile."""
LOG_INTERVAL_SECONDS: Final = 60.0
"""Minimum interval between two log lines about an outage."""


class CircuitBreaker:
    """State of the store as observed by all threads: closed, open, or tripped and waiting for a successful probe."""

    __slots__ = ("_logged_at", "_open_until", "_start_probe", "failure_count", "last_error")

    def __init__(self, start_probe: Callable[[], object]) -> None:
        """`start_probe`: starts the background check for recovery."""
        self._start_probe = start_probe
        self._open_until = 0.0
        """Monotonic time until which calls skip the store; 0.0: the store responds."""
        self._logged_at = 0.0
        self.last_error = ""
        self.failure_count = 0
        """Number of failed requests to the store."""

    @property
    def is_open(self) -> bool:
        """Whether calls skip the store."""
        return self._open_until != 0.0 and self._open_until > time.monotonic()

    @property
    def is_tripped(self) -> bool:
        """Whether the most recent request failed (open or half-open)."""
        return self._open_until != 0.0

    def record_failure(self, error: StoreError) -> None:
        """Open the circuit after a failed request, unless the store rejected only this request."""
        now = time.monotonic()
        self.failure_count += 1
        if not error.refused:  # a rejection: the store is available for other requests
            self._open_until, self.last_error = now + OPEN_SECONDS, str(error)
            self._start_probe()
        if not self._logged_at or now - self._logged_at > LOG_INTERVAL_SECONDS:
            self._logged_at = now
            log.warning("limits are not enforced: %s", error)

    def record_success(self) -> None:
        """Close the circuit after a successful request."""
        if self._open_until:
            log.warning("limits are enforced again")
        self._open_until = 0.0
