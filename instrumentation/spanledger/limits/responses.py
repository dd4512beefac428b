"""Maps BudgetExceeded to an HTTP 429 response with Retry-After.

app.add_exception_handler(BudgetExceeded, for_starlette)      # FastAPI, Starlette
app.register_error_handler(BudgetExceeded, for_flask)         # Flask
MIDDLEWARE = [..., "spanledger.limits.responses.for_django"]  # Django
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spanledger.limits.errors import BudgetExceeded


def headers(error: BudgetExceeded) -> dict[str, str]:
    """The Retry-After header (RFC 9110, 10.2.3), if waiting helps."""
    return {"Retry-After": str(error.retry_after_seconds)} if error.retry_after_seconds else {}


def body(error: BudgetExceeded) -> dict[str, Any]:
    """The response body. It omits the reason: amounts and budget names are not for the end user."""
    retry_fields = {"retry_after_seconds": error.retry_after_seconds} if error.retry_after_seconds else {}
    return {"error": "budget_exceeded", **retry_fields}


async def for_starlette(request: Any, error: BudgetExceeded) -> Any:  # noqa: ARG001 - the framework's signature
    """Exception handler for FastAPI and Starlette."""
    from starlette.responses import JSONResponse

    return JSONResponse(body(error), status_code=429, headers=headers(error))


def for_flask(error: BudgetExceeded) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Error handler for Flask."""
    return body(error), 429, headers(error)


class for_django:  # noqa: N801 - named in settings like a function
    """Middleware for Django."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response

    def __call__(self, request: Any) -> Any:
        return self._get_response(request)

    def process_exception(self, request: Any, error: Exception) -> Any:  # noqa: ARG002 - Django's signature
        from importlib import import_module

        if not isinstance(error, BudgetExceeded):
            return None
        json_response: Any = import_module("django.http").JsonResponse
        return json_response(body(error), status=429, headers=headers(error))
