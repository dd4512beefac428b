"""Knows which errors of HTTP clients say that a request reached no server, so that nothing can have been billed."""

from __future__ import annotations

from typing import Final

NEVER_SENT: Final = frozenset({
    "ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "InvalidURL", "ProxyError",
    "ConnectionRefusedError", "gaierror", "NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ClientConnectorError",
    "ClientConnectorDNSError", "ClientConnectorCertificateError", "SSLCertVerificationError",
})  # fmt: skip
"""Classes of errors of httpx, urllib3, aiohttp and sockets that say that no request left this machine."""


def was_never_sent(error: BaseException | None) -> bool:
    """Whether an error, or one that it was made of, says that the request reached nobody."""
    for _ in range(8):
        if error is None:
            return False
        if any(cls.__name__ in NEVER_SENT for cls in type(error).__mro__):
            return True
        error = error.__cause__  # not the context, which can be that of another call: one made in an `except` block
    return False
