"""What servers and frameworks do with contexts, as patches of theirs show it: where a request begins, and when its response is sent.

- uvicorn begins a request in whatever context lets it read on: that of the request before, on a connection that is kept alive
  (python/cpython#140947). Nothing of that counts for it.
- Starlette's `BaseHTTPMiddleware` sends the response after what it has called has been left.
"""

from __future__ import annotations

from functools import cache, wraps
from types import ModuleType
from typing import Any, Final

import wrapt

from spanledger.context.open_scopes import Response, Taken, next_order, response, taken
from spanledger.runtime.guard import quietly

RUNNERS: Final = {
    "uvicorn.protocols.http.h11_impl": "RequestResponseCycle",
    "uvicorn.protocols.http.httptools_impl": "RequestResponseCycle",
    "uvicorn.protocols.websockets.websockets_impl": "WebSocketProtocol",
    "uvicorn.protocols.websockets.websockets_sansio_impl": "WebSocketsSansIOProtocol",
    "uvicorn.protocols.websockets.wsproto_impl": "WSProtocol",
}
"""Module -> its class whose `run_asgi` is what a request's task runs."""


@cache
def watch_servers() -> None:
    """Patch each server and framework that is imported, now or later; once."""
    for module, name in RUNNERS.items():
        wrapt.register_post_import_hook(lambda imported, name=name: _patch_runner(imported, name), module)
    wrapt.register_post_import_hook(_patch_middleware, "starlette.middleware.base")


def _patch_runner(module: ModuleType, name: str) -> None:
    with quietly("patching a server"):
        runner: Any = getattr(module, name)
        original = runner.run_asgi

        @wraps(original)
        async def run_asgi(self: Any, *args: Any, **kwargs: Any) -> Any:
            taken.set(Taken(next_order(), is_request=True))
            return await original(self, *args, **kwargs)

        runner.run_asgi = run_asgi


def _patch_middleware(module: ModuleType) -> None:
    with quietly("patching a middleware"):
        middleware: Any = module.BaseHTTPMiddleware  # pyright: ignore[reportAttributeAccessIssue]
        original = middleware.__call__

        @wraps(original)
        async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            made = Response()
            token = response.set(made)
            try:
                return await original(self, *args, **kwargs)
            finally:
                made.is_sent = True
                response.reset(token)

        middleware.__call__ = call
