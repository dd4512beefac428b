"""Limits inside a stream: closed when its budgets have no room for more, or when its time is over; what was seen is booked."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anthropic
import openai
import pytest
from google import genai

import spanledger
from canned import Canned, sse
from conftest import Recorded
from limited_calls import MESSAGES, balance
from spanledger import BudgetExceeded
from spanledger.capture.stream_limit import StreamLimit, text_size
from spanledger.limits import api
from spanledger.limits.limiter import Limiter
from spanledger.limits.policy import Dimensions
from spanledger.limits.policy_documents import policy_from_document
from spanledger.limits.reservations import Decision
from spanledger.limits.store.protocol import Store
from spanledger.semconv.usage import Usage

WORDS = "four words and more. " * 20
"""Of one event: 420 bytes, 105 tokens as we count them."""


def chat_chunk(text: str) -> dict[str, Any]:
    choices = [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}]
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5.4-mini", "choices": choices}


def message_events(text: str) -> list[dict[str, Any]]:
    return [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}]


MESSAGE_START = [
    {"type": "message_start", "message": {"id": "m1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-6",
        "content": [], "usage": {"input_tokens": 1000, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
]  # fmt: skip


def gemini_chunk(text: str) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}],
        "usageMetadata": {"promptTokenCount": 10, "totalTokenCount": 10},
        "modelVersion": "gemini-3.5-flash",
        "responseId": "g1",
    }


def response_event(text: str) -> dict[str, Any]:
    return {
        "type": "response.output_text.delta", "sequence_number": 1, "item_id": "i", "output_index": 0, "content_index": 0,
        "delta": text, "logprobs": [],
    }  # fmt: skip


RESPONSE_CREATED = {
    "type": "response.created", "sequence_number": 0,
    "response": {"id": "r1", "object": "response", "status": "in_progress", "model": "gpt-5.4-mini", "output": []},
}  # fmt: skip


class Endless(ThreadingHTTPServer):
    """Streams `events` events of text in each provider's format, then nothing more, without an end."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.events = 1000
        self.sent = 0
        self.pause = 0.0
        self.over = threading.Event()
        self.served: dict[str, int] = {}
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has closed its connection is what these tests are about."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endless

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if "messages" in self.path:
            for event in MESSAGE_START:
                self.send(event)
        if "responses" in self.path:
            self.send(RESPONSE_CREATED)
        for _ in range(self.server.events):
            for event in self.of_path(WORDS):
                self.send(event)
            self.server.sent += 1
            time.sleep(self.server.pause)
        self.server.over.wait(30)

    def of_path(self, text: str) -> list[dict[str, Any]]:
        if "messages" in self.path:
            return message_events(text)
        if "responses" in self.path:
            return [response_event(text)]
        return [gemini_chunk(text)] if "generate" in self.path else [chat_chunk(text)]

    def send(self, event: dict[str, Any]) -> None:
        name = f"event: {event['type']}\n" if "type" in event else ""
        data = f"{name}data: {json.dumps(event)}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def endless() -> Iterator[Endless]:
    server = Endless()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def chat(url: str, **options: Any) -> None:
    with openai.OpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client:
        for _ in client.chat.completions.create(model="gpt-5.4-mini", messages=MESSAGES, stream=True, **options):
            pass


def raw_chat(url: str, read: str = "iter_bytes") -> None:
    with (
        openai.OpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client,
        client.chat.completions.with_streaming_response.create(
            model="gpt-5.4-mini", messages=MESSAGES, stream=True
        ) as response,
    ):
        for _ in getattr(response, read)():
            pass


def lines_of_chat(url: str) -> None:
    raw_chat(url, "iter_lines")


def response(url: str) -> None:
    with openai.OpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client:
        for _ in client.responses.create(model="gpt-5.4-mini", input="how much?", stream=True):
            pass


def chat_async(url: str) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client:
            stream: Any = await client.chat.completions.create(model="gpt-5.4-mini", messages=MESSAGES, stream=True)
            async for _ in stream:
                pass

    asyncio.run(main())


def message(url: str) -> None:
    with anthropic.Anthropic(api_key="k", base_url=url, max_retries=0) as client:
        for _ in client.messages.create(
            model="claude-sonnet-4-6", max_tokens=100_000, messages=MESSAGES, stream=True, timeout=60
        ):
            pass


def message_helper_async(url: str) -> None:
    async def main() -> None:
        async with (
            anthropic.AsyncAnthropic(api_key="k", base_url=url, max_retries=0) as client,
            client.messages.stream(model="claude-sonnet-4-6", max_tokens=100_000, messages=MESSAGES) as stream,
        ):
            async for _ in stream.text_stream:
                pass

    asyncio.run(main())


def generate(url: str) -> None:
    with closing(genai.Client(api_key="k", http_options={"base_url": url})) as client:
        for _ in client.models.generate_content_stream(model="gemini-3.5-flash", contents="how much?"):
            pass


def generate_async(url: str) -> None:
    async def main() -> None:
        async with genai.Client(api_key="k", http_options={"base_url": url}).aio as client:
            async for _ in await client.models.generate_content_stream(model="gemini-3.5-flash", contents="how much?"):
                pass

    asyncio.run(main())


GROWING: dict[str, Callable[[str], None]] = {
    "chat": chat, "raw chat": raw_chat, "lines of chat": lines_of_chat, "response": response, "chat async": chat_async,
    "generate": generate, "generate async": generate_async,
}  # fmt: skip
"""Streams without a maximum."""
STREAMS = {**GROWING, "message": message, "message helper async": message_helper_async}
USD = 10**12
"""Picodollars."""
OUTPUT_USD = {"gpt-5.4-mini": Decimal("4.5e-6"), "gemini-3.5-flash": Decimal("9e-6")}


@pytest.mark.parametrize("style", GROWING)
def test_a_stream_is_closed_when_its_budget_has_no_room_for_more_of_it(
    style: str, limited: Any, ledger: Recorded, endless: Endless
):
    limited("0.02", 'action = "block"\n[request]\nassumed_output_tokens = 400\n')
    with spanledger.attribution(user="ada"), pytest.raises(BudgetExceeded) as refusal:
        GROWING[style](endless.url)
    assert refusal.value.reason == "budget 'u': $0.02 for the month is used up; the stream was closed"
    assert refusal.value.retry_after_seconds > 0
    row = ledger.row
    assert (row["outcome"], row["usage_source"]) == ("aborted", "estimated")
    assert row["attributes"]["spanledger.budget.refusal"] == refusal.value.reason
    assert {"estimated", "usage_estimated"} <= {*row["price_flags"]}
    # It went on while there was room: the budget less one part, and one event more.
    most, part = Decimal("0.02"), 505 * OUTPUT_USD[row["request_model"]]
    assert most - part < row["cost_usd"] < most + part
    assert balance() == (row["cost_usd"], 0)


def test_a_stream_with_a_maximum_is_its_providers_to_end(limited: Any, ledger: Recorded, endless: Endless):
    endless.events = 3
    limited("0.02", 'action = "block"\n[request]\nmax_stream_seconds = 1\n')
    with spanledger.attribution(user="ada"), pytest.raises(BudgetExceeded, match="more than the 1 seconds"):
        chat(endless.url, max_tokens=100)
    assert ledger.row["cost_usd"] > 0  # 315 tokens, which the provider should not have sent


@pytest.mark.parametrize("style", STREAMS)
def test_a_hung_stream_ends_within_a_second_of_its_limit(style: str, limited: Any, ledger: Recorded, endless: Endless):
    endless.events = 2
    limited("5", 'action = "block"\n[request]\nmax_stream_seconds = 1\n')
    start = time.monotonic()
    with spanledger.attribution(user="ada"), pytest.raises(BudgetExceeded) as refusal:
        STREAMS[style](endless.url)
    assert 0.9 < time.monotonic() - start < 8  # the server hangs for 30
    assert refusal.value.reason == "the stream took more than the 1 seconds it may take; it was closed"
    row = ledger.row
    assert (row["outcome"], row["usage_source"]) == ("aborted", "estimated")
    assert row["output_text_tokens"] == 210
    assert row["input_uncached_tokens"] == 1000 if "message" in style else row["input_uncached_tokens"] > 0
    assert balance() == (row["cost_usd"], 0)


def test_a_stream_that_never_stops_ends_within_a_second_of_its_limit(limited: Any, ledger: Recorded, endless: Endless):
    endless.pause = 0.01
    limited("5", 'action = "block"\n[request]\nmax_stream_seconds = 1\n')
    start = time.monotonic()
    with pytest.raises(BudgetExceeded):
        chat(endless.url)
    assert 0.9 < time.monotonic() - start < 8  # the server hangs for 30


def test_a_feature_has_a_time_of_its_own_and_a_critical_one_has_none(limited: Any, ledger: Recorded, endless: Endless):
    endless.events = 1
    limited(
        "5",
        "[features.quick]\nmax_stream_seconds = 1\n[features.checkout]\ncritical = true\n[request]\nmax_stream_seconds = 2\n",
    )
    with spanledger.attribution(feature="quick"), pytest.raises(BudgetExceeded, match="the 1 seconds"):
        chat(endless.url)
    with spanledger.attribution(feature="checkout"), pytest.raises(openai.APITimeoutError):
        chat(endless.url, timeout=2.5)


def test_a_connection_that_is_back_in_the_pool_stays_open(limited: Any, ledger: Recorded, canned: Canned):
    limited("5", 'action = "block"\n[request]\nmax_stream_seconds = 1\n')
    canned.answers["streamGenerateContent"] = sse(gemini_chunk("a"), gemini_chunk("b"), named=False)
    with closing(genai.Client(api_key="k", http_options={"base_url": canned.url})) as client:
        for _ in range(3):
            list(client.models.generate_content_stream(model="gemini-3.5-flash", contents="x"))
            time.sleep(0.7)
    assert len(canned.clients) == 1
    assert len(ledger.rows) == 3


def test_an_answer_that_is_there_is_never_cut(limited: Any, ledger: Recorded, canned: Canned):
    """Its last event says that it used more than there is room for: reasoning that nobody saw."""
    limited("0.002", 'action = "block"\n[request]\nassumed_output_tokens = 10\n')
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {"prompt_tokens": 5, "completion_tokens": 5000, "total_tokens": 5005}
    canned.answers["/chat/completions"] = sse(
        chat_chunk("four"),
        {**chat_chunk(""), **last},
        {**chat_chunk(""), "choices": [], "usage": usage},
        "[DONE]",
        named=False,
    )
    with spanledger.attribution(user="ada"):
        chat(canned.url)
    assert (ledger.row["outcome"], ledger.row["usage_source"]) == ("ok", "exact")
    assert "spanledger.budget.refusal" not in ledger.row["attributes"]


def test_a_reader_that_is_slow_is_cut_in_asyncio_too(limited: Any, ledger: Recorded, endless: Endless):
    limited("5", 'action = "block"\n[request]\nmax_stream_seconds = 1\n')

    async def main() -> None:
        async with openai.AsyncOpenAI(api_key="k", base_url=f"{endless.url}/v1", max_retries=0) as client:
            stream: Any = await client.chat.completions.create(model="gpt-5.4-mini", messages=MESSAGES, stream=True)
            async for _ in stream:
                await asyncio.sleep(0.01)

    with pytest.raises(BudgetExceeded, match="the 1 seconds"):
        asyncio.run(asyncio.wait_for(main(), 20))


def test_parallel_streams_of_one_user_stay_within_the_budget_and_one_part_each(
    limited: Any, ledger: Recorded, endless: Endless
):
    endless.pause = 0.03  # an event at a time
    limited("0.1", 'action = "block"\n[request]\nassumed_output_tokens = 200\n')

    def agent(_: int) -> str:
        with spanledger.attribution(user="ada"), pytest.raises(BudgetExceeded) as refusal:
            chat(endless.url)
        return refusal.value.reason

    with ThreadPoolExecutor(10) as pool:
        reasons = set(pool.map(agent, range(10)))
    assert all(reason.startswith("budget 'u': $0.1 for the month is used up") for reason in reasons)
    spent, held = balance()
    assert held == 0
    assert Decimal("0.05") < spent < Decimal("0.1") + 10 * 105 * OUTPUT_USD["gpt-5.4-mini"]


def test_what_is_reserved_later_is_released_when_the_stream_ends(limited: Any, ledger: Recorded, endless: Endless):
    limited("5", 'action = "block"\n[request]\nassumed_output_tokens = 50\n')
    with spanledger.attribution(user="ada"), openai.OpenAI(api_key="k", base_url=f"{endless.url}/v1") as client:
        stream: Any = client.chat.completions.create(model="gpt-5.4-mini", messages=MESSAGES, stream=True)
        for _, _ in zip(range(20), stream, strict=False):
            pass
        held = balance()[1]
        assert held > 2000 * 4_500_000  # 20 events of 105 tokens
        stream.close()
    assert balance() == (Decimal(held).scaleb(-12), 0)  # nobody knows what it cost: what was reserved


def test_a_model_without_a_price_grows_for_nothing(limited: Any, ledger: Recorded, endless: Endless):
    endless.events = 100
    limited("5", 'action = "block"\n[request]\nassumed_output_tokens = 50\nmax_stream_seconds = 1\n')
    with (
        closing(genai.Client(api_key="k", http_options={"base_url": endless.url})) as client,
        spanledger.attribution(user="ada"),
        pytest.raises(BudgetExceeded, match="the 1 seconds"),
    ):
        for _ in client.models.generate_content_stream(model="gemma-3-27b-it", contents="x"):
            pass
    assert balance() == (0, 0)


def test_an_operation_that_reserves_no_output_is_not_counted(limited: Any, ledger: Recorded, endless: Endless):
    limited("0.5")
    limit = StreamLimit(Refusing(), part_tokens=0, part_picousd=5)
    limit.see(chat_chunk("word " * 1000))
    assert (limit.refusal, limit.seen_tokens) == (None, 1250)


class Refusing:
    def extend(self, amount_picousd: int) -> Decision:
        return Decision(False, f"no room for {amount_picousd}")


def test_what_comes_in_one_piece_is_reserved_at_once():
    limit = StreamLimit(Refusing(), part_tokens=10, part_picousd=5)
    limit.see(chat_chunk("x" * 40))
    assert limit.refusal is None
    limit.see(chat_chunk("x" * 84))
    assert limit.refusal is not None
    assert limit.refusal.reason == "no room for 15; the stream was closed"


def test_what_a_provider_states_counts_and_the_text_since():
    limit = StreamLimit()
    limit.see(chat_chunk("x" * 4000))
    limit.see({**gemini_chunk("x" * 400), "usageMetadata": {"candidatesTokenCount": 100, "thoughtsTokenCount": 50}})
    limit.see(gemini_chunk("x" * 40))
    assert limit.seen_tokens == 160
    assert limit.usage(Usage(input=7, output=150)) == Usage(input=7, output=160)


def test_a_budget_never_looks_empty_while_a_stream_is_settled(store: Store):
    limiter = Limiter(
        policy_from_document({"budget": [{"name": "all", "window": "month", "amount_usd": 5, "action": "block"}]}),
        store,
    )
    _, hold = limiter.authorize(Dimensions(), USD // 10)
    assert hold is not None
    for _ in range(5):
        assert hold.extend(USD // 10).allowed
    [counter] = hold._matched.accounts
    seen: list[int] = []
    settle = store.settle

    def watched(*arguments: Any, **options: Any) -> Any:
        answer = settle(*arguments, **options)
        seen.append(sum(store.balance(counter.key)))
        return answer

    store.settle = limiter._settlement_store.settle = watched  # type: ignore[method-assign]
    hold.settle(6 * USD // 10, True, "")
    assert limiter.flush(10)
    assert min(seen) >= 6 * USD // 10
    assert store.balance(counter.key) == (6 * USD // 10, 0)
    assert hold.extend(USD).allowed  # it is over: nothing is held any more
    assert limiter.flush(10)
    assert store.balance(counter.key) == (6 * USD // 10, 0)


@pytest.mark.parametrize(
    ("event", "size"),
    [
        (chat_chunk("abcd"), 4),
        (chat_chunk("é"), 2),
        ({"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "f", "arguments": '{"a"'}}]}}]}, 4),
        ({"choices": [{"text": "abc"}]}, 3),
        ({"choices": [{"delta": {"reasoning_content": "why"}}]}, 3),
        (message_events("abcdef")[0], 6),
        ({"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": '{"k":'}}, 5),
        ({"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}}, 2),
        (response_event("abcde"), 5),
        ({"choices": [{"delta": {"tool_calls": [{"custom": {"name": "f", "input": "abc"}}]}}]}, 3),
        ({"choices": [{"delta": {"function_call": {"arguments": "abc"}}}]}, 3),
        ({"choices": [{"delta": {"reasoning": "abc", "reasoning_content": "abc"}}]}, 3),
        ({"choices": [{"delta": {"audio": {"data": "AAAA", "transcript": "abc"}}}]}, 3),
        ({"event": "thread.message.delta", "data": {"delta": {"content": [{"type": "text", "text": {"value": "abc"}}]}}}, 3),
        ({"type": "transcript.text.done", "text": "abc"}, 0),
        ({"type": "response.audio.delta", "delta": "AAAA"}, 0),
        ({"type": "response.output_text.done", "text": "abcde"}, 0),
        ({"type": "response.completed", "response": {"output": [{"content": [{"text": "abcde"}]}]}}, 0),
        (gemini_chunk("abc"), 3),
        ({"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {"a": 1}}}]}}]}, 8),
        ("abc", 3), (None, 0), (7, 0), ({"choices": None}, 0),
    ],
)  # fmt: skip
def test_the_text_of_an_event_is_counted_once(event: Any, size: int):
    assert text_size(event) == size


def test_a_tower_of_an_event_is_not_climbed():
    tower: Any = "text"
    for _ in range(100_000):
        tower = {"content": [tower]}
    assert text_size(tower) == 0


@pytest.mark.parametrize("value", ["0", "-1", '"a minute"', "true"])
def test_a_wrong_time_is_refused(value: str, limited: Any, caplog: pytest.LogCaptureFixture):
    limited("5", f"[request]\nmax_stream_seconds = {value}\n")
    assert api.limiter_from_settings() is None
    assert "max_stream_seconds" in caplog.text
    assert "use a number of seconds" in caplog.text
