"""BudgetExceeded as an answer of a web application: HTTP 429 with Retry-After.

app.add_exception_handler(BudgetExceeded, for_starlette)      # FastAPI, Starlette
app.register_error_handler(BudgetExceeded, for_flask)         # Flask
MIDDLEWARE = [..., "spanledger.limits.responses.for_django"]  # Django
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spanledger.limits.errors import BudgetExceeded


def headers(error: BudgetExceeded) -> dict[str, str]:
    """Retry-After (RFC 9110, 10.2.3), where waiting helps."""
    return {"Retry-After": str(error.retry_after_seconds)} if error.retry_after_seconds else {}


def body(error: BudgetExceeded) -> dict[str, Any]:
    """No word of why: amounts and names are not for whoever made the request. When to come again, where that helps."""
    when = {"retry_after_seconds": error.retry_after_seconds} if error.retry_after_seconds else {}
    return {"error": "budget_exceeded", **when}


async def for_starlette(request: Any, error: BudgetExceeded) -> Any:  # noqa: ARG001 - the framework's signature
    """An exception handler of FastAPI and Starlette."""
    from starlette.responses import JSONResponse

    return JSONResponse(body(error), status_code=429, headers=headers(error))


def for_flask(error: BudgetExceeded) -> tuple[dict[str, Any], int, dict[str, str]]:
    """An error handler of Flask."""
    return body(error), 429, headers(error)


class for_django:  # noqa: N801 - named in settings like a function
    """A middleware of Django."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response

    def __call__(self, request: Any) -> Any:
        return self._get_response(request)

    def process_exception(self, request: Any, error: Exception) -> Any:  # noqa: ARG002 - Django's signature
        from importlib import import_module

        if not isinstance(error, BudgetExceeded):
            return None
        answer: Any = import_module("django.http").JsonResponse
        return answer(body(error), status=429, headers=headers(error))
