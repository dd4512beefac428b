"""Marks a context as being inside a request to an LLM provider, for as long as that request is being sent."""

from __future__ import annotations

import posixpath
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry import context as otel_context
from opentelemetry.context import Context

CALL_KEY = otel_context.create_key("spanledger-call")
"""Key of the `Outbound` of a context inside a request to an LLM provider."""


class _Stray:
    """Requests over the network that were sent outside of any context of ours."""

    count = 0


_stray: Final = _Stray()


class Outbound:
    """A request to an LLM provider that is being sent; over when its function has returned, whoever keeps its context."""

    __slots__ = ("_stray_before", "claims", "client", "host", "open", "path", "reached")

    def __init__(self, *, claims: bool = True) -> None:
        self.open = True
        self.claims = claims
        """Whether whoever opened it says what comes of it: a row, or none. The net then lets it pass."""
        self.client: Any = None
        """The HTTP client that sends it; None where that is not known, and everything meanwhile is taken for it."""
        self.host = ""
        self.path = ""
        """The end of its path, as the SDK has it."""
        self.reached = False
        """Whether an HTTP client has sent something over the network for it."""
        self._stray_before = _stray.count

    @property
    def may_have_reached(self) -> bool:
        """Whether it was sent, or something was meanwhile of which nobody knows for whom: by a transport's own thread."""
        return self.reached or self._stray_before != _stray.count


def in_call(context: Context | None = None) -> bool:
    """Whether `context` (by default the current one) is that of a request to an LLM provider."""
    request = otel_context.get_value(CALL_KEY, context)
    return isinstance(request, Outbound) and request.open


watched_libraries: Final = set[str]()
"""HTTP libraries whose network functions say that they were reached."""


def is_claimed(client: object, host: str, path: str) -> bool:
    """Whether a hook of an SDK already knows what `client` sends now.

    An application's own event hook may send something else meanwhile, with a client of its own: to another host or path.
    """
    request = otel_context.get_value(CALL_KEY)
    if not isinstance(request, Outbound) or not request.open or not request.claims:
        return False
    if request.client is None or request.client is client:
        return True
    parts = urlsplit(request.path)
    own_path = posixpath.normpath(parts.path).strip("/.")
    return (parts.hostname or request.host) == host and posixpath.normpath(path.partition("?")[0]).endswith(own_path)


def note_network(host: str = "") -> None:
    """Say that the request that is current goes over the network, to `host`; what goes to another one may ask a cache."""
    request = otel_context.get_value(CALL_KEY)
    if isinstance(request, Outbound) and request.open:
        request.reached = request.reached or not host or host == (request.host or host)
    else:
        _stray.count += 1


def reached_network(response: object = None) -> bool:
    """Whether the answer to the request that is current came over the network, as far as that is known."""
    request = otel_context.get_value(CALL_KEY)
    if not isinstance(request, Outbound) or request.may_have_reached:
        return True
    if response is None:
        return not watched_libraries
    return type(response).__module__.partition(".")[0] not in watched_libraries


@contextmanager
def outbound(*, claims: bool = True) -> Generator[None]:
    """Mark what runs inside as a request to an LLM provider that is not a billed call: no baggage is injected into it."""
    request = Outbound(claims=claims)
    token = otel_context.attach(otel_context.set_value(CALL_KEY, request))
    try:
        yield
    finally:
        request.open = False
        otel_context.detach(token)
