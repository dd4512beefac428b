"""Calls every method of an SDK's resources once, with arguments made from its signature, and keeps what was sent.

The methods are found in the SDK that is installed: those of a newer release are found as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import enum
import importlib
import inspect
import io
import os
import threading
import types
import typing
import unittest.mock
from collections.abc import AsyncIterable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anthropic
import openai
from google import genai
from google.auth.credentials import Credentials
from google.oauth2.credentials import Credentials as Token
from pydantic import BaseModel

Request = tuple[str, dict[str, str]]


# --- a server and its clients -----------------------------------------------------------------------------


class Listener(ThreadingHTTPServer):
    """Answers anything with an empty object."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[Request] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((f"{self.command} {self.path}", headers))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        if headers.get("x-goog-upload-command") == "start":
            self.send_header("x-goog-upload-url", f"{self.server.url}/upload/resumed")
        self.send_header("x-goog-upload-status", "final")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_DELETE = do_PATCH = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass


def client(sdk: str, url: str, *, asynchronous: bool, vertex: bool = False) -> Any:
    if sdk == "google":
        options: Any = {"base_url": url}
        if vertex:
            google = genai.Client(
                vertexai=True, project="p", location="l", credentials=Token("t"), http_options=options
            )
        else:
            google = genai.Client(api_key="k", http_options=options)
        return google.aio if asynchronous else google
    cls: Any = {
        ("openai", False): openai.OpenAI,
        ("openai", True): openai.AsyncOpenAI,
        ("anthropic", False): anthropic.Anthropic,
        ("anthropic", True): anthropic.AsyncAnthropic,
    }[sdk, asynchronous]
    more: dict[str, str] = {"admin_api_key": "k"} if sdk == "openai" else {}
    return cls(api_key="k", base_url=url, max_retries=0, **more)


UNREADABLE = (TypeError, ValueError, AttributeError, KeyError, openai.OpenAIError, anthropic.AnthropicError)
"""What an SDK raises at an empty answer: not what is asked here."""


async def close(sender: Any) -> None:
    closed = sender.aclose() if hasattr(sender, "aclose") else sender.close()
    if closed is not None:
        await closed


# --- the methods of a client -----------------------------------------------------------------------------

STAINLESS = [importlib.import_module(f"{sdk}._resource") for sdk in ("openai", "anthropic")]
RESOURCES: tuple[type, ...] = (
    *(cls for module in STAINLESS for cls in (module.SyncAPIResource, module.AsyncAPIResource)),
    importlib.import_module("google.genai._api_module").BaseModule,
    *(vars(importlib.import_module("google.genai._gaos.basesdk"))[name] for name in ("BaseSDK", "AsyncBaseSDK")),
    *(vars(importlib.import_module("google.genai.chats"))[name] for name in ("Chats", "AsyncChats")),
)
"""What the resources of an SDK are instances of."""

LEFT_OUT = ("connect", "do_request", "do_request_async", "parent_ref")
"""WebSockets (tests of their own), the transport that all methods have in common, and the way back up."""


def methods(owner: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The public methods of the resources of a client, each as its path and its resource."""
    for name in dir(owner):
        if name.startswith(("_", "with_")) or name in LEFT_OUT:
            continue
        value = getattr(owner, name)
        if isinstance(value, RESOURCES):
            yield from methods(value, f"{path}{name}.")
        elif path and inspect.isroutine(value):
            yield f"{path}{name}", owner


# --- their arguments -----------------------------------------------------------------------------------------

NAMED = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY

ARGUMENTS: dict[str, dict[str, dict[str, Any]]] = {
    "openai": {
        "beta.agents.environments.files.upload": {"path": "/workspace/x"},
        "beta.threads.runs.submit_tool_outputs_stream": {"tool_outputs": []},
    },
    "anthropic": {
        "beta.messages.tool_runner": {"tools": []},
        "beta.sessions.events.tool_runner": {"tools": []},
    },
    "google": {
        "batches.cancel": {"name": "batches/x"},
        "batches.create": {"src": "files/x"},
        "batches.create_embeddings": {"src": {"file_name": "files/x"}},
        "batches.delete": {"name": "batches/x"},
        "batches.get": {"name": "batches/x"},
        "credentials.create": {"request": {"body": {"type": "bearer_token", "id": "x", "token": "x"}}},
        "credentials.update": {"id": "x", "type_": "bearer_token", "token": "x"},
        "environments.delete": {"id": "x"},
        "environments.files.download": {"environment": "x"},
        "environments.files.upload": {"environment": "x", "file": Path(__file__)},
        "environments.get": {"id": "x"},
        "file_search_stores.download_media": {"media_id": "fileSearchStores/x/media/x"},
        "file_search_stores.upload_to_file_search_store": {"file": Path(__file__)},
        "files.upload": {"file": Path(__file__)},
        "interactions.create": {"model": "x", "input": "x"},
        "operations.get": {"operation": genai.types.GenerateVideosOperation(name="models/x/operations/x")},
    },
}
"""Where a signature does not say what the SDK accepts."""


def declarations(resource: Any, name: str) -> Iterator[Any]:
    """The functions whose signatures say what a method takes, which a wrapper's `*args, **kwargs` does not."""
    for cls in type(resource).__mro__:
        if name in vars(cls):
            function = inspect.unwrap(vars(cls)[name])
            yield from typing.get_overloads(function)
            if any(each.kind in NAMED for each in parameters(function)) or not parameters(function):
                yield function


def parameters(function: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())[1:]


def arguments(sdk: str, path: str, resource: Any) -> dict[str, Any]:
    """What a method asks for at least: the parameters without a default, each of its type."""
    given = ARGUMENTS[sdk].get(path, {})
    for function in declarations(resource, path.rpartition(".")[2]):
        required = {
            each.name: each.annotation
            for each in parameters(function)
            if each.default is each.empty and each.kind in NAMED and each.name not in given
        }
        names = {**vars(typing), **function.__globals__}
        with contextlib.suppress(NameError):  # it is imported for type checkers only
            hints = typing.get_type_hints(types.SimpleNamespace(__annotations__=required), names)
            return {name: made(hint) for name, hint in hints.items()} | given
    return given


class Empty(BaseModel):
    pass


PLAIN: dict[Any, Callable[[], Any]] = {
    str: lambda: "x",
    int: lambda: 1,
    float: lambda: 1.0,
    bool: lambda: True,
    bytes: lambda: b"x",
    object: dict,
    Any: dict,
    dt.datetime: lambda: dt.datetime.now(dt.UTC),
    dt.date: lambda: dt.datetime.now(dt.UTC).date(),
    os.PathLike: lambda: Path(__file__),
    type: lambda: Empty,
    Credentials: lambda: Token("t"),
}


def made(kind: Any) -> Any:
    """A value of a type, the smallest that there is."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    cls = origin or kind
    if cls in PLAIN:
        return PLAIN[cls]()
    if origin in (typing.Union, types.UnionType):
        return made(str if str in parts else parts[0])
    if origin is typing.Literal:
        return parts[0]
    if isinstance(kind, typing.TypeVar):
        return made(kind.__bound__ or str)
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        return {name: made(hints[name]) for name in kind.__required_keys__}
    return instance(cls, parts) if isinstance(cls, type) else "x"


def instance(cls: type, parts: tuple[Any, ...]) -> Any:
    if issubclass(cls, BaseModel):
        fields = {name: each.annotation for name, each in cls.model_fields.items() if each.is_required()}
        return cls(**{name: made(annotation) for name, annotation in fields.items()})
    if issubclass(cls, typing.Mapping):
        return {}
    if issubclass(cls, (typing.IO, io.IOBase)):
        return io.BytesIO(b"x")
    if issubclass(cls, enum.Enum):
        return next(iter(cls))
    if issubclass(cls, typing.Iterable) and parts:
        return [made(parts[0])]
    return cls()


# --- the walk ----------------------------------------------------------------------------------------------------

SENDS_NOTHING: dict[str, dict[str, str]] = {
    "openai": {
        "beta.agents.environments.files.prepare": "reads a file",
        "beta.agents.environments.files.prepare_directory": "reads a directory",
        "beta.agents.sessions.artifacts.for_result": "an object for `sessions.artifacts`, which is walked",
        "webhooks.unwrap": "checks what was received",
        "webhooks.verify_signature": "checks what was received",
    },
    "anthropic": {
        "beta.environments.work.worker": "an object that sends when it runs, by methods that are walked",
        "beta.messages.thread": "an object that sends by `messages.create`, which is walked",
        "beta.webhooks.parse_unverified": "reads what was received",
        "beta.webhooks.unwrap": "checks what was received",
    },
    "google": {
        "chats.create": "an object that sends when it is asked: test_egress.py",
    },
}
"""Methods that send no request of their own, and why."""

FEWEST = {"openai": 415, "anthropic": 385, "google": 90}
"""How many methods send something at least: openai 3.57, anthropic 2.13 and google-genai 3.6 have a few more."""


WAITS = ("beta.sessions.events.tool_runner",)
"""Methods that wait for events without an end."""


class WouldSleepError(ValueError):
    """Raised where a method that polls would wait: what it asks has been asked by then."""


@contextlib.contextmanager
def sleepless() -> Iterator[None]:
    with contextlib.ExitStack() as patches:
        for module in STAINLESS:
            for cls in (module.SyncAPIResource, module.AsyncAPIResource):
                patches.enter_context(unittest.mock.patch.object(cls, "_sleep", side_effect=WouldSleepError))
        yield


async def taken(answer: Any) -> None:
    """Await an answer, enter it or take its first item: some requests are sent only then."""
    if inspect.isawaitable(answer):
        answer = await answer
    if not inspect.isgenerator(answer) and not inspect.isasyncgen(answer):  # a proxy of one has all methods
        if isinstance(answer, AbstractAsyncContextManager):
            async with answer:
                return
        if isinstance(answer, AbstractContextManager):
            with answer:
                return
    if isinstance(answer, AsyncIterable):
        async for _ in answer:
            break
    elif isinstance(answer, Iterator):
        next(answer, None)


@dataclass
class Walk:
    """What the methods of an SDK sent."""

    sdk: str
    sent: dict[str, list[Request]] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)
    """Methods that sent nothing, and what they said instead."""

    def complaints(self) -> list[str]:
        found: list[str] = []
        for method, requests in self.sent.items():
            found += [f"{method} sent baggage: {path}" for path, headers in requests if "baggage" in headers]
            found += [f"{method} is not traced: {path}" for path, headers in requests if "traceparent" not in headers]
        known = SENDS_NOTHING[self.sdk]
        found += [f"{method} sent nothing: {said}" for method, said in self.silent.items() if method not in known]
        found += [f"{method} does send something" for method in known if method in self.sent]
        if len(self.sent) < FEWEST[self.sdk]:
            found.append(f"only {len(self.sent)} methods were found that send something")
        return found


async def walk(sdk: str, listener: Listener, *, asynchronous: bool) -> Walk:
    """Call every method of an SDK's resources: of google-genai's two services, one after the other."""
    walked = Walk(sdk)
    for vertex in (False, True) if sdk == "google" else (False,):
        sender = client(sdk, listener.url, asynchronous=asynchronous, vertex=vertex)
        for path, resource in methods(sender):
            before, said = len(listener.requests), "an answer"
            try:
                with sleepless():
                    async with asyncio.timeout(1 if path in WAITS else 10):
                        method = getattr(resource, path.rpartition(".")[2])
                        await taken(method(**arguments(sdk, path, resource)))
            except (*UNREADABLE, OSError) as error:
                said = f"{type(error).__name__}: {error}"
            requests = listener.requests[before:]
            if requests:
                walked.sent.setdefault(path, []).extend(requests)
            else:
                walked.silent[path] = said
        await close(sender)
    walked.silent = {path: said for path, said in walked.silent.items() if path not in walked.sent}
    return walked
