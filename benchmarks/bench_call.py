"""What a call costs: everything Spanledger does on the calling thread, against the bare SDK.

Three processes make the same calls over an in-process transport: one bare, one that makes a span with twelve
attributes by hand around each call, one that records. They are asked turn by turn for a few calls each, so
that a machine whose speed drifts drifts for all three; each figure is the median, over the turns, of the CPU
time of the calling thread. The span made by hand is the yardstick: it runs in the same place as ours, between
the SDK's own work, where caches are as cold. The figure "by itself" is that span in a loop of its own.
"""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
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
from opentelemetry.trace import SpanKind, Tracer

from spanledger import bootstrap
from spanledger.capture.processor import LedgerProcessor
from spanledger.hooks.google import GooglePatches
from spanledger.hooks.stainless import StainlessPatches
from spanledger.pricing.price_table import prices
from spanledger.providers import anthropic as anthropic_format
from spanledger.providers import google as google_format
from spanledger.providers import openai as openai_format
from spanledger.spool.writer import Spool

CALLS, TURNS, STREAM_TURNS, CHUNKS = 10, 150, 25, 400

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


ARMS = ("bare", "span", "recorded")


def wrapped(call: Callable[[], object], tracer: Tracer) -> Callable[[], object]:
    """`call` within a span made by hand."""

    def spanned() -> object:
        with tracer.start_as_current_span("chat gpt-4.1-mini", kind=SpanKind.CLIENT) as found:
            answer = call()
            for number in range(12):
                found.set_attribute(f"gen_ai.attribute.number.{number}", number if number % 2 else "a value")
            return answer

    return spanned


def calls() -> dict[str, tuple[Callable[[], object], int]]:
    """Name -> (a call, how many chunks it answers with; 0 where it is no stream)."""
    client = httpx2.Client(transport=httpx2.MockTransport(transport))
    gpt = openai.OpenAI(api_key="k", http_client=client)
    claude = anthropic.Anthropic(api_key="k", http_client=client, open_telemetry=False)
    gemini = genai.Client(api_key="k", http_options={"httpx_client": client})
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXT}]
    asked = {"model": "claude-sonnet-4-6", "max_tokens": 100, "messages": messages[1:]}
    stream = {"model": "gpt-4.1-mini", "messages": messages, "stream": True}
    with_usage = {**stream, "stream_options": {"include_usage": True}}
    google = {"model": "gemini-3.5-flash", "contents": TEXT}
    return {
        "openai chat.completions.create": (lambda: gpt.chat.completions.create(**{**stream, "stream": False}), 0),
        "anthropic messages.create": (lambda: claude.messages.create(**asked), 0),
        "google generate_content": (lambda: gemini.models.generate_content(**google), 0),
        "openai stream, usage asked by caller": (lambda: list(gpt.chat.completions.create(**with_usage)), CHUNKS),
        "openai stream, usage injected, hidden": (lambda: list(gpt.chat.completions.create(**stream)), CHUNKS),
        "anthropic stream": (lambda: list(claude.messages.create(**asked, stream=True)), CHUNKS),
        "google stream": (lambda: list(gemini.models.generate_content_stream(**google)), CHUNKS),
    }


def record(spool: Spool) -> None:
    """Open the three doors, recording into `spool`."""
    tracing = TracerProvider(shutdown_on_exit=False)
    tracing.add_span_processor(LedgerProcessor(spool))
    prices()
    formats = {"openai": openai_format, "anthropic": anthropic_format}
    for name, reader in formats.items():
        tracer = tracing.get_tracer(f"spanledger.{name}", "1")
        base = importlib.import_module(f"{name}._base_client")
        StainlessPatches(base, reader, lambda tracer=tracer: tracer, frozenset()).install()
    tracer = tracing.get_tracer("spanledger.google_genai", "1")
    gate = GooglePatches(google_format, lambda: tracer)
    gate.install(importlib.import_module("google.genai._api_client"))


def serve(arm: str) -> None:
    """One arm: reads "<call>\t<times>" a line, answers with the nanoseconds of CPU time of the process that the calls took."""
    by_hand = TracerProvider(shutdown_on_exit=False).get_tracer("by hand")
    found = calls()
    with tempfile.TemporaryDirectory() as directory:
        if arm == "recorded":
            record(Spool(Path(directory), 1 << 34, deadline_ms=bootstrap.DEFAULT_DEADLINE_MS))
            current = context.get_current()
            for key in ("user.id", "spanledger.feature", "spanledger.request.id"):
                current = baggage.set_baggage(key, "value-of-some-length", current)
            context.attach(current)
        functions = {name: wrapped(call, by_hand) if arm == "span" else call for name, (call, _) in found.items()}
        functions["a span by itself"] = wrapped(lambda: None, by_hand)
        for line in sys.stdin:
            name, times = line.rstrip("\n").split("\t")
            function = functions[name]
            start = time.process_time_ns()
            for _ in range(int(times)):
                function()
            print(time.process_time_ns() - start, flush=True)


class Arm:
    """A process that is asked for calls."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, __file__, name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, name: str, times: int) -> float:
        """Microseconds of CPU time for one of `times` calls."""
        self.process.stdin.write(f"{name}\t{times}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline()) / times / 1000


def main() -> None:
    arms = [Arm(name) for name in ARMS]
    bare, *_ = arms
    bare("a span by itself", 500)
    alone = statistics.median(bare("a span by itself", 500) for _ in range(15))
    print(f"a span made by hand, 12 attributes, by itself  {alone:7.1f} us")
    for name, (_, chunks) in calls().items():
        times, turns = (1, STREAM_TURNS) if chunks else (CALLS, TURNS)
        for arm in arms:
            arm(name, 20 if not chunks else 2)
        taken = [[arm(name, times) for arm in arms] for _ in range(turns)]
        before, by_hand, ours = (
            statistics.median(values)
            for values in zip(*((row[0], row[1] - row[0], row[2] - row[0]) for row in taken), strict=True)
        )
        if chunks:
            print(f"{name:<38}  {before / chunks:7.1f} us bare a chunk, + {ours / chunks:5.2f} us a chunk")
        else:
            ratio = statistics.median((row[2] - row[0]) / (row[1] - row[0]) for row in taken if row[1] > row[0])
            print(
                f"{name:<38}  {before:7.1f} us bare, + {by_hand:5.1f} us a span by hand, + {ours:5.1f} us recorded"
                f" = {ratio:4.2f} x the span"
            )
    for arm in arms:
        arm.process.stdin.close()
        arm.process.wait()
    for name, deadline in (("the caller", 0), ("the spool's thread", bootstrap.DEFAULT_DEADLINE_MS)):
        with tempfile.TemporaryDirectory() as directory:
            append(name, Spool(Path(directory), 1 << 34, deadline_ms=deadline))


def append(writer: str, spool: Spool) -> None:
    """CPU of the process and time to return for one row, a millisecond after the one before."""
    line, times, cpu = b"x" * 3000 + b"\n", [], []
    for _ in range(7):
        begun = time.process_time_ns()
        for _ in range(300):
            time.sleep(0.001)
            start = time.perf_counter_ns()
            spool.append(line)
            times.append(time.perf_counter_ns() - start)
        cpu.append((time.process_time_ns() - begun) / 300 / 1000)
    name = f"one append (3,000 bytes) by {writer}"
    print(
        f"{name:<44}{statistics.median(cpu):7.1f} us of CPU with the pause, {statistics.median(times) / 1000:7.1f} us to return"
    )
    spool.close()


if __name__ == "__main__":
    serve(sys.argv[1]) if len(sys.argv) > 1 else main()
