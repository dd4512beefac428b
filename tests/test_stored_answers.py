"""Answers that no provider gave: those of caches cost nothing, and those of unusual transports are no cache's."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import anthropic
import httpcore2
import httpx
import httpx2
import openai
import pytest
import requests

import spanledger
from canned import Canned
from conftest import Recorded
from provider_answers import ANTHROPIC, OPENAI_CHAT, Say
from spanledger.hooks.answer_headers import read_headers


@pytest.fixture
def client(canned: Canned) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1") as client:
        yield client


class Cache(httpx2.HTTPTransport):
    """A transport that keeps the first answer."""

    kept: httpx2.Response | None = None

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.kept is None:
            self.kept = super().handle_request(request)
            self.kept.read()
        return httpx2.Response(200, headers=self.kept.headers, content=self.kept.content, request=request)


def test_an_answer_replayed_by_a_transport_is_a_cache_hit(
    canned: Canned, client: openai.OpenAI, ledger: Recorded, public_host
):
    canned.answers["chat/completions"] = OPENAI_CHAT
    client = client.with_options(http_client=httpx2.Client(transport=Cache()))
    for _ in range(3):
        client.chat.completions.create(model="gpt-4.1-mini", messages=[])
    client.close()
    first, *others = ledger.rows
    assert first["price_status"] == "priced"
    assert first["cost_usd"] > 0
    for row in others:
        assert (row["cost_usd"], row["price_status"], row["usage_source"]) == (0, "cache_hit", "cache")
        assert row["avoided_cost_usd"] == first["cost_usd"]
        assert (row["input_uncached_tokens"], row["attributes"]["spanledger.cache.hit"]) == (0, "true")


def test_an_answer_from_a_gateways_cache_is_a_cache_hit(
    canned: Canned, client: openai.OpenAI, ledger: Recorded, public_host
):
    canned.answers["chat/completions"] = OPENAI_CHAT
    canned.headers = {"cf-aig-cache-status": "HIT"}
    client.chat.completions.create(model="gpt-4.1-mini", messages=[])
    row = ledger.row
    assert (row["cost_usd"], row["price_status"]) == (0, "cache_hit")
    assert row["avoided_cost_usd"] > 0


def test_a_transport_that_sends_in_a_thread_of_its_own_is_no_cache(canned: Canned, ledger: Recorded, public_host):
    canned.answers["chat/completions"] = {**OPENAI_CHAT, "id": "chatcmpl-threaded"}

    class Threaded(httpx2.HTTPTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(super().handle_request, request).result()

    with openai.OpenAI(
        api_key="k", base_url=f"{canned.url}/v1", http_client=httpx2.Client(transport=Threaded())
    ) as client:
        for _ in range(2):
            client.chat.completions.create(model="gpt-4.1-mini", messages=[])
    assert [row["price_status"] for row in ledger.rows] == ["priced", "priced"]


def test_a_provider_whose_ids_repeat_is_paid_each_time(
    canned: Canned, client: openai.OpenAI, ledger: Recorded, public_host
):
    canned.answers["chat/completions"] = OPENAI_CHAT
    for _ in range(2):
        client.chat.completions.create(model="gpt-4.1-mini", messages=[])
    assert [row["price_status"] for row in ledger.rows] == ["priced", "priced"]


def test_an_answer_of_an_sdks_middleware_is_a_cache_hit_and_frees_its_reservation(
    canned: Canned, ledger: Recorded, limited: Any, public_host
):
    canned.answers["messages"] = ANTHROPIC
    limited("0.05")
    answers: list[Any] = []

    def keeping(request: Any, call_next: Any) -> Any:
        if not answers:
            answers.append(call_next(request).parse())
        return answers[0]

    with (
        spanledger.attribution(user="ada"),
        anthropic.Anthropic(api_key="k", base_url=canned.url, middleware=[keeping]) as claude,
    ):
        for _ in range(40):
            claude.messages.create(
                model="claude-sonnet-4-6", max_tokens=300, messages=[{"role": "user", "content": "hi"}]
            )
    first, *others = ledger.rows
    assert first["price_status"] == "priced"
    assert {row["price_status"] for row in others} == {"cache_hit"}
    assert {row["avoided_cost_usd"] for row in others} == {first["cost_usd"]}


@pytest.mark.parametrize(
    ("headers", "is_stored"),
    [
        ({"x-cache": "HIT"}, True),
        ({"x-cache": "Hit from cloudfront"}, True),
        ({"x-cache": "RefreshHit from cloudfront"}, True),
        ({"x-cache": "TCP_MEM_HIT"}, True),
        ({"x-cache": "MISS, HIT"}, True),
        ({"cache-status": "edge; hit"}, True),
        ({"cache-status": "edge; hit=?0; fwd=miss"}, False),
        ({"cache-status": "edge; fwd=miss"}, False),
        ({"cache-status": "edge; hit=?1"}, True),
        ({"cache-status": 'edge; fwd=uri-miss; key="/hit/chat; hit"'}, False),
        ({"cache-status": "hit; fwd=miss"}, False),
        ({"cache-status": "edge; fwd=stale", "age": "12"}, False),
        ({"cf-cache-status": "STALE"}, True),
        ({"age": "12, 0"}, True),
        *(
            ({"x-cache": text}, False)
            for text in ("NO_HIT", "NO  HIT", "no\thit", "0 hit", "HIT: 0", "hit: false", "hit/0")
        ),
        ({"x-cache": "hit-for-miss"}, False),
        ({"x-cache": "HIT-FOR-PASS"}, False),
        ({"x-cache": "no-hit"}, False),
        ({"x-cache": "not hit"}, False),
        ({"age": "12"}, True),
        ({"age": "0"}, False),
        ({"age": "9" * 5000}, False),
        ({"age": "12", "x-cache": "MISS"}, False),
    ],
)
def test_only_a_hit_is_a_hit(headers: dict[str, str], is_stored: bool):
    facts = read_headers((name.encode(), value.encode()) for name, value in headers.items())
    assert facts.is_stored is is_stored


class Pooled(httpx2.HTTPTransport):
    """A transport that asks its pool by itself."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        url = httpcore2.URL(scheme=b"http", host=request.url.host, port=request.url.port, target=request.url.raw_path)
        headers = [*request.headers.raw]
        with httpcore2.ConnectionPool() as pool:
            response = pool.handle_request(
                httpcore2.Request(request.method, url, headers=headers, content=request.read())
            )
            return httpx2.Response(response.status, headers=response.headers, content=response.read())


class Plain(httpx2.BaseTransport):
    """A transport on Python's own client."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        connection = HTTPConnection(request.url.host, request.url.port or 80)
        connection.request(request.method, request.url.path, request.read(), dict(request.headers))
        response = connection.getresponse()
        answer = httpx2.Response(response.status, headers=dict(response.headers), content=response.read())
        connection.close()
        return answer


@pytest.mark.parametrize("transport", [Pooled, Plain])
def test_a_transport_with_a_network_of_its_own_is_no_cache(
    transport: Any, canned: Canned, client: openai.OpenAI, ledger: Recorded, public_host: Any
):
    canned.answers["chat/completions"] = {**OPENAI_CHAT, "id": f"chatcmpl-{transport.__name__}"}
    with client.with_options(http_client=httpx2.Client(transport=transport())) as own:
        for _ in range(2):
            own.chat.completions.create(model="gpt-4.1-mini", messages=[])
    assert [row["price_status"] for row in ledger.rows] == ["priced", "priced"]


def test_a_worker_of_an_earlier_call_is_no_cache(
    canned: Canned, client: openai.OpenAI, ledger: Recorded, public_host: Any
):
    """A thread that was started within a call keeps its context, and serves the following ones."""
    canned.answers["chat/completions"] = {**OPENAI_CHAT, "id": "chatcmpl-worker"}
    tasks: queue.Queue[Any] = queue.Queue()

    class Worker(httpx2.HTTPTransport):
        thread: threading.Thread | None = None

        def serve(self) -> None:
            while (task := tasks.get()) is not None:
                request, answered = task
                answered.put(super().handle_request(request))

        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            if self.thread is None:
                context = contextvars.copy_context()
                self.thread = threading.Thread(target=context.run, args=(self.serve,), daemon=True)
                self.thread.start()
            answered: queue.Queue[Any] = queue.Queue()
            tasks.put((request, answered))
            return answered.get()

    with client.with_options(http_client=httpx2.Client(transport=Worker())) as own:
        for _ in range(3):
            own.chat.completions.create(model="gpt-4.1-mini", messages=[])
    tasks.put(None)
    assert [row["price_status"] for row in ledger.rows] == ["priced"] * 3


@pytest.mark.parametrize("extension", ["from_cache", "hishel_from_cache"])
@pytest.mark.parametrize("library", [httpx, httpx2])
def test_a_transport_may_say_that_it_has_kept_an_answer(
    library: Any, extension: str, canned: Canned, serves: Say, ledger: Recorded, public_host: Any
):
    serves("https://llm.example.com", "openai")
    kept = library.MockTransport(lambda _: library.Response(200, json=OPENAI_CHAT, extensions={extension: True}))
    with library.Client(transport=kept) as own:
        own.post("https://llm.example.com/v1/chat/completions", json={"model": "gpt-4.1-mini"})
    assert (ledger.row["price_status"], ledger.row["cost_usd"]) == ("cache_hit", 0)


def test_a_cache_that_is_asked_over_the_network_is_a_cache(
    canned: Canned, client: openai.OpenAI, ledger: Recorded, public_host: Any
):
    canned.answers["chat/completions"] = {**OPENAI_CHAT, "id": "chatcmpl-kv"}
    kept: list[Any] = []

    class KeyValueCache(httpx2.HTTPTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            requests.get(canned.url.replace("127.0.0.1", "localhost") + "/get", timeout=5)
            if not kept:
                kept.append(super().handle_request(request).read())
            return httpx2.Response(200, content=kept[0], headers={"content-type": "application/json"})

    with client.with_options(http_client=httpx2.Client(transport=KeyValueCache())) as own:
        for _ in range(2):
            own.chat.completions.create(model="gpt-4.1-mini", messages=[])
    assert [row["price_status"] for row in ledger.rows] == ["priced", "cache_hit"]
