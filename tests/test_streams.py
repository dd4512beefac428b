"""Streams: their callers get the bytes that they asked for, in every way of reading, and their usage is read."""

from __future__ import annotations

import copy
import pickle
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import httpx2
import openai
import pytest

from canned import Canned, sse
from conftest import Recorded
from provider_answers import OPENAI_CHAT, Say


@pytest.fixture
def client(canned: Canned) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1") as client:
        yield client


CHUNKS = (
    {"id": "s1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4.1-mini",
     "choices": [{"index": 0, "delta": {"content": 'a ,"usage":null} b'}, "finish_reason": None}]},
    {"id": "s1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4.1-mini",
     "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
)  # fmt: skip
ASKED = sse(
    *({**chunk, "usage": None} for chunk in CHUNKS),
    {**CHUNKS[0], "choices": [], "usage": OPENAI_CHAT["usage"]},
    "[DONE]",
)
UNASKED = sse(*CHUNKS, "[DONE]")


def gzipped(data: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=31)
    return encoder.compress(data) + encoder.flush()


def ungzipped(data: bytes) -> bytes:
    return zlib.decompressobj(31).decompress(data)


READS: dict[str, Callable[[Any], bytes]] = {
    "iter_raw": lambda response: b"".join(response.http_response.iter_raw()),
    "iter_raw 5": lambda response: b"".join(response.http_response.iter_raw(5)),
    "iter_bytes": lambda response: b"".join(response.iter_bytes()),
    "read": lambda response: response.read(),
    "iter_lines": lambda response: b"".join(line.encode() + b"\n" for line in response.iter_lines()),
}


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize("way", READS)
def test_a_stream_has_the_same_bytes_in_every_way_of_reading(
    way: str, encoding: str, canned: Canned, client: openai.OpenAI, ledger: Recorded
):
    canned.answers["chat/completions"] = gzipped(ASKED) if encoding else ASKED
    canned.content_type = "text/event-stream"
    canned.headers = {"content-encoding": encoding} if encoding else {}
    with client.chat.completions.with_streaming_response.create(
        model="gpt-4.1-mini", messages=[], stream=True
    ) as response:
        data = READS[way](response)
    if encoding and "raw" in way:
        data = ungzipped(data)
    assert data == UNASKED
    assert ledger.row["output_text_tokens"] == 5


def test_a_stream_read_as_one_body_has_nothing_of_ours(canned: Canned, client: openai.OpenAI, ledger: Recorded):
    canned.answers["chat/completions"] = ASKED
    body = {"model": "gpt-4.1-mini", "messages": [], "stream": True}
    assert client.post("/chat/completions", body=body, cast_to=httpx2.Response).content == UNASKED
    assert ledger.row["output_text_tokens"] == 5


def test_the_chunks_of_a_stream_state_no_usage(canned: Canned, client: openai.OpenAI, ledger: Recorded):
    canned.answers["chat/completions"] = ASKED
    stream = client.chat.completions.create(model="gpt-4.1-mini", messages=[], stream=True)
    assert [chunk.to_dict() for chunk in stream] == list(CHUNKS)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_response_can_be_pickled_and_copied(streamed: bool, canned: Canned, client: openai.OpenAI, ledger: Recorded):
    canned.answers["chat/completions"] = ASKED if streamed else OPENAI_CHAT
    completions = client.chat.completions
    api = completions.with_streaming_response if streamed else completions.with_raw_response
    made = api.create(model="gpt-4.1-mini", messages=[], **({"stream": True} if streamed else {}))
    response = made.__enter__() if streamed else made
    http = response.http_response
    http.read()
    for double in (pickle.loads(pickle.dumps(http)), copy.deepcopy(http), copy.copy(http)):
        assert type(double).__module__ == "httpx2"
        assert double.content == http.content
        assert double.status_code == 200
    if streamed:
        made.__exit__(None, None, None)
    assert ledger.row["output_text_tokens"] == 5


def test_a_refused_stream_options_is_sent_again_without_and_remembered(
    canned: Canned, client: openai.OpenAI, ledger: Recorded
):
    refusal = (400, {"error": {"message": "Unrecognized request argument supplied: stream_options", "code": None}})
    canned.answers["chat/completions"] = [refusal, UNASKED, UNASKED]
    for _ in range(2):
        assert len(list(client.chat.completions.create(model="gpt-4.1-mini", messages=[], stream=True))) == 2
    assert ["stream_options" in body for _, _, body in canned.asked] == [True, False, False]
    first, second = ledger.rows
    assert (first["attempt_status"], first["attempt_billed"]) == (["400", "200"], ["no", "yes"])
    assert second["attempts"] == 1


def test_another_400_is_the_callers(canned: Canned, client: openai.OpenAI, ledger: Recorded):
    canned.answers["chat/completions"] = (400, {"error": {"message": "messages is too short"}})
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="gpt-4.1-mini", messages=[], stream=True)
    assert len(canned.asked) == 1


def test_a_400_that_quotes_the_callers_text_is_the_callers(canned: Canned, client: openai.OpenAI, ledger: Recorded):
    quoting = {"error": {"message": "invalid tool: 'stream_options'", "param": "tools[0].name"}}
    canned.answers["chat/completions"] = (400, quoting)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="gpt-4.1-mini", messages=[], stream=True)
    assert len(canned.asked) == 1
    vague = (400, {"error": {"message": "cannot parse: stream_options"}})
    canned.answers["chat/completions"] = [vague, vague, ASKED, vague, ASKED]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="gpt-4.1-mini", messages=[], stream=True)
    list(client.chat.completions.create(model="gpt-4.1-mini", messages=[], stream=True))
    with pytest.raises(openai.BadRequestError):  # this model has accepted it before
        client.chat.completions.create(model="gpt-4.1-mini", messages=[], stream=True)
    list(client.chat.completions.create(model="gpt-4.1-mini", messages=[], stream=True))
    assert ["stream_options" in body for _, _, body in canned.asked] == [True, True, False, True, True, True]
    assert [row["output_text_tokens"] for row in ledger.rows if row["outcome"] == "ok"] == [5, 5]


def test_one_of_a_hosts_models_may_refuse_stream_options(canned: Canned, client: openai.OpenAI, ledger: Recorded):
    refusal = (400, {"error": {"message": "stream_options is not supported", "param": "stream_options"}})
    canned.answers["chat/completions"] = [ASKED, refusal, UNASKED, UNASKED, ASKED]
    for model in ("gpt-4.1-mini", "old", "old", "gpt-4.1-mini"):
        list(client.chat.completions.create(model=model, messages=[], stream=True))
    assert ["stream_options" in body for _, _, body in canned.asked] == [True, True, False, False, True]


@pytest.mark.parametrize("size", [None, 1, 16, 1000, 65536])
@pytest.mark.parametrize("way", ["httpx", "sdk", "sdk that did not ask"])
def test_a_stream_is_read_whatever_the_size_of_its_pieces(
    way: str, size: int | None, canned: Canned, client: openai.OpenAI, serves: Say, ledger: Recorded
):
    serves(canned.url, "openai")
    canned.answers["chat/completions"] = ASKED
    body: dict[str, Any] = {"model": "gpt-4.1-mini", "messages": [], "stream": True}
    if way == "httpx":
        with httpx.stream("POST", f"{canned.url}/v1/chat/completions", json=body) as response:
            assert b"".join(response.iter_bytes(size)) == ASKED
    else:
        asked: Any = {"stream_options": {"include_usage": True}} if way == "sdk" else {}
        with client.chat.completions.with_streaming_response.create(**body, **asked) as response:
            assert b"".join(response.iter_bytes(size)) == (ASKED if asked else UNASKED)
    assert (ledger.row["outcome"], ledger.row["output_text_tokens"]) == ("ok", 5)


def test_what_had_come_before_a_stream_broke_is_the_callers(client: openai.OpenAI, ledger: Recorded):
    class Broken(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b'data: {"id":"s1","choices":[]}\n\ndata: {"id":"s1","choi'
            raise httpx2.RemoteProtocolError("the server went away")

    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Broken())
    )
    pieces: list[bytes] = []
    body: dict[str, Any] = {"model": "gpt-4.1-mini", "messages": [], "stream": True}
    with (
        client.with_options(
            base_url="https://api.openai.com/v1", http_client=httpx2.Client(transport=transport)
        ) as own,
        own.chat.completions.with_streaming_response.create(**body) as response,
        pytest.raises(httpx2.RemoteProtocolError),
    ):
        pieces.extend(response.iter_bytes())
    assert b"".join(pieces) == b'data: {"id":"s1","choices":[]}\n\ndata: {"id":"s1","choi'
