"""A Django application under ASGI that notes who counts where: in views, in their streamed bodies, and in what they leave running."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

from spanledger.context.open_scopes import current

seen: list[tuple[str, object, bool]] = []
left: list[asyncio.Task[None]] = []


def note(where: str) -> None:
    counts = current()
    seen.append((where, counts.entries.get("user.id"), counts.is_stale))


async def asynchronous(_: Any) -> Any:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(2):
            await asyncio.sleep(0)
            note("asynchronous body")
            yield b"x"

    note("asynchronous view")
    return StreamingHttpResponse(body())


def synchronous(_: Any) -> Any:
    def body() -> Iterator[bytes]:
        for _ in range(2):
            note("body")
            yield b"x"

    note("view")
    return StreamingHttpResponse(body())


async def leaving(_: Any) -> Any:
    async def later() -> None:
        await asyncio.sleep(0.05)
        note("later")

    left.append(asyncio.create_task(later()))
    return HttpResponse("ok")


urlpatterns = [path("asynchronous", asynchronous), path("synchronous", synchronous), path("leaving", leaving)]


async def ask(application: Any, where: str) -> None:
    headers = [(b"x-user", b"ada"), (b"host", b"x")]
    scope = {"type": "http", "method": "GET", "path": where, "raw_path": where.encode(), "query_string": b"", "headers": headers,
             "http_version": "1.1", "scheme": "http", "server": ("x", 80), "client": ("y", 1), "asgi": {"version": "3.0"}}  # fmt: skip
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.sleep(3600)
        return messages.pop()

    async def send(_: dict[str, Any]) -> None: ...

    await application(scope, receive, send)


async def main() -> None:
    application = ASGIHandler()
    for where in ("/asynchronous", "/synchronous", "/leaving"):
        await asyncio.create_task(ask(application, where))
    await asyncio.gather(*left)
    note("outside")
    print(json.dumps(seen))  # noqa: T201 - a program


if __name__ == "__main__":
    settings.configure(
        SECRET_KEY="x",
        ROOT_URLCONF="__main__",
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=["spanledger.middleware.django_attribution"],
        SPANLEDGER={"user": "x-user", "routes": {"/": "chat"}},
    )
    django.setup()
    asyncio.run(main())
