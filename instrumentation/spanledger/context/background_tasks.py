"""Background tasks of a web framework run in the name of their request, although it has been answered.

Starlette (and FastAPI) and Litestar run them in the request's own task after the response, when a server span may have ended:
nothing else that a request has started differs by then from a worker that serves others (`open_scopes.py`).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any, Final

import wrapt
from opentelemetry import baggage
from opentelemetry import context as otel_context

from spanledger.context.baggage import is_attribution_key
from spanledger.context.open_scopes import (
    NOTHING,
    Current,
    OpenScope,
    current,
    in_scope,
    is_before_work,
    owner,
    response,
)
from spanledger.runtime.guard import quietly

MODULES: Final = ("starlette.background", "litestar.background_tasks")


@cache
def keep_background_tasks() -> None:
    """Patch `BackgroundTask.__call__` of each framework that is imported, now or later; once."""
    for module in MODULES:
        wrapt.register_post_import_hook(_patch, module)


def _patch(module: ModuleType) -> None:
    with quietly("patching background tasks"):
        task_class: Any = module.BackgroundTask  # pyright: ignore[reportAttributeAccessIssue]
        original = task_class.__call__

        async def __call__(task: Any) -> Any:  # noqa: N807 - the method's own name
            with _in_its_request():
                return await original(task)

        __call__.__wrapped__ = original  # pyright: ignore[reportFunctionMemberAccess]
        task_class.__call__ = __call__


@contextmanager
def _in_its_request() -> Generator[None]:
    counts = current()
    request = counts.request
    made = response.get()  # its middleware runs it in a task of its own, before it has returned
    is_sending = made is not None and not made.is_sent
    is_own = request is not None and (request.owner == owner() or (is_sending and not is_before_work(request)))
    if not counts.is_stale or request is None or not is_own:
        yield
        return
    raw = baggage.get_all().items()
    entries = {key: value for key, value in raw if is_attribution_key(key) and request.inherited.get(key) != value}
    outside = Current(NOTHING, None, counts.request, is_stale=True)
    scope = OpenScope(entries, outside, is_request=True)
    token = otel_context.attach(in_scope(otel_context.get_current(), scope))
    try:
        yield
    finally:
        scope.close()
        otel_context.detach(token)
