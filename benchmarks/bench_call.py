"""What a call costs: everything Spanledger does on the calling thread, against the bare SDK.

CPU time of the calling thread, an in-process transport, the bare and the recorded call in alternating
blocks of one run; each figure is the median over the blocks. The yardstick is one span made by hand
with twelve attributes, measured in the same run.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anthropic
import httpx2
import openai
from google import genai
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

from spanledger.doors.google import GoogleDoor
from spanledger.doors.stainless import StainlessDoor
from spanledger.pricing.table import prices
from spanledger.processor import LedgerProcessor
from spanledger.providers import anthropic as anthropic_format
from spanledger.providers import google as google_format
from spanledger.providers import openai as openai_format
from spanledger.spool import Spool

BLOCKS, CALLS, STREAMS, CHUNKS = 41, 60, 3, 400

CHAT_USAGE = {
    "prompt_tokens": 1200, "completion_tokens": 300, "total_tokens": 1500,
    "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 128, "audio_tokens": 0},
}  # fmt: skip
TEXT = "The quick brown fox jumps over the lazy dog. " * 20
CHAT = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4.1-mini", "service_tier": "default",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT}}],
    "usage": CHAT_USAGE,
}  # fmt: skip
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-6", "stop_reason": "end_turn",
    "stop_sequence": None, "content": [{"type": "text", "text": TEXT}],
    "usage": {
        "input_tokens": 200, "cache_read_input_tokens": 4000, "cache_creation_input_tokens": 500, "output_tokens": 300,
        "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 0}, "service_tier": "standard",
    },
}  # fmt: skip
GENERATED = {
    "responseId": "r1", "modelVersion": "gemini-3.5-flash",
    "candidates": [{"content": {"role": "model", "parts": [{"text": TEXT}]}, "finishReason": "STOP", "index": 0}],
    "usageMetadata": {
        "promptTokenCount": 1200, "candidatesTokenCount": 300, "thoughtsTokenCount": 90, "totalTokenCount": 1590,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 1200}],
    },
}  # fmt: skip


def events() -> bytes:
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4.1-mini",
        "usage": None,
    }
    delta = {**chunk, "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]}
    last = {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {**chunk, "choices": [], "usage": CHAT_USAGE}
    return (
        b"".join(
            b"data: %s\n\n" % json.dumps(e, separators=(",", ":")).encode() for e in [delta] * CHUNKS + [last, usage]
        )
        + b"data: [DONE]\n\n"
    )


def message_events() -> bytes:
    start = {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word "}}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 300}}
    every = [start, block, *[delta] * CHUNKS, {"type": "content_block_stop", "index": 0}, end, {"type": "message_stop"}]
    return b"".join(b"event: %s\ndata: %s\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in every)


def generated_events() -> bytes:
    part = {**GENERATED, "candidates": [{"content": {"role": "model", "parts": [{"text": "word "}]}, "index": 0}]}
    return b"".join(b"data: %s\r\n\r\n" % json.dumps(e).encode() for e in [part] * CHUNKS + [GENERATED])


class Events(httpx2.SyncByteStream):
    """A stream that arrives event by event."""

    def __init__(self, data: bytes, end: bytes) -> None:
        self._chunks = [part + end for part in data.split(end) if part]

    def __iter__(self):
        return iter(self._chunks)


STREAMED = {
    "chat": (events(), b"\n\n"),
    "messages": (message_events(), b"\n\n"),
    "google": (generated_events(), b"\r\n\r\n"),
}
WHOLE = {"chat": CHAT, "messages": MESSAGE, "google": GENERATED}


def transport(request: httpx2.Request) -> httpx2.Response:
    path = request.url.path
    kind = "chat" if path.endswith("/completions") else "messages" if path.endswith("/messages") else "google"
    body = request.read()
    if "stream" in path.lower() or b'"stream":true' in body:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Events(*STREAMED[kind]))
    return httpx2.Response(200, json=WHOLE[kind])


def cpu(function: Callable[[], object], times: int) -> float:
    """Microseconds of CPU time of this thread for one call."""
    start = time.thread_time_ns()
    for _ in range(times):
        function()
    return (time.thread_time_ns() - start) / times / 1000


def paired(
    function: Callable[[], object], times: int, on: Callable[[], None], off: Callable[[], None]
) -> tuple[float, float]:
    """Medians of the bare call and of what recording adds, in microseconds."""
    bare, added = [], []
    for _ in range(BLOCKS):
        off()
        without = cpu(function, times)
        on()
        bare.append(without)
        added.append(cpu(function, times) - without)
    off()
    return statistics.median(bare), statistics.median(added)


def main() -> None:
    client = httpx2.Client(transport=httpx2.MockTransport(transport))
    gpt = openai.OpenAI(api_key="k", http_client=client)
    claude = anthropic.Anthropic(api_key="k", http_client=client, open_telemetry=False)
    gemini = genai.Client(api_key="k", http_options={"httpx_client": client})
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXT}]
    asked = {"model": "claude-sonnet-4-6", "max_tokens": 100, "messages": messages[1:]}

    directory = tempfile.TemporaryDirectory()
    spool = Spool(Path(directory.name), 1 << 34)
    tracing = TracerProvider(shutdown_on_exit=False)
    tracing.add_span_processor(LedgerProcessor(spool))
    prices()

    def tracer(scope: str):
        found = tracing.get_tracer(scope, "1")
        return lambda: found

    base = importlib.import_module("openai._base_client")
    claude_base = importlib.import_module("anthropic._base_client")
    gate = GoogleDoor(google_format, tracer("spanledger.google_genai"))
    doors = [
        StainlessDoor(base, openai_format, tracer("spanledger.openai"), frozenset()),
        StainlessDoor(claude_base, anthropic_format, tracer("spanledger.anthropic"), frozenset()),
    ]
    api_client = importlib.import_module("google.genai._api_client")

    def on() -> None:
        for door in doors:
            door.install()
        gate.install(api_client)

    def off() -> None:
        for door in (*doors, gate):
            door.remove()

    current = context.get_current()
    for key in ("user.id", "spanledger.feature", "spanledger.request.id"):
        current = baggage.set_baggage(key, "value-of-some-length", current)
    context.attach(current)

    by_hand = TracerProvider(shutdown_on_exit=False).get_tracer("by hand")

    def span() -> None:
        with by_hand.start_as_current_span("chat gpt-4.1-mini", kind=SpanKind.CLIENT) as found:
            for number in range(12):
                found.set_attribute(f"gen_ai.attribute.number.{number}", number if number % 2 else "a value")

    yardstick = statistics.median(cpu(span, 500) for _ in range(BLOCKS))
    print(f"a span made by hand, 12 attributes      {yardstick:8.1f} us")
    calls = {
        "openai chat.completions.create": lambda: gpt.chat.completions.create(model="gpt-4.1-mini", messages=messages),
        "anthropic messages.create": lambda: claude.messages.create(**asked),
        "google generate_content": lambda: gemini.models.generate_content(model="gemini-3.5-flash", contents=TEXT),
    }
    for name, call in calls.items():
        call()
        bare, added = paired(call, CALLS, on, off)
        print(f"{name:<38}  {bare:8.1f} us bare, + {added:6.1f} us  = {added / yardstick:4.2f} x the span")
    asked_stream = {"model": "gpt-4.1-mini", "messages": messages, "stream": True}
    streams = {
        "openai stream, usage asked by caller": lambda: list(
            gpt.chat.completions.create(**asked_stream, stream_options={"include_usage": True})
        ),
        "openai stream, usage injected, hidden": lambda: list(gpt.chat.completions.create(**asked_stream)),
        "anthropic stream": lambda: list(claude.messages.create(**asked, stream=True)),
        "google stream": lambda: list(gemini.models.generate_content_stream(model="gemini-3.5-flash", contents=TEXT)),
    }
    for name, call in streams.items():
        call()
        bare, added = paired(call, STREAMS, on, off)
        print(f"{name:<38}  {bare / CHUNKS:8.1f} us bare a chunk, + {added / CHUNKS:5.2f} us a chunk")
    line = next(Path(directory.name).glob("*.jsonl")).open("rb").readline()
    appended = statistics.median(cpu(lambda: spool.append(line), 500) for _ in range(BLOCKS))
    print(f"one append to the spool ({len(line)} bytes)     {appended:8.1f} us")
    spool.close()
    directory.cleanup()


if __name__ == "__main__":
    sys.exit(main())
