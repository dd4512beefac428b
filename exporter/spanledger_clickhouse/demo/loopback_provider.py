"""A stand-in for OpenAI, Anthropic and Google on this machine: their wire protocols, no model behind them.

It answers with realistic bodies (cached tokens, cache writes, reasoning, streams) whose numbers follow
from the prompt, keeps a list of what it "sold", and works out by itself what that costs, from the price
list below and in picodollars, so that a ledger can be held against it. `GET /truth` gives the list.

A prompt that contains "[429]" is refused once, with a Retry-After, before it is served. "[500]" always fails.
"""
# pyright: basic

from __future__ import annotations

import hashlib
import itertools
import json
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# USD per million tokens: input, cached input, cache write (5 minutes), cache write (1 hour), output.
# From the providers' price pages, written as picodollars a token (1 USD per million = 1,000,000 pUSD).
PRICES = {
    "gpt-4.1-mini": (400_000, 100_000, 0, 0, 1_600_000),
    "gpt-5.4-mini": (750_000, 75_000, 0, 0, 4_500_000),
    "text-embedding-3-small": (20_000, 20_000, 0, 0, 0),
    "claude-sonnet-4-6": (3_000_000, 300_000, 3_750_000, 6_000_000, 15_000_000),
    "claude-haiku-4-5": (1_000_000, 100_000, 1_250_000, 2_000_000, 5_000_000),
    "gemini-3.5-flash": (1_500_000, 150_000, 0, 0, 9_000_000),
    "gemini-embedding-001": (150_000, 150_000, 0, 0, 0),
}


@dataclass(frozen=True)
class Sold:
    """One answer: what was counted and what it costs, None where the price list lacks the model."""

    id: str
    api: str
    model: str
    prompt: str
    input: int
    """All input tokens, cached and written ones included."""
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    output: int = 0
    """All output tokens, reasoning included."""
    reasoning: int = 0
    picousd: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


def numbers(prompt: str) -> Iterator[int]:
    """An endless row of numbers below 65536 that depends on the prompt alone."""
    for turn in itertools.count():
        digest = hashlib.sha256(f"{turn}:{prompt}".encode()).digest()
        yield from (int.from_bytes(digest[i : i + 2], "big") for i in range(0, 32, 2))


def cost(sold: Sold) -> int | None:
    rates = PRICES.get(sold.model)
    if rates is None:
        return None
    plain = sold.input - sold.cache_read - sold.cache_write - sold.cache_write_1h
    counts = (plain, sold.cache_read, sold.cache_write, sold.cache_write_1h, sold.output)
    return sum(count * rate for count, rate in zip(counts, rates, strict=True))


class Provider(ThreadingHTTPServer):
    """The server; `sold` and `refused` are what it did."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, port: int = 0, pause: float = 0.0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.sold: list[Sold] = []
        self.refused: list[str] = []
        self.pause = pause
        self._ids = itertools.count(1)
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print an error of the server, but not that of a client that has closed its connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def start(self) -> Provider:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def sell(self, api: str, model: str, prompt: str, headers: dict[str, str]) -> Sold:
        n = numbers(prompt)
        total = 20 + next(n) % 3000
        cached = next(n) % total // 2 if next(n) % 2 else 0
        written = written_1h = 0
        output = 5 + next(n) % 600
        reasoning = next(n) % output if api in ("responses", "google") and next(n) % 2 else 0
        if api == "anthropic":
            written = next(n) % (total - cached) // 2 if next(n) % 2 else 0
            written_1h = next(n) % (total - cached - written) // 2 if next(n) % 3 == 0 else 0
        if api == "embeddings":
            cached = output = 0
        with self._lock:
            number = next(self._ids)
            sold = Sold(
                f"{api}-{number:06d}", api, model, prompt, total, cached, written, written_1h, output, reasoning,
                None, headers,
            )  # fmt: skip
            sold = Sold(**{**asdict(sold), "picousd": cost(sold)})
            self.sold.append(sold)
        return sold

    def refuses(self, prompt: str) -> int | None:
        """The status to refuse a prompt with, if it is to be refused now."""
        if "[500]" in prompt:
            return 500
        with self._lock:
            if "[429]" in prompt and prompt not in self.refused:
                self.refused.append(prompt)
                return 429
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Provider

    def do_GET(self) -> None:
        if self.path == "/truth":
            self.answer([asdict(sold) for sold in self.server.sold])
        else:
            self.answer({"object": "list", "data": []})

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(size)
        if len(content) < size:
            return  # the client is gone
        body = json.loads(content or b"{}")
        route = self.path.partition("?")[0]
        google = re.search(r"/models/([^/:]+):(\w+)$", route)
        converse = re.search(r"/model/([^/]+)/converse$", route)
        prompt = text_of(body)
        status = self.server.refuses(prompt)
        if status:
            self.answer(
                {"error": {"message": "try again", "code": status, "status": "RESOURCE_EXHAUSTED"}},
                status,
                {"Retry-After": "0", "retry-after-ms": "1"},
            )
        elif converse:
            self.converse(self.sell("bedrock", converse[1], prompt))
        elif google:
            self.google(google[1], google[2], prompt)
        elif route.endswith("/chat/completions"):
            self.chat(body, self.sell("chat", body["model"], prompt))
        elif route.endswith("/responses"):
            self.respond(body, self.sell("responses", body["model"], prompt))
        elif route.endswith("/embeddings"):
            self.embeddings(self.sell("embeddings", body["model"], prompt))
        elif route.endswith("/messages"):
            self.messages(body, self.sell("anthropic", body["model"], prompt))
        else:
            self.answer({"object": "unknown"})

    def sell(self, api: str, model: str, prompt: str) -> Sold:
        return self.server.sell(api, model, prompt, {key.lower(): value for key, value in self.headers.items()})

    # --- the three protocols -------------------------------------------------------------------------

    def chat(self, body: dict[str, Any], sold: Sold) -> None:
        usage = {
            "prompt_tokens": sold.input,
            "completion_tokens": sold.output,
            "total_tokens": sold.input + sold.output,
            "prompt_tokens_details": {"cached_tokens": sold.cache_read, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": sold.reasoning, "audio_tokens": 0},
        }
        head = {"id": sold.id, "created": 1, "model": sold.model, "service_tier": "default"}
        if not body.get("stream"):
            message = {"role": "assistant", "content": WORDS, "refusal": None}
            choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
            self.answer({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        wanted = (body.get("stream_options") or {}).get("include_usage")
        chunk = {**head, "object": "chat.completion.chunk", **({"usage": None} if wanted else {})}
        events = [
            {**chunk, "choices": [{"index": 0, "delta": {"content": word + " "}, "finish_reason": None}]}
            for word in WORDS.split()
        ]
        events.append({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if wanted:
            events.append({**chunk, "choices": [], "usage": usage})
        self.stream([f"data: {compact(event)}\n\n" for event in events] + ["data: [DONE]\n\n"])

    def respond(self, body: dict[str, Any], sold: Sold) -> None:
        content = {"type": "output_text", "text": WORDS, "annotations": [], "logprobs": []}
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [content]}
        usage = {
            "input_tokens": sold.input,
            "input_tokens_details": {"cached_tokens": sold.cache_read},
            "output_tokens": sold.output,
            "output_tokens_details": {"reasoning_tokens": sold.reasoning},
            "total_tokens": sold.input + sold.output,
        }
        answer = {
            "id": sold.id, "object": "response", "created_at": 1, "model": sold.model, "service_tier": "default",
            "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "error": None,
            "incomplete_details": None, "instructions": None, "metadata": {},
        }  # fmt: skip
        done = {**answer, "status": "completed", "output": [item], "usage": usage}
        if not body.get("stream"):
            self.answer(done)
            return
        started = {**answer, "status": "in_progress", "output": [], "usage": None}
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": started},
            {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
            {"type": "response.content_part.added", **place, "part": {**content, "text": ""}},
            *({"type": "response.output_text.delta", **place, "delta": w, "logprobs": []} for w in WORDS.split()),
            {"type": "response.output_text.done", **place, "text": WORDS, "logprobs": []},
            {"type": "response.completed", "response": done},
        ]
        numbered = [{**event, "sequence_number": number} for number, event in enumerate(events)]
        self.stream([f"event: {event['type']}\ndata: {compact(event)}\n\n" for event in numbered])

    def embeddings(self, sold: Sold) -> None:
        data = [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5, 0.125]}]
        usage = {"prompt_tokens": sold.input, "total_tokens": sold.input}
        self.answer({"object": "list", "data": data, "model": sold.model, "usage": usage}, headers={"x-id": sold.id})

    def messages(self, body: dict[str, Any], sold: Sold) -> None:
        into = {
            "input_tokens": sold.input - sold.cache_read - sold.cache_write - sold.cache_write_1h,
            "cache_read_input_tokens": sold.cache_read,
            "cache_creation_input_tokens": sold.cache_write + sold.cache_write_1h,
            "cache_creation": {
                "ephemeral_5m_input_tokens": sold.cache_write,
                "ephemeral_1h_input_tokens": sold.cache_write_1h,
            },
            "service_tier": "standard",
            "inference_geo": "global",
        }
        head = {"id": sold.id, "type": "message", "role": "assistant", "model": sold.model, "stop_sequence": None}
        if not body.get("stream"):
            text = {"type": "text", "text": WORDS}
            usage = {**into, "output_tokens": sold.output}
            self.answer({**head, "content": [text], "stop_reason": "end_turn", "usage": usage})
            return
        start = {**head, "content": [], "stop_reason": None, "usage": {**into, "output_tokens": 1}}
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
                for word in WORDS.split()
            ),
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": sold.output},
            },
            {"type": "message_stop"},
        ]
        self.stream([f"event: {event['type']}\ndata: {compact(event)}\n\n" for event in events])

    def converse(self, sold: Sold) -> None:
        written = sold.cache_write + sold.cache_write_1h
        usage = {
            "inputTokens": sold.input - sold.cache_read - written,
            "outputTokens": sold.output,
            "totalTokens": sold.input + sold.output,
            "cacheReadInputTokens": sold.cache_read,
            "cacheWriteInputTokens": written,
        }
        message = {"role": "assistant", "content": [{"text": WORDS}]}
        self.answer({"output": {"message": message}, "stopReason": "end_turn", "usage": usage})

    def google(self, model: str, verb: str, prompt: str) -> None:
        if verb == "countTokens":
            self.answer({"totalTokens": len(prompt)})
            return
        if verb in ("embedContent", "batchEmbedContents"):
            sold = self.sell("embeddings", model, prompt)
            usage = {"promptTokenCount": sold.input, "totalTokenCount": sold.input}
            vector = {"values": [0.25, -0.5, 0.125]}
            self.answer(
                {"embeddings": [vector], "embedding": vector, "usageMetadata": usage}, headers={"x-id": sold.id}
            )
            return
        sold = self.sell("google", model, prompt)
        usage = {
            "promptTokenCount": sold.input,
            "candidatesTokenCount": sold.output - sold.reasoning,
            "thoughtsTokenCount": sold.reasoning,
            "cachedContentTokenCount": sold.cache_read,
            "totalTokenCount": sold.input + sold.output,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": sold.input}],
        }
        head = {"responseId": sold.id, "modelVersion": model}

        def candidate(text: str, reason: str | None) -> dict[str, Any]:
            content = {"role": "model", "parts": [{"text": text}]}
            return {"content": content, "index": 0, **({"finishReason": reason} if reason else {})}

        if verb == "generateContent":
            self.answer({**head, "candidates": [candidate(WORDS, "STOP")], "usageMetadata": usage})
            return
        words = WORDS.split()
        running = {"promptTokenCount": sold.input, "totalTokenCount": sold.input}
        events = [{**head, "candidates": [candidate(word, None)], "usageMetadata": running} for word in words[:-1]]
        events.append({**head, "candidates": [candidate(words[-1], "STOP")], "usageMetadata": usage})
        self.stream([f"data: {compact(event)}\r\n\r\n" for event in events])

    # --- HTTP ------------------------------------------------------------------------------------------

    def answer(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def stream(self, events: list[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for event in events:
                data = event.encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the caller left in the middle of the stream

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing: a demo's terminal is for its result."""


WORDS = "The ledger holds one row for every call, priced to the picodollar."


def compact(event: object) -> str:
    return json.dumps(event, separators=(",", ":"))


def text_of(body: Any) -> str:
    """Every text of a request, in order: what the numbers are made of."""
    found: list[str] = []

    def walk(value: Any, key: str) -> None:
        if isinstance(value, str) and key in ("content", "text", "input", "contents"):
            found.append(value)
        elif isinstance(value, dict):
            for name, part in value.items():
                walk(part, name)
        elif isinstance(value, list):
            for part in value:
                walk(part, key)

    walk(body, "")
    return " ".join(found)
