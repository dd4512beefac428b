"""Calls without an SDK: HTTP clients' requests to hosts that serve models are rows, once, and all others pass."""

from __future__ import annotations

import base64
import gzip
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
import requests
import urllib3
import wrapt

from canned import Canned, sse
from conftest import Recorded
from provider_answers import ANTHROPIC, COHERE, CONVERSE, GEMINI, OLLAMA, OPENAI_CHAT, Say, frame, results
from spanledger.hooks import http_clients
from spanledger.pricing import quote
from spanledger.providers import by_host
from spanledger.runtime.untrusted_json import label
from spanledger.semconv.provider_hosts import PROVIDERS, provider_for_host

GROQ_STREAM = sse(
    {"id": "q1", "model": "llama-3.3-70b-versatile", "choices": [{"index": 0, "delta": {"content": "x"}}]},
    {"id": "q1", "model": "llama-3.3-70b-versatile", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
     "x_groq": {"id": "r", "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}}},
    "[DONE]",
)  # fmt: skip

WAYS: dict[str, Callable[[str, dict[str, Any]], bytes]] = {
    "httpx": lambda url, body: httpx.post(url, json=body).content,
    "requests": lambda url, body: requests.post(url, json=body, timeout=5).content,
    "requests streamed": lambda url, body: b"".join(
        requests.post(url, json=body, stream=True, timeout=5).iter_content(7)
    ),
    "urllib3": lambda url, body: _read_at_once(url, body),  # noqa: PLW0108 - it is defined below
    "urllib3 read": lambda url, body: _read_slowly(url, body),  # noqa: PLW0108 - it is defined below
}


def _read_slowly(url: str, body: dict[str, Any]) -> bytes:
    with urllib3.PoolManager() as pool:
        response = pool.request("POST", url, json=body, preload_content=False)
        data = b""
        while part := response.read(10):
            data += part
        response.release_conn()
        return data


def _read_at_once(url: str, body: dict[str, Any]) -> bytes:
    with urllib3.PoolManager() as pool:
        return pool.request("POST", url, json=body).data


@pytest.fixture
def client(canned: Canned) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1") as client:
        yield client


CASES: dict[str, tuple[str, str, dict[str, Any], Any]] = {
    "openai": ("openai", "/v1/chat/completions", {"model": "gpt-4.1-mini"}, OPENAI_CHAT),
    "mistral": ("mistral_ai", "/v1/chat/completions", {"model": "mistral-large-latest"}, OPENAI_CHAT),
    "anthropic": ("anthropic", "/v1/messages", {"model": "claude-sonnet-4-6"}, {**ANTHROPIC, "usage": {"input_tokens": 10, "output_tokens": 5}}),
    "gemini": ("gcp.gemini", "/v1beta/models/gemini-3.5-flash:generateContent", {}, GEMINI),
    "vertex": ("gcp.vertex_ai", "/v1/projects/p/locations/l/publishers/google/models/gemini-3.5-flash:generateContent", {}, GEMINI),
    "gemini's array": ("gcp.gemini", "/v1beta/models/gemini-3.5-flash:streamGenerateContent", {}, [GEMINI]),
    "converse": ("aws.bedrock", "/model/amazon.nova-pro-v1%3A0/converse", {}, CONVERSE),
    "cohere": ("cohere", "/v2/chat", {"model": "command-a-03-2025"}, COHERE),
    "ollama": ("ollama", "/api/chat", {"model": "llama3"}, OLLAMA),
    "groq": ("groq", "/openai/v1/chat/completions", {"model": "llama-3.3-70b-versatile", "stream": True}, GROQ_STREAM),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_a_call_without_an_sdk_is_a_row(case: str, way: str, canned: Canned, serves: Say, ledger: Recorded):
    provider, path, body, answer = CASES[case]
    serves(canned.url, provider)
    canned.answers[""] = [answer]
    sent = WAYS[way](canned.url + path, body)
    assert sent == (answer if isinstance(answer, bytes) else json.dumps(answer).encode())
    row = ledger.row
    total = row["input_uncached_tokens"] + row["cache_read_tokens"]
    assert (row["provider"], total, row["output_text_tokens"]) == (provider, 10, 5)
    assert (row["usage_source"], row["outcome"]) == ("exact", "ok")


@pytest.mark.parametrize("way", WAYS)
def test_a_converse_stream_is_read_from_its_frames(way: str, canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "aws.bedrock")
    stream = frame("contentBlockDelta", {"delta": {"text": "hello"}}) + frame("messageStop", {"stopReason": "end_turn"})
    canned.answers[""] = stream + frame("metadata", {"usage": CONVERSE["usage"]})
    canned.content_type = "application/vnd.amazon.eventstream"
    assert WAYS[way](f"{canned.url}/model/amazon.nova-pro-v1:0/converse-stream", {}) == canned.answers[""]
    row = ledger.row
    assert (row["input_uncached_tokens"], row["cache_read_tokens"], row["output_text_tokens"]) == (7, 3, 5)
    assert (row["request_model"], row["is_streaming"], row["outcome"]) == ("amazon.nova-pro-v1:0", True, "ok")


def test_an_invoked_stream_is_read_in_the_vendors_format(canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "aws.bedrock")
    start = {"type": "message_start", "message": {**ANTHROPIC, "usage": {"input_tokens": 10, "output_tokens": 1}}}
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}
    canned.answers[""] = b"".join(
        frame("chunk", {"bytes": base64.b64encode(json.dumps(event).encode()).decode()})
        for event in (start, delta, {"type": "message_stop"})
    )
    canned.content_type = "application/vnd.amazon.eventstream"
    httpx.post(f"{canned.url}/model/anthropic.claude-sonnet-4-6/invoke-with-response-stream", json={})
    assert (ledger.row["input_uncached_tokens"], ledger.row["output_text_tokens"]) == (10, 5)


def test_what_cannot_be_read_is_a_row_of_unknown_operation(canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "openai")
    canned.answers[""] = {"something": "new"}
    httpx.post(f"{canned.url}/v1/holograms", json={"model": "holo-1"})
    assert (ledger.row["operation"], ledger.row["price_status"]) == ("unknown", "unpriced:no_usage")


def test_what_sells_nothing_is_no_row(canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "openai")
    httpx.get(f"{canned.url}/v1/models")
    httpx.post(f"{canned.url}/v1/files", content=b"x")
    assert ledger.rows == []


def test_a_refusal_is_a_row_that_costs_nothing(canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "openai")
    canned.answers[""] = 429
    httpx.post(f"{canned.url}/v1/chat/completions", json={"model": "gpt-4.1-mini"})
    assert (ledger.row["outcome"], ledger.row["error_type"], ledger.row["price_status"]) == (
        "error",
        "429",
        "not_billed",
    )


def test_a_call_of_an_sdk_is_one_row(canned: Canned, client: openai.OpenAI, serves: Say, ledger: Recorded):
    serves(canned.url, "openai")
    canned.answers["chat/completions"] = OPENAI_CHAT
    client.chat.completions.create(model="gpt-4.1-mini", messages=[])
    assert ledger.row["scope"] == "spanledger.openai"


def test_another_host_costs_microseconds(canned: Canned, ledger: Recorded):
    request = httpx.Request("GET", f"{canned.url}/x")
    client = httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200)))
    ours = type(client)._send_handling_auth
    times = []
    for function in (ours.__wrapped__, ours):
        took: list[int] = []
        for _ in range(300):
            began = time.process_time_ns()
            function(client, request, httpx.Auth(), False, [])
            took.append(time.process_time_ns() - began)
        times.append(sorted(took)[30])
    assert times[1] - times[0] < 50_000, f"{(times[1] - times[0]) / 1000:.1f} us (about 2 on an idle machine)"
    assert ledger.rows == []


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("bedrock-runtime.us-east-1.amazonaws.com", "aws.bedrock"),
        ("vpce-0a1-b2.bedrock-runtime.eu-west-1.vpce.amazonaws.com", "aws.bedrock"),
        ("bedrock-mantle.us-east-1.api.aws", "aws.bedrock"),
        ("s3.us-east-1.amazonaws.com", None),
        ("sqs.eu-central-1.amazonaws.com", None),
    ],
)
def test_not_every_service_of_aws_serves_models(host: str, provider: str | None):
    assert provider_for_host(host) == provider


def test_not_everything_of_a_cloud_is_a_model():
    assert by_host.reader("gcp.vertex_ai", "/v1/projects/p/locations/l/endpoints/1:predict") is None
    assert by_host.reader("azure.ai.openai", "/vision/v3.2/analyze") is None


# --- what is not what it seems ------------------------------------------------------------------------------------------


def test_headers_that_are_no_counts_end_in_a_row(canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "aws.bedrock")
    canned.answers[""] = CONVERSE
    canned.headers = {"age": "9" * 5000, "x-amzn-bedrock-input-token-count": "9" * 5000}
    httpx.post(f"{canned.url}/model/amazon.nova-pro-v1:0/converse", json={})
    assert ledger.row["output_text_tokens"] == 5


@pytest.mark.parametrize("way", WAYS)
def test_a_redirection_is_part_of_one_call(way: str, canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "openai")
    canned.answers |= {"/old/chat/completions": 307, "/v1/chat/completions": OPENAI_CHAT}
    canned.headers = {"location": f"{canned.url}/v1/chat/completions"}
    if way == "httpx":
        httpx.post(f"{canned.url}/old/chat/completions", json={"model": "gpt-4.1-mini"}, follow_redirects=True)
    else:
        WAYS[way](f"{canned.url}/old/chat/completions", {"model": "gpt-4.1-mini"})
    assert (ledger.row["outcome"], ledger.row["output_text_tokens"]) == ("ok", 5)


def test_a_second_try_with_credentials_is_one_call(canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "openai")
    canned.answers["chat/completions"] = [401, OPENAI_CHAT]

    class TwoSteps(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:
            response = yield request
            if response.status_code == 401:
                yield request

    httpx.post(f"{canned.url}/v1/chat/completions", json={"model": "gpt-4.1-mini"}, auth=TwoSteps())
    assert (ledger.row["outcome"], ledger.row["output_text_tokens"]) == ("ok", 5)


@pytest.mark.parametrize("kind", ["request", "response"])
def test_what_an_event_hook_sends_is_a_call_of_its_own(
    kind: str, canned: Canned, client: openai.OpenAI, serves: Say, ledger: Recorded
):
    serves(canned.url, "openai")
    canned.answers |= {"chat/completions": OPENAI_CHAT, "/v1/embeddings": {**OPENAI_CHAT, "object": "list", "data": []}}

    def hook(_: Any) -> None:
        httpx.post(f"{canned.url}/v1/embeddings", json={"model": "text-embedding-3-small"})

    with client.with_options(http_client=httpx2.Client(event_hooks={kind: [hook]})) as own:
        own.chat.completions.create(model="gpt-4.1-mini", messages=[])
    assert sorted(row["operation"] for row in ledger.rows) == ["chat", "embeddings"]


def test_a_client_within_a_client_is_one_call(canned: Canned, client: openai.OpenAI, serves: Say, ledger: Recorded):
    serves(canned.url, "openai")
    canned.answers["chat/completions"] = OPENAI_CHAT
    inner = httpx2.Client()

    class Delegating(httpx2.Client):
        def send(self, request: Any, **kwargs: Any) -> Any:
            return inner.send(inner.build_request(request.method, request.url, content=request.read()), **kwargs)

    with client.with_options(http_client=Delegating()) as own:
        own.chat.completions.create(model="gpt-4.1-mini", messages=[])
    inner.close()
    assert ledger.row["scope"] == "spanledger.openai"


def test_a_host_behind_an_http_proxy_is_seen(canned: Canned, serves: Say, ledger: Recorded):
    """A proxy is asked for the whole address."""
    serves("http://llm.example.com", "openai")
    canned.answers["chat/completions"] = OPENAI_CHAT
    url = "http://llm.example.com/v1/chat/completions"
    requests.post(url, json={"model": "gpt-4.1-mini"}, proxies={"http": canned.url}, timeout=5)
    assert (ledger.row["server_address"], ledger.row["output_text_tokens"]) == ("llm.example.com", 5)


def _exact(url: str, body: dict[str, Any]) -> None:
    with urllib3.PoolManager() as pool:
        response = pool.request("POST", url, json=body, preload_content=False)
        assert response.read(0) == b""
        response.read(int(response.headers["content-length"]))


def _undecoded(url: str, body: dict[str, Any]) -> None:
    assert requests.post(url, json=body, stream=True, timeout=5).raw.read().startswith(b"\x1f\x8b")


def _undecoded_in_pieces(url: str, body: dict[str, Any]) -> None:
    response = requests.post(url, json=body, stream=True, timeout=5)
    assert b"".join(response.raw.stream(7, decode_content=False)).startswith(b"\x1f\x8b")


@pytest.mark.parametrize("way", [_exact, _undecoded, _undecoded_in_pieces])
def test_urllib3_is_read_in_its_other_ways(way: Any, canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "openai")
    canned.answers["chat/completions"] = (
        gzip.compress(json.dumps(OPENAI_CHAT).encode()) if way is not _exact else OPENAI_CHAT
    )
    canned.headers = {} if way is _exact else {"content-encoding": "gzip"}
    way(f"{canned.url}/v1/chat/completions", {"model": "gpt-4.1-mini"})
    assert (ledger.row["outcome"], ledger.row["output_text_tokens"]) == ("ok", 5)


def test_an_old_response_of_urllib3_gets_no_new_method():
    class Old:
        def read(self) -> None: ...

    assert not hasattr(http_clients._observed_urllib3(Old), "read1")
    assert hasattr(http_clients._observed_urllib3(urllib3.HTTPResponse), "read1") is hasattr(
        urllib3.HTTPResponse, "read1"
    )


@pytest.mark.parametrize("streamed", [False, True])
def test_images_of_many_megabytes_state_their_tokens(streamed: bool, canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "openai")
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    image = "A" * 9_000_000
    event = {"type": "image_generation.completed", "b64_json": image, "usage": usage}
    canned.answers[""] = sse(event) if streamed else {"created": 1, "data": [{"b64_json": image}] * 2, "usage": usage}
    body = {"model": "gpt-image-1", "prompt": "x", "stream": streamed}
    httpx.post(f"{canned.url}/v1/images/generations", json=body, timeout=30)
    row = ledger.row
    assert (row["usage_source"], row["input_uncached_tokens"]) == ("exact", 10)
    assert row["output_text_tokens"] + row["output_image_tokens"] == 5


def test_ids_that_differ_after_256_characters_stay_different():
    first, second = (label("resp_" + "x" * 400 + end) for end in "ab")
    assert first is not None
    assert (len(first), first == second) == (256, False)


# --- hosts of one's own ---------------------------------------------------------------------------------------------------


def test_a_host_named_openai_may_speak_anthropics_format(canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "openai")
    canned.answers[""] = ANTHROPIC
    httpx.post(f"{canned.url}/v1/messages", json={"model": "claude-sonnet-4-6"})
    assert (ledger.row["operation"], ledger.row["output_text_tokens"]) == ("chat", 5)
    httpx.post(f"{canned.url}/v1/threads/t/messages", json={"role": "user"})
    assert len(ledger.rows) == 1


@pytest.mark.parametrize(
    ("provider", "status"), [("groq", "unpriced:no_model"), ("made_up", "unpriced:no_model"), ("ollama", "self_hosted")]
)
def test_a_billed_provider_on_a_private_host_is_not_free(provider: str, status: str, serves: Say, ledger: Recorded):
    serves("http://127.0.0.1:9", provider)
    assert quote(provider, "some-new-model", {"input": 10}, host="127.0.0.1").status == status


@pytest.mark.parametrize(
    ("host", "port"), [("llm.example.com", None), ("llm.example.com", 443), ("LLM.example.com.", None)]
)
def test_the_port_of_a_scheme_is_no_port(host: str, port: int | None, serves: Say):
    serves("https://llm.example.com:443", "openai")
    assert provider_for_host(host, port) == "openai"
    assert provider_for_host("llm.example.com", 8000) is None


def test_the_page_of_http_lists_every_provider():
    page = (Path(__file__).parent.parent / "docs/http.md").read_text()
    listed = page.partition("The providers are")[2].partition("At each")[0]
    assert set(re.findall(r"`([\w.]+)`", listed)) == PROVIDERS


def test_the_results_of_a_job_are_not_reported_as_unattributed(
    canned: Canned, client: openai.OpenAI, ledger: Recorded, caplog: pytest.LogCaptureFixture
):
    canned.answers["/files/file-q/content"] = results(3)
    client.files.content("file-q").read()
    assert len(ledger.rows) == 3
    assert "lacks" not in caplog.text


# --- what others have patched ---------------------------------------------------------------------------------------------


def test_a_peers_wrapper_from_before_is_called_as_it_was(canned: Canned, serves: Say, ledger: Recorded):
    """OpenTelemetry's instrumentations wrap with wrapt, whose wrappers want to be bound."""
    seen: list[str] = []

    def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append(type(instance).__name__)
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper("httpx", "HTTPTransport.handle_request", wrapper)
    wrapt.wrap_function_wrapper("urllib3.connectionpool", "HTTPConnectionPool.urlopen", wrapper)
    net = http_clients.HttpPatches(ledger.tracer("http"), observe=True)
    try:
        for name in ("httpx", "urllib3.connectionpool"):
            net.install(sys.modules[name])
        assert httpx.get(f"{canned.url}/weather").status_code == 200
        assert requests.get(f"{canned.url}/weather", timeout=5).status_code == 200
    finally:
        net.remove()
        for owner, name in ((httpx.HTTPTransport, "handle_request"), (urllib3.HTTPConnectionPool, "urlopen")):
            setattr(owner, name, vars(owner)[name].__wrapped__)
    assert seen == ["HTTPTransport", "HTTPConnectionPool"]


@pytest.mark.parametrize("status", [303, 307, 308])
@pytest.mark.parametrize("way", [w for w in WAYS if w != "httpx"])
def test_a_redirection_to_an_unknown_host_is_followed(
    way: str, status: int, canned: Canned, serves: Say, ledger: Recorded
):
    serves("http://localhost:" + canned.url.rpartition(":")[2], "openai")
    canned.answers |= {"/v1/chat/completions": status, "/elsewhere": OPENAI_CHAT}
    canned.headers = {"location": f"{canned.url}/elsewhere"}
    WAYS[way](canned.url.replace("127.0.0.1", "localhost") + "/v1/chat/completions", {"model": "gpt-4.1-mini"})
    assert (ledger.row["request_model"], ledger.row["output_text_tokens"]) == ("gpt-4.1-mini", 5)


def test_a_redirection_that_is_not_followed_changes_no_later_call(canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "openai")
    canned.answers["chat/completions"] = [307, OPENAI_CHAT]
    canned.headers = {"location": f"{canned.url}/v1/chat/completions"}
    for model in ("gpt-4.1", "gpt-4.1-mini"):
        httpx.post(f"{canned.url}/v1/chat/completions", json={"model": model})
    assert ledger.row["request_model"] == "gpt-4.1-mini"


def test_a_redirection_to_a_known_host_is_a_call(canned: Canned, serves: Say, ledger: Recorded):
    serves("http://localhost:" + canned.url.rpartition(":")[2], "openai")
    location = canned.url.replace("127.0.0.1", "localhost") + "/v1/chat/completions"
    canned.answers |= {"/anywhere": 307, "/v1/chat/completions": OPENAI_CHAT}
    canned.headers = {"location": location}
    httpx.post(f"{canned.url}/anywhere", json={"model": "gpt-4.1-mini"}, follow_redirects=True)
    assert (ledger.row["server_address"], ledger.row["output_text_tokens"]) == ("localhost", 5)


@pytest.mark.parametrize(
    "path", ["/chat/completions?x=1", "{url}/v1/chat/completions", "/chat/completions/", "/./chat/completions"]
)
def test_a_client_within_a_client_is_one_call_whatever_the_path(
    path: str, canned: Canned, client: openai.OpenAI, serves: Say, ledger: Recorded
):
    serves(canned.url, "openai")
    canned.answers[""] = OPENAI_CHAT
    inner = httpx2.Client()

    class Delegating(httpx2.Client):
        def send(self, request: Any, **kwargs: Any) -> Any:
            return inner.send(inner.build_request(request.method, request.url, content=request.read()), **kwargs)

    with client.with_options(http_client=Delegating()) as own:
        own.post(path.format(url=canned.url), body={"model": "gpt-4.1-mini"}, cast_to=dict)
    inner.close()
    assert ledger.row["scope"] == "spanledger.openai"


@pytest.mark.parametrize(
    "provider", ["aws.bedrock", "gcp.vertex_ai", "cohere", "gcp.gemini", "ollama", "azure.ai.openai"]
)
def test_everybodys_format_is_read_at_any_provider(provider: str, canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, provider)
    canned.answers[""] = OPENAI_CHAT
    httpx.post(f"{canned.url}/v1/chat/completions", json={"model": "gpt-4.1-mini"})
    assert (ledger.row["provider"], ledger.row["output_text_tokens"]) == (provider, 5)


def test_events_are_read_whatever_their_content_type(canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "groq")
    canned.answers[""], canned.content_type = b"\xef\xbb\xbf" + GROQ_STREAM, "text/plain"
    httpx.post(f"{canned.url}/openai/v1/chat/completions", json={"model": "llama-3.3-70b-versatile", "stream": True})
    assert ledger.row["output_text_tokens"] == 5


def test_a_number_of_thousands_of_digits_hides_no_other(canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "openai")
    canned.answers[""] = json.dumps(OPENAI_CHAT).encode()[:-1] + b', "x": ' + b"9" * 5000 + b"}"
    canned.content_type = "application/json"
    httpx.post(f"{canned.url}/v1/chat/completions", json={"model": "gpt-4.1-mini"})
    assert ledger.row["output_text_tokens"] == 5


def test_an_error_that_cannot_be_asked_for_its_status_is_the_callers(canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "openai")
    canned.answers[""] = OPENAI_CHAT

    class OddError(Exception):
        @property
        def status(self) -> int:
            raise RuntimeError

    def hook(_: Any) -> None:
        raise OddError

    with httpx.Client(event_hooks={"response": [hook]}) as own, pytest.raises(OddError):
        own.post(f"{canned.url}/v1/chat/completions", json={"model": "gpt-4.1-mini"})
