"""Connections of the gateway: one that sends nothing is closed, so that no number of them can make it deaf."""

from __future__ import annotations

import asyncio
import resource
from typing import Any, Final, cast

HEADER_SECONDS: Final = 10.0
"""How long a connection may take until the headers of its first request are complete."""
MAX_DESCRIPTORS: Final = 65_536


def raise_descriptor_limit() -> None:
    """Let the process have as many connections as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def request_protocol(header_seconds: float = HEADER_SECONDS) -> type[Any]:
    """uvicorn's HTTP protocol; a connection on which no request begins, or no answer is read, for `header_seconds` is
    closed, at the latest after twice that time."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    base = cast("type[Any]", AutoHTTPProtocol)

    class PunctualProtocol(base):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            protocol: Any = super()
            protocol.connection_made(transport)
            self._watch((None, 0))

        def connection_lost(self, exc: Exception | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            protocol: Any = super()
            protocol.connection_lost(exc)

        def _watch(self, seen: object) -> None:
            """`seen`: the request and the bytes of its answer that were not read, when the time began."""
            self._timer = asyncio.get_running_loop().call_later(header_seconds, self._check, seen)

        def _check(self, seen: object) -> None:
            cycle: Any = getattr(self, "cycle", None)
            unread = self.transport.get_write_buffer_size()
            is_idle = cycle is None or cycle.response_complete
            state = (cycle, unread)
            if state == seen and unread:
                self.transport.abort()  # nobody reads the answer
            elif state == seen and is_idle:
                self.transport.close()
            else:
                self._watch(state if is_idle or unread else None)

    return PunctualProtocol
