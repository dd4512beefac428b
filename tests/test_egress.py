"""No request of an SDK carries baggage to a provider, whether it is a billed call or not.

A real instrumentation of the HTTP client puts the current baggage into every request that it sees; the server here
answers anything, and keeps the headers.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.oauth2.credentials import Credentials
from opentelemetry import baggage, context, propagate
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor

from conftest import Recorded
from spanledger.context import propagation

MESSAGES: Any = [{"role": "user", "content": "x"}]


class Listener(ThreadingHTTPServer):
    """Answers anything with an empty object."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, dict[str, str]]] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
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


@pytest.fixture
def listener() -> Iterator[Listener]:
    server = Listener()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def traced(ledger: Recorded) -> Iterator[None]:
    """The HTTP clients instrumented, our propagator around the global one, a user in baggage."""
    before = propagate.get_global_textmap()
    propagation.wrap_propagator()
    instrumentors = HTTPXClientInstrumentor(), HTTPX2ClientInstrumentor()
    for instrumentor in instrumentors:
        instrumentor.instrument(tracer_provider=ledger.tracing)
    token = context.attach(baggage.set_baggage("user.id", "ada"))
    yield
    context.detach(token)
    for instrumentor in instrumentors:
        instrumentor.uninstrument()
    propagate.set_global_textmap(before)


OPENAI: dict[str, Callable[[Any], Any]] = {
    "models.list": lambda c: c.models.list(),
    "models.retrieve": lambda c: c.models.retrieve("m"),
    "files.list": lambda c: c.files.list(),
    "files.create": lambda c: c.files.create(file=b"{}", purpose="batch"),
    "files.content": lambda c: c.files.content("f"),
    "files.delete": lambda c: c.files.delete("f"),
    "moderations.create": lambda c: c.moderations.create(input="x"),
    "batches.retrieve": lambda c: c.batches.retrieve("b"),
    "responses.retrieve": lambda c: c.responses.retrieve("r"),
    "responses.cancel": lambda c: c.responses.cancel("r"),
    "vector_stores.list": lambda c: c.vector_stores.list(),
    "fine_tuning.jobs.list": lambda c: c.fine_tuning.jobs.list(),
    "embeddings.create": lambda c: c.embeddings.create(model="m", input="x"),
    "raw.models.list": lambda c: c.models.with_raw_response.list(),
    "get": lambda c: c.get("/of/tomorrow", cast_to=object),
    "post": lambda c: c.post("/of/tomorrow", cast_to=object, body={}),
}
ANTHROPIC: dict[str, Callable[[Any], Any]] = {
    "models.list": lambda c: c.models.list(),
    "messages.count_tokens": lambda c: c.messages.count_tokens(model="m", messages=MESSAGES),
    "messages.batches.list": lambda c: c.messages.batches.list(),
    "messages.batches.retrieve": lambda c: c.messages.batches.retrieve("b"),
    "beta.files.list": lambda c: c.beta.files.list(),
    "beta.files.upload": lambda c: c.beta.files.upload(file=("f", b"x")),
    "messages.create": lambda c: c.messages.create(model="m", max_tokens=1, messages=MESSAGES),
}
GOOGLE: dict[str, Callable[[Any], Any]] = {
    "models.list": lambda c: c.models.list(),
    "models.get": lambda c: c.models.get(model="m"),
    "models.count_tokens": lambda c: c.models.count_tokens(model="m", contents="x"),
    "models.generate_content": lambda c: c.models.generate_content(model="m", contents="x"),
    "files.get": lambda c: c.files.get(name="f"),
    "files.upload": lambda c: c.files.upload(file=io.BytesIO(b"x"), config={"mime_type": "text/plain"}),
    "files.download": lambda c: c.files.download(file="files/f"),
    "batches.get": lambda c: c.batches.get(name="batches/b"),
    "caches.list": lambda c: c.caches.list(),
    "file_search_stores.list": lambda c: c.file_search_stores.list(),
    "interactions.get": lambda c: c.interactions.get(id="i"),
}


def client(sdk: str, url: str, *, asynchronous: bool) -> Any:
    if sdk == "google":
        google = genai.Client(api_key="k", http_options={"base_url": url})
        return google.aio if asynchronous else google
    cls: Any = {
        ("openai", False): openai.OpenAI,
        ("openai", True): openai.AsyncOpenAI,
        ("anthropic", False): anthropic.Anthropic,
        ("anthropic", True): anthropic.AsyncAnthropic,
    }[sdk, asynchronous]
    return cls(api_key="k", base_url=url, max_retries=0)


UNREADABLE = (TypeError, ValueError, AttributeError, KeyError, openai.OpenAIError, anthropic.AnthropicError)
"""What an SDK raises at an empty answer: not what is asked here."""


async def requested(act: Callable[[Any], Any], sender: Any) -> None:
    """Have a client send what it sends, and close it."""
    try:
        answer = act(sender)
        if hasattr(answer, "__await__"):
            await answer
    except UNREADABLE:
        pass
    closed = sender.aclose() if hasattr(sender, "aclose") else sender.close()
    if closed is not None:
        await closed


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("sdk", "method"),
    [(sdk, m) for sdk, table in (("openai", OPENAI), ("anthropic", ANTHROPIC), ("google", GOOGLE)) for m in table],
)
@pytest.mark.usefixtures("traced")
@pytest.mark.filterwarnings("ignore")
def test_no_request_of_an_sdk_carries_baggage(sdk: str, method: str, asynchronous: bool, listener: Listener):
    act = {"openai": OPENAI, "anthropic": ANTHROPIC, "google": GOOGLE}[sdk][method]
    asyncio.run(requested(act, client(sdk, listener.url, asynchronous=asynchronous)))
    assert listener.requests, "nothing was sent"
    assert ["traceparent" in headers for _, headers in listener.requests] == [True] * len(listener.requests)
    assert [path for path, headers in listener.requests if "baggage" in headers] == []


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("billed", [True, False])
def test_work_started_inside_a_call_has_its_baggage_after_the_call(billed: bool, listener: Listener):
    kept: list[context.Context] = []

    def hook(_: httpx2.Request) -> None:
        kept.append(context.get_current())  # what a thread or a task that is started here keeps

    with (
        openai.OpenAI(
            api_key="k", base_url=listener.url, http_client=httpx2.Client(event_hooks={"request": [hook]})
        ) as made,
        contextlib.suppress(ValueError),
    ):  # an empty answer has no embedding
        OPENAI["embeddings.create" if billed else "models.list"](made)
    carrier: dict[str, str] = {}
    propagate.inject(carrier, kept[0])
    assert carrier["baggage"] == "user.id=ada"
    assert [headers.get("baggage") for _, headers in listener.requests] == [None]


@pytest.mark.usefixtures("traced")
def test_requests_for_google_tokens_carry_no_baggage(listener: Listener):
    class Token(Credentials):
        def refresh(self, request: Any) -> None:
            httpx2.get(f"{listener.url}/token")
            self.token = "t"

    made = genai.Client(vertexai=True, project="p", location="l", credentials=Token(None), http_options={"base_url": listener.url})  # fmt: skip
    made._api_client._access_token()
    made.close()
    assert ["baggage" in headers for _, headers in listener.requests] == [False]


@pytest.mark.usefixtures("traced")
def test_other_requests_of_the_application_keep_their_baggage(listener: Listener):
    httpx2.get(f"{listener.url}/elsewhere")
    [(_, headers)] = listener.requests
    assert headers["baggage"] == "user.id=ada"
