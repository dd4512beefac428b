"""Serves the pages on this machine: a token, a strict content security policy, nothing from elsewhere, and no way to write."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import socket
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Final

import uvicorn
from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from spanledger_clickhouse.database.connection import DatabaseError, Target
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.invoices.lines import InvoiceError
from spanledger_clickhouse.report.spending import EXPRESSIONS
from spanledger_clickhouse.session import open_ledger
from spanledger_clickhouse.ui import pages
from spanledger_clickhouse.ui.filters import BadQuestionError, Filters, filters_of
from spanledger_clickhouse.ui.pages import NotThereError
from spanledger_clickhouse.ui.panels import Chart, Page

COOKIE: Final = "spanledger_token"
UPLOAD_HEADER: Final = "x-spanledger-upload"
"""A header that no form and no other site can set: what changes state, or costs work, asks for it."""
MAX_INVOICE_BYTES: Final = 64 << 20
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
PAINT_SECONDS: float | None = 0.4
"""After that a page is shown without its figures, which its script then asks for."""
LATER_HEADER: Final = "x-spanledger-page"
"""Has the key of a page that is being made."""
MAX_LATER: Final = 32
"""Pages that are being made, or that nobody has fetched; threads that make them are fewer."""
WAIT_SECONDS: Final = 10
"""How long a page waits for others to be done with an embedded ledger."""
LOCAL_HOSTS: Final = ["127.0.0.1", "localhost", "[::1]"]
"""Names in the Host header: another one is a page elsewhere whose name was made to point here (DNS rebinding)."""
NAVIGATION: Final = {
    "spend": ("/", "Spend"),
    "requests": ("/requests", "Requests"),
    "users": ("/users", "Users"),
    "features": ("/features", "Features"),
    "models": ("/models", "Models"),
    "trust": ("/trust", "Trust"),
    "budgets": ("/budgets", "Budgets"),
    "invoice": ("/invoice", "Invoice"),
}


class Ui:
    """The pages over one ledger."""

    def __init__(self, target: Target, token: str) -> None:
        """`token`: what the address that is printed at the start has, and then a cookie."""
        self._target, self._token = target, token
        self._one_at_a_time = Lock() if target.embedded else None
        self._tickets: set[str] = set()
        self._makers = ThreadPoolExecutor(8, thread_name_prefix="spanledger-ui")
        self._later: dict[str, Future[Page]] = {}
        self._templates = Environment(
            loader=PackageLoader("spanledger_clickhouse.ui"),
            autoescape=select_autoescape(),
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def ticket(self) -> str:
        """A token that lets in once: a browser's command line can be read by others of this machine."""
        ticket = secrets.token_urlsafe(24)
        self._tickets.add(ticket)
        return ticket

    def app(self) -> Starlette:
        dimensions = [
            Route(
                f"/{name}s",
                self._page(lambda ledger, request, name=name: pages.breakdown(ledger, _filters(request), name)),
            )
            for name in pages.BREAKDOWNS
        ]
        routes = [
            Route("/", self._page(lambda ledger, request: pages.spend(ledger, _filters(request), datetime.now(UTC)))),
            Route("/requests", self._page(lambda ledger, request: pages.requests(ledger, _filters(request)))),
            Route("/request", self._page(lambda ledger, request: pages.request(ledger, request.query_params.get("id", "")))),
            Route("/run", self._page(lambda ledger, request: pages.run(ledger, request.query_params.get("id", "")))),
            Route("/call", self._page(lambda ledger, request: pages.call(ledger, request.query_params.get("trace", ""), request.query_params.get("span", "")))),
            *dimensions,
            Route("/trust", self._page(lambda ledger, request: pages.trust(ledger, _filters(request), datetime.now(UTC)))),
            Route("/budgets", self._page(lambda ledger, _: pages.budgets(ledger, datetime.now(UTC)))),
            Route("/invoice", self.drop_invoice),
            Route("/invoice", self.upload, methods=["POST"]),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ]  # fmt: skip
        guards = [
            Middleware(TrustedHostMiddleware, allowed_hosts=LOCAL_HOSTS),
            Middleware(BaseHTTPMiddleware, dispatch=self._guarded),
        ]
        return Starlette(
            routes=routes, middleware=guards, exception_handlers={404: self._not_found, Exception: self._failed}
        )

    async def _guarded(self, request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        """Let through who has the token; every answer has the headers."""
        given = request.query_params.get("token", "")
        cookie = f"{COOKIE}_{request.url.port}"  # a cookie is of all ports of a host
        if given and (self._is_token(given) or given in self._tickets):
            self._tickets.discard(given)
            rest = request.url.remove_query_params("token")
            path = "/" + rest.path.lstrip("/\\")  # two slashes would name another host
            response: Response = RedirectResponse(f"{path}?{rest.query}" if rest.query else path, 303)
            response.set_cookie(cookie, self._token, httponly=True, samesite="strict")
        elif self._is_token(request.cookies.get(cookie, "")):
            response = await answer(request)
        else:
            response = PlainTextResponse("Open the address that `spanledger ui` has printed: it has the token.\n", 401)
        response.headers.update(HEADERS)
        return response

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())

    def _page(self, build: Callable[[Ledger, Request], Page]) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            def ask() -> Page:
                _filters(request)  # what is wrong with them is said before the ledger is opened
                with self._ledger() as ledger:
                    return build(ledger, request)

            key = request.headers.get(LATER_HEADER, "")
            making = self._later.pop(key, None) or self._makers.submit(ask)
            try:
                if not key and not await _is_made_within(making, PAINT_SECONDS):
                    return self._html(self._shell(request, making))
                page = await asyncio.wrap_future(making)
            except BadQuestionError as error:
                return self._error(400, str(error))
            except NotThereError as error:
                return self._error(404, str(error))
            except DatabaseError as error:
                return self._error(503, str(error))
            return self._html(page)

        return respond

    def _shell(self, request: Request, making: Future[Page]) -> Page:
        """What is shown of a page while its figures are added up."""
        while len(self._later) >= MAX_LATER:
            self._later.pop(next(iter(self._later))).cancel()
        key = secrets.token_urlsafe(8)
        self._later[key] = making
        name, title = next(
            ((name, label) for name, (path, label) in NAVIGATION.items() if path == request.url.path),
            ("requests", request.url.path.strip("/").capitalize()),
        )
        has_filters = name not in ("budgets", "invoice") and request.url.path == NAVIGATION[name][0]
        return Page(name, title, filters=_filters(request) if has_filters else None, later=key)

    async def drop_invoice(self, _request: Request) -> Response:
        """The page that takes a file."""
        return self._html(Page("invoice", "Invoice"))

    async def upload(self, request: Request) -> Response:
        """A provider's file beside the ledger: a part of a page. Nothing is stored."""
        if UPLOAD_HEADER not in request.headers:
            return PlainTextResponse("use the page to upload a file\n", 403)
        try:
            data = await _body(request)
        except ClientDisconnect:
            return Response(status_code=400)
        if data is None:
            return PlainTextResponse(
                f"the file is larger than {MAX_INVOICE_BYTES >> 20} MB: use spanledger reconcile\n", 413
            )

        def compare() -> Page:
            with self._ledger() as ledger:
                return pages.invoice(ledger, data, request.query_params.get("provider", ""))

        try:
            page = await run_in_threadpool(compare)
        except (InvoiceError, DatabaseError) as error:
            return PlainTextResponse(f"{error}\n", 422)
        return self._html(page, template="panels.html")

    async def _failed(self, _request: Request, error: Exception) -> Response:
        """An error of ours: logged by the server, and said to whoever waits."""
        response = self._error(500, f"The page could not be made ({type(error).__name__}).")
        response.headers.update(HEADERS)
        return response

    async def _not_found(self, request: Request, _error: Exception) -> Response:
        return self._error(404, f"There is no page {request.url.path}.")

    @contextmanager
    def _ledger(self) -> Generator[Ledger]:
        """The ledger for one page: an embedded one is free for other commands in between.

        Raises:
            DatabaseError: it does not answer, or other pages have it for too long.
        """
        if self._one_at_a_time is None:
            with open_ledger(dsn=self._target.dsn) as ledger:
                yield ledger
            return
        if not self._one_at_a_time.acquire(timeout=WAIT_SECONDS):
            raise DatabaseError("other pages wait for the ledger: try again")
        try:
            with open_ledger(dsn=self._target.dsn) as ledger:
                yield ledger
        finally:
            self._one_at_a_time.release()

    def _html(self, page: Page, *, template: str = "page.html", status: int = 200) -> Response:
        text = self._templates.get_template(template).render(
            page=page,
            navigation=NAVIGATION,
            dimensions=list(EXPRESSIONS),
            ledger=self._target.masked_dsn,
            chart_data=_chart_data,
        )
        return HTMLResponse(text, status)

    def _error(self, status: int, message: str) -> Response:
        return self._html(Page("error", "That did not work", error=message), status=status)


async def _is_made_within(making: Future[Page], seconds: float | None) -> bool:
    """Whether a page is there after so many seconds (None: however long it takes); it is made all the same."""
    done, _ = await asyncio.wait({asyncio.wrap_future(making)}, timeout=seconds)
    return bool(done)


def _chart_data(chart: Chart) -> str:
    """JSON for a script element: nothing in it ends the element."""
    return json.dumps(chart.data).replace("<", "\\u003c")


def _filters(request: Request) -> Filters:
    return filters_of(request.query_params.multi_items(), datetime.now(UTC).date())


async def _body(request: Request) -> bytes | None:
    """The body; None if it is too large."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_INVOICE_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)


def serve(app: Starlette, listener: socket.socket) -> None:
    """Serve on a socket until it is ended."""
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[listener])
