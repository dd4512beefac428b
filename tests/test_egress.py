"""No request of an SDK carries baggage to a provider, whether it is a billed call or not.

A real instrumentation of the HTTP client puts the current baggage into every request that it sees; the server here
answers anything, and keeps the headers. More HTTP libraries, in an environment of their own: matrix/matrix_egress.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest
from google import genai
from google.oauth2.credentials import Credentials
from opentelemetry import baggage, context, propagate
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor

from conftest import Recorded
from sdk_walk import UNREADABLE, Listener, client, close, taken, walk
from spanledger.context import propagation


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
    "embeddings.create": lambda c: c.embeddings.create(model="m", input="x"),
    "raw.models.list": lambda c: c.models.with_raw_response.list(),
    "get": lambda c: c.get("/of/tomorrow", cast_to=object),
    "post": lambda c: c.post("/of/tomorrow", cast_to=object, body={}),
}
ANTHROPIC: dict[str, Callable[[Any], Any]] = {
    "raw.models.list": lambda c: c.models.with_raw_response.list(),
    "get": lambda c: c.get("/of/tomorrow", cast_to=object),
    "post": lambda c: c.post("/of/tomorrow", cast_to=object, body={}),
    "beta.messages.thread": lambda c: c.beta.messages.thread(model="m", max_tokens=1).send("x"),
}
GOOGLE: dict[str, Callable[[Any], Any]] = {
    "files.upload": lambda c: c.files.upload(file=io.BytesIO(b"x"), config={"mime_type": "text/plain"}),
    "files.download": lambda c: c.files.download(file="files/f"),
    "chats.send_message": lambda c: c.chats.create(model="m").send_message("x"),
    "chats.send_message_stream": lambda c: c.chats.create(model="m").send_message_stream("x"),
}
"""What a walk over the methods of resources does not reach, or not in this way."""


async def requested(act: Callable[[Any], Any], sender: Any) -> None:
    """Have a client send what it sends, and close it."""
    with contextlib.suppress(*UNREADABLE):
        await taken(act(sender))
    await close(sender)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("sdk", ["openai", "anthropic", "google"])
@pytest.mark.usefixtures("traced")
@pytest.mark.filterwarnings("ignore")
def test_no_method_of_an_sdk_sends_baggage(sdk: str, asynchronous: bool, listener: Listener):
    walked = asyncio.run(walk(sdk, listener, asynchronous=asynchronous))
    gc.collect()  # connections that the SDK leaves behind
    assert walked.complaints() == []


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


def test_what_the_application_puts_into_a_header_itself_stays_at_home_too(ledger: Recorded):
    sent: list[httpx2.Headers] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.headers)
        return httpx2.Response(500)

    http_client = httpx2.Client(transport=httpx2.MockTransport(answer))
    client = openai.OpenAI(api_key="x", http_client=http_client, max_retries=0)
    headers = {"baggage": "user.id=ada,theirs=1"}
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="gpt-5.4-mini", messages=[], extra_headers=headers)
    http_client.post("https://api.openai.com/v1/models", headers=headers)
    http_client.post("https://example.com/", headers=headers)
    assert [each["baggage"] for each in sent] == ["theirs=1", "theirs=1", "user.id=ada,theirs=1"]
