"""HTTP client for Collectors, alert destinations and cost APIs: one request, without redirects and without addresses in errors.

A redirected POST would become a GET without its body, and any page's 200 would look like an acceptance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

BACKOFF_SECONDS: Final = 1.0
"""Attempts come after 0, 2, 4 and 8 of these."""
MAX_RETRY_AFTER_SECONDS: Final = 20.0
RETRIED_STATUSES: Final = (408, 429, 500, 502, 503, 504)


class NoResponseError(Exception):
    """No response came; the message is the system's reason, without the address, which may contain a secret."""


class Response(NamedTuple):
    status: int
    reason: str
    body: bytes
    """As much of it as was asked for."""
    attempts: int
    """Requests made."""


class _BoundedRetry(Retry):
    """Retry policy that honours Retry-After up to a maximum."""

    def parse_retry_after(self, retry_after: str) -> float:
        return min(super().parse_retry_after(retry_after), MAX_RETRY_AFTER_SECONDS)


def post(
    url: str, body: bytes, headers: Mapping[str, str], timeout: float, *, attempts: int = 1, max_body: int = 0
) -> Response:
    """POST a body; proxies and certificates come from the environment, as `requests` reads it.

    Args:
        url: http or https.
        body: the payload.
        headers: of the request.
        timeout: seconds to connect, and between bytes of the response.
        attempts: at most; further ones follow connection errors and RETRIED_STATUSES, with backoff.
        max_body: how many bytes of the response's body are read, decoded.

    Raises:
        NoResponseError: no attempt got a response, or the body broke off.
    """
    return _send("POST", url, body, headers, timeout, attempts, max_body)


def get(url: str, headers: Mapping[str, str], timeout: float, *, attempts: int = 1, max_body: int) -> Response:
    """GET a document; see `post`.

    Raises:
        NoResponseError: no attempt got a response, or the body broke off.
    """
    return _send("GET", url, None, headers, timeout, attempts, max_body)


def _send(
    method: str, url: str, body: bytes | None, headers: Mapping[str, str], timeout: float, attempts: int, max_body: int
) -> Response:
    retry = _BoundedRetry(
        attempts - 1,
        backoff_factor=BACKOFF_SECONDS,
        status_forcelist=RETRIED_STATUSES,
        allowed_methods=None,
        raise_on_status=False,
    )
    options: dict[str, Any] = {
        "headers": headers,
        "timeout": timeout,
        "allow_redirects": False,
        "stream": True,
        "auth": _no_auth,
    }
    try:
        with requests.Session() as session:
            session.mount(f"{urlsplit(url).scheme}://", HTTPAdapter(max_retries=retry))
            with session.request(method, url, data=body, **options) as answer:
                tried = getattr(answer.raw, "retries", None)
                return Response(
                    answer.status_code,
                    answer.reason,
                    answer.raw.read(max_body, decode_content=True) if max_body else b"",
                    1 + len(tried.history) if tried is not None else 1,
                )
    except requests.Timeout as error:
        raise NoResponseError("timed out") from error
    except (requests.RequestException, HTTPError, UnicodeError) as error:  # UnicodeError: an invalid host name
        raise NoResponseError(_failure_reason(error)) from error


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps a ~/.netrc from replacing the headers."""
    return request


def _failure_reason(error: Exception) -> str:
    cause: BaseException | None = getattr(error.args[0] if error.args else None, "reason", None) or error
    error_type = type(cause).__name__
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror and cause.errno is not None:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return error_type
