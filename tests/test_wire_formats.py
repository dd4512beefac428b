"""Formats that no SDK of ours speaks: Bedrock's, Cohere's, Ollama's, and the files of batch results beyond memory."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import httpx
import openai
import pytest
import urllib3

from canned import Canned, sse
from conftest import Recorded
from provider_answers import ANTHROPIC, OLLAMA, OPENAI_CHAT, Say, frame, results
from spanledger.capture import result_files
from spanledger.hooks.http_clients import HttpPatches
from spanledger.providers import Provider, bedrock, cohere, google, ollama
from spanledger.runtime import finalizers
from spanledger.semconv import result_lines


def read(provider: Provider, *events: dict[str, Any], body: dict[str, Any] | None = None) -> tuple[int, int, bool]:
    """Input and output tokens, and whether the answer is complete."""
    folded: dict[str, Any] = dict(body or {})
    for event in events:
        folded = provider.fold(folded, event)
    response = provider.response(folded)
    assert response.usage is not None
    return response.usage.total - response.usage.output, response.usage.output, response.complete


def chunk(content: dict[str, Any]) -> dict[str, Any]:
    return {"chunk": {"bytes": base64.b64encode(json.dumps(content).encode()).decode()}}


METRICS = {"inputTokenCount": 10, "outputTokenCount": 5}


@pytest.mark.parametrize(
    "body",
    [
        {"usage": {"inputTokens": 6, "outputTokens": 5, "cacheReadInputTokens": 3, "cacheWriteInputTokens": 1}},
        {"inputTextTokenCount": 10, "results": [{"tokenCount": 2}, {"tokenCount": 3}]},
        {"prompt_token_count": 10, "generation_token_count": 5},
        {"amazon-bedrock-invocationMetrics": METRICS},
        {"headers": METRICS},
        {"usage": {"input_tokens": 10, "output_tokens": 5}, "type": "message"},
    ],
)
def test_bedrocks_bodies_are_read(body: dict[str, Any]):
    assert read(bedrock, body=body) == (10, 5, True)


def test_bedrocks_streams_are_read():
    start = {"type": "message_start", "message": {**ANTHROPIC, "usage": {"input_tokens": 10, "output_tokens": 1}}}
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}
    assert read(bedrock, chunk(start), chunk(delta)) == (10, 5, True)
    assert read(bedrock, chunk({"completion": "x", "amazon-bedrock-invocationMetrics": METRICS})) == (10, 5, True)
    usage = {"inputTokens": 10, "outputTokens": 5}
    assert read(bedrock, {"messageStop": {"stopReason": "end_turn"}}, {"metadata": {"usage": usage}}) == (10, 5, True)
    assert bedrock.response({}).usage is None


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/model/amazon.titan-embed-text-v2:0/invoke", "embeddings"),
        ("/model/x/converse-stream", "chat"),
        ("/model/x/count-tokens", None),
        ("/something", "unknown"),
    ],
)
def test_bedrocks_paths_are_classified(path: str, operation: str | None):
    request = bedrock.request("POST", path, {"inferenceConfig": {"maxTokens": 5}, "system": [{"text": "be brief"}]})
    assert (request.operation if request else None) == operation
    assert bedrock.request("GET", path, None) is None


def test_coheres_streams_and_rankings_are_read():
    billed = {"billed_units": {"input_tokens": 10, "output_tokens": 5}}
    end = {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": billed}}
    assert read(cohere, {"type": "message-start", "id": "c"}, {"type": "content-delta"}, end) == (10, 5, True)
    old = {"event_type": "stream-end", "finish_reason": "COMPLETE", "response": {"generation_id": "g", "meta": billed}}
    assert read(cohere, old) == (10, 5, True)
    ranked = cohere.response({"id": "r", "meta": {"billed_units": {"search_units": 2}}})
    assert ranked.usage is not None
    assert ranked.usage.queries == 2
    assert cohere.response({"id": "r"}).usage is None
    operations = [cohere.request("POST", f"/v2/{name}", {}) for name in ("embed", "rerank", "tokenize", "new")]
    assert [request.operation if request else None for request in operations] == [
        "embeddings",
        "rerank",
        None,
        "unknown",
    ]


def test_ollamas_stream_counts_in_its_last_line(canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "ollama")
    lines = [{"model": "llama3", "message": {"content": "x"}, "done": False}, OLLAMA]
    canned.answers[""] = b"\n".join(json.dumps(line).encode() for line in lines)  # the last line is not ended
    canned.content_type = "application/x-ndjson"
    httpx.post(f"{canned.url}/api/chat", json={"model": "llama3"})
    assert (ledger.row["output_text_tokens"], ledger.row["is_streaming"], ledger.row["outcome"]) == (5, True, "ok")
    assert ollama.request("POST", "/api/pull", {}) is None


@pytest.mark.parametrize("body", [b"", b"\x00" * 40, b"\xff" * 40, frame("metadata", {})[:-9]])
def test_frames_that_are_none_are_passed_on(body: bytes, canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "aws.bedrock")
    canned.answers[""] = body
    canned.content_type = "application/vnd.amazon.eventstream"
    assert httpx.post(f"{canned.url}/model/x/converse-stream", json={}).content == body
    assert ledger.row["usage_source"] == "missing"


def test_asynchronous_requests_are_rows(canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "openai")
    canned.answers[""] = OPENAI_CHAT

    async def ask() -> None:
        async with httpx.AsyncClient() as client:
            await client.post(f"{canned.url}/v1/chat/completions", json={"model": "gpt-4.1-mini"})
            async with client.stream("POST", f"{canned.url}/v1/chat/completions", json={"model": "x"}) as response:
                _ = [part async for part in response.aiter_raw()]
            await client.get(f"{canned.url}/v1/models")

    asyncio.run(ask())
    assert [row["output_text_tokens"] for row in ledger.rows] == [5, 5]


def test_a_request_that_fails_is_a_row_that_may_have_been_billed(canned: Canned, serves: Say, ledger: Recorded):
    serves("http://127.0.0.1:9", "openai")
    with pytest.raises(httpx.ConnectError):
        httpx.post("http://127.0.0.1:9/v1/chat/completions", json={"model": "gpt-4.1-mini"})
    with urllib3.PoolManager() as pool, pytest.raises(urllib3.exceptions.MaxRetryError):
        pool.request("POST", "http://127.0.0.1:9/v1/chat/completions", json={"model": "x"}, retries=0)
    assert [row["outcome"] for row in ledger.rows] == ["error", "error"]


@pytest.mark.parametrize("way", ["raw", "read1", "closed"])
def test_a_compressed_answer_is_read_in_every_way(way: str, canned: Canned, serves: Say, ledger: Recorded):
    serves(canned.url, "openai")
    canned.answers[""] = gzip.compress(json.dumps(OPENAI_CHAT).encode())
    canned.content_type, canned.headers = "application/json", {"content-encoding": "gzip"}
    url = f"{canned.url}/v1/chat/completions"
    if way == "raw":
        with httpx.stream("POST", url, json={"model": "x"}) as response:
            assert b"".join(response.iter_raw()) == canned.answers[""]
    else:
        with urllib3.PoolManager() as pool:
            response = pool.request("POST", url, json={"model": "x"}, preload_content=False)
            while way == "read1" and response.read1(50):
                pass
            response.close()
    assert ledger.row["usage_source"] == ("missing" if way == "closed" else "exact")


# --- aiohttp, as far as it can be tried without it (the matrix has the real one) -------------------------------------


class StreamReader:
    """What of aiohttp's StreamReader matters."""

    __slots__ = ("_buffer", "_is_over")

    def __init__(self, *data: bytes) -> None:
        self._buffer = list(data)
        self._is_over = False

    def is_eof(self) -> bool:
        return self._is_over

    def feed_data(self, data: bytes) -> None:
        self._buffer.append(data)

    def feed_eof(self) -> None:
        self._is_over = True

    def set_exception(self, error: BaseException) -> None:
        self._is_over = True


class ClientResponse:
    def __init__(self, status: int, content: StreamReader) -> None:
        self.status, self.content = status, content
        self.headers = {"Content-Type": "text/event-stream"}


class ClientSession:
    answers: list[ClientResponse] = []  # noqa: RUF012 - of the test

    async def _request(self, method: str, url: str, **kwargs: Any) -> ClientResponse:
        return self.answers.pop(0)


STREAM = sse({**OPENAI_CHAT, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, "[DONE]")


@pytest.mark.parametrize("end", ["eof", "error", "dropped", "at once"])
def test_a_stream_of_aiohttp_is_read_as_it_arrives(end: str, serves: Say, ledger: Recorded):
    serves("http://10.0.0.5:81", "openai")
    module = ModuleType("aiohttp")
    module.ClientSession = ClientSession
    patches = HttpPatches(ledger.tracer("http"), observe=True)
    patches.install(module)
    content = StreamReader(STREAM[:40])
    if end == "at once":
        content = StreamReader(STREAM)
        content.feed_eof()
    ClientSession.answers = [ClientResponse(200, content), ClientResponse(500, StreamReader())]
    url = "http://10.0.0.5:81/v1/chat/completions"
    response = asyncio.run(ClientSession()._request("POST", url, json={"model": "gpt-4.1-mini", "stream": True}))
    if end != "at once":
        content.feed_data(STREAM[40:])
    if end == "eof":
        content.feed_eof()
    elif end == "error":
        content.set_exception(OSError())
    del response
    asyncio.run(ClientSession()._request("POST", url, json={"model": "gpt-4.1-mini"}))
    patches.remove()
    assert finalizers.wait(5)
    answered, refused = ledger.rows
    assert (answered["output_text_tokens"], answered["outcome"]) == (5, "ok")
    assert (refused["outcome"], refused["error_type"]) == ("error", "500")


# --- files of results ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("INLINE_BYTES", 1000), ("MEMORY_BYTES", 50_000), ("HANDED_BYTES", 20_000), ("MAX_VECTOR", 3)):
        monkeypatch.setattr(result_files, name, size)


Another = Callable[[], None]


def download(canned: Canned, name: str) -> None:
    with (
        openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1") as client,
        client.files.with_streaming_response.content(name) as response,
    ):
        assert sum(map(len, response.iter_bytes(4096))) == len(canned.answers[f"/files/{name}/content"])


def test_a_file_beyond_memory_is_read_from_the_disk(canned: Canned, ledger: Recorded, small_memory: None):
    canned.answers["/files/file-disk/content"] = results(300)
    download(canned, "file-disk")
    assert result_files.wait(10)
    assert len({row["span_id"] for row in ledger.rows}) == len(ledger.rows) == 300


def test_a_disk_that_takes_nothing_is_a_notice(
    canned: Canned, ledger: Recorded, small_memory: None, monkeypatch, caplog
):
    def full(**_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(result_files.tempfile, "TemporaryFile", full)
    canned.answers["/files/file-full/content"] = results(300)
    download(canned, "file-full")
    assert result_files.wait(10)
    assert 0 < len(ledger.rows) < 300, "what was in memory"
    assert "only its first lines are recorded (No space left on device)" in caplog.text


def test_a_download_that_is_ahead_of_the_disk_is_given_up(
    canned: Canned, ledger: Recorded, small_memory: None, monkeypatch, caplog
):
    monkeypatch.setattr(result_files, "MAX_WAITING_BYTES", -1)
    canned.answers["/files/file-fast/content"] = results(300)
    download(canned, "file-fast")
    assert result_files.wait(10)
    assert ledger.rows == []
    assert "faster than the disk" in caplog.text


def test_the_end_of_the_program_waits_for_a_file(canned: Canned, ledger: Recorded, small_memory: None):
    canned.answers["/files/file-end/content"] = results(300)
    download(canned, "file-end")
    result_files.finish()
    result_files._hurry.clear()
    assert len(ledger.rows) == 300


def test_lines_that_are_none_are_left_out(canned: Canned, ledger: Recorded):
    first, second, *_ = results(2).split(b"\n")
    canned.answers["/files/file-odd/content"] = b"\xef\xbb\xbf" + first + b"\r\n\n{broken\n[1]\n" + second
    download(canned, "file-odd")
    assert len(ledger.rows) == 2
    [(_, usage)] = result_lines.attributes_of_lines('[{"u": {}}, 1, {"i": "x", "u": {"input": "many"}}]')
    assert usage.total == 0
    assert list(result_lines.attributes_of_lines("no JSON")) == []


def test_googles_result_files_and_inlined_answers_are_found_wherever_they_stand():
    answers = [{"response": {"responseId": "g", "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2}}}]
    request = google.request("GET", "/v1beta/batches/b1", None)
    for place in (
        {"metadata": {"output": {"inlinedResponses": {"inlinedResponses": answers}}}},
        {"dest": {"inlinedResponses": answers}},
    ):
        [extra] = google.response({"name": "batches/b1", "done": True, **place}, request).extras
        assert (extra.begun_job_id, extra.batch, extra.usage is not None) == ("batches/b1", True, True)
    file = google.response({"name": "batches/b1", "done": True, "dest": {"fileName": "files/out"}}, request)
    assert (file.result_names, file.pending_job_id) == (("files/out",), "batches/b1")
