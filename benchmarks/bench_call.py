"""What a call costs: everything Spanledger does on the calling thread, against the bare SDK, and beside other instrumentors.

    python benchmarks/bench_call.py [--no-peers] [--instructions [--write]]

Processes make the same calls over an in-process transport: one bare, one that makes a span with twelve attributes by hand around each
call, one that records, and one for each other instrumentor, in an environment of its own (.bench) with the SDK's same version. They
are asked turn by turn for a few calls each, so that a machine whose speed drifts drifts for all; each figure is the median, over the
turns, of the CPU time of the process. The span made by hand is the yardstick: it runs in the same place as ours, between the SDK's
own work, where caches are as cold. Bounds: 2.3 times that span, 5 us a chunk. Other instrumentors neither price a call nor keep it;
they end in a tracer whose spans nobody exports.

--instructions counts instructions instead of time (valgrind --tool=callgrind: the same on a busy machine) and compares them with
instructions.json beside this file, as tests/test_call_instructions.py does; --write renews that file.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import anthropic
import httpx2
import openai
from google import genai
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, Tracer

ROOT = Path(__file__).parent.parent
SDKS = ("openai", "anthropic", "google-genai")
DEADLINE_MS = 5
"""spanledger.bootstrap.DEFAULT_DEADLINE_MS"""

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
PEERS = {
    "official": (
        "opentelemetry-instrumentation-genai-openai", "opentelemetry-instrumentation-genai-anthropic",
    ),
    "openinference": (
        "openinference-instrumentation-openai", "openinference-instrumentation-anthropic", "openinference-instrumentation-google-genai",
    ),
    "langfuse": ("langfuse",),
}  # fmt: skip
"""Other instrumentors -> their packages."""


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


def record(directory: Path, deadline_ms: int) -> None:
    """Open the three doors, recording into a spool in `directory`; the calls belong to a user."""
    from spanledger.capture.processor import LedgerProcessor
    from spanledger.hooks.google import GooglePatches
    from spanledger.hooks.stainless import StainlessPatches
    from spanledger.pricing.price_table import prices
    from spanledger.providers import anthropic as anthropic_format
    from spanledger.providers import google as google_format
    from spanledger.providers import openai as openai_format
    from spanledger.spool.writer import Spool

    tracing = TracerProvider(shutdown_on_exit=False)
    tracing.add_span_processor(LedgerProcessor(Spool(directory, 1 << 34, deadline_ms=deadline_ms)))
    prices()
    formats = {"openai": openai_format, "anthropic": anthropic_format}
    for name, reader in formats.items():
        tracer = tracing.get_tracer(f"spanledger.{name}", "1")
        base = importlib.import_module(f"{name}._base_client")
        StainlessPatches(base, reader, lambda tracer=tracer: tracer, frozenset()).install()
    tracer = tracing.get_tracer("spanledger.google_genai", "1")
    gate = GooglePatches(google_format, lambda: tracer)
    gate.install(importlib.import_module("google.genai._api_client"))
    current = context.get_current()
    for key in ("user.id", "spanledger.feature", "spanledger.request.id"):
        current = baggage.set_baggage(key, "value-of-some-length", current)
    context.attach(current)


def instrument(peer: str) -> None:
    """Instrument the SDKs as a peer does by its entry points; langfuse's client replaces OpenAI's."""
    provider = TracerProvider(shutdown_on_exit=False)
    trace.set_tracer_provider(provider)
    if peer == "langfuse":
        os.environ.update(LANGFUSE_PUBLIC_KEY="pk", LANGFUSE_SECRET_KEY="sk", LANGFUSE_HOST="http://127.0.0.1:9")
        from langfuse import Langfuse

        Langfuse(tracer_provider=provider, span_exporter=Nowhere())
        importlib.import_module("langfuse.openai")
        return
    from importlib.metadata import entry_points

    names = tuple(package.replace("-", "_") for package in PEERS[peer])
    for point in entry_points(group="opentelemetry_instrumentor"):
        if point.dist is not None and point.dist.name.replace("-", "_") in names:
            point.load()().instrument(tracer_provider=provider)


class Nowhere:
    """An exporter that takes all and keeps nothing."""

    def export(self, spans):
        from opentelemetry.sdk.trace.export import SpanExportResult

        return SpanExportResult.SUCCESS

    def shutdown(self):
        pass

    def force_flush(self, timeout_millis=30000):
        return True


def functions(arm: str, directory: Path, deadline_ms: int = DEADLINE_MS) -> dict[str, Callable[[], object]]:
    """The calls as an arm makes them."""
    by_hand = TracerProvider(shutdown_on_exit=False).get_tracer("by hand")
    if arm == "recorded":
        record(directory, deadline_ms)
    elif arm in PEERS:
        instrument(arm)
    made = {name: wrapped(call, by_hand) if arm == "span" else call for name, (call, _) in calls().items()}
    return {**made, "a span by itself": wrapped(lambda: None, by_hand)}


def serve(arm: str) -> None:
    """One arm: reads "<call>\t<times>" a line, answers with the nanoseconds of CPU time of the process that the calls took."""
    with tempfile.TemporaryDirectory() as directory:
        made = functions(arm, Path(directory))
        for line in sys.stdin:
            name, times = line.rstrip("\n").split("\t")
            function = made[name]
            start = time.process_time_ns()
            for _ in range(int(times)):
                function()
            print(time.process_time_ns() - start, flush=True)


class Arm:
    """A process that is asked for calls."""

    def __init__(self, name: str, python: str = sys.executable) -> None:
        command = [python, __file__, "--arm", name]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, name: str, times: int) -> float:
        """Microseconds of CPU time for one of `times` calls."""
        self.process.stdin.write(f"{name}\t{times}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline()) / times / 1000

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def peers() -> list[Arm]:
    """The other instrumentors that can be installed here, each with the SDKs of this environment."""
    arms: list[Arm] = []
    for name, packages in PEERS.items():
        home = ROOT / ".bench" / f"call-{name}"
        pinned = [f"{sdk}=={version(sdk)}" for sdk in SDKS]
        uv = ROOT / ".tools/bin/uv"
        for command in (
            [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, home],
            [uv, "pip", "install", "--quiet", "--python", home, *pinned, "httpx2", "opentelemetry-sdk", *packages],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name}: cannot be installed here: {done.stderr.strip()[-200:]}")
                break
        else:
            arm = Arm(name, str(home / "bin/python"))
            try:
                arm("openai chat.completions.create", 2)
            except ValueError:
                print(f"{name}: does not run with these SDKs")
                continue
            arms.append(arm)
    return arms


BOUND, CHUNK_BOUND = 2.3, 5.0


def compare(with_peers: bool) -> None:
    arms = [Arm(name) for name in ARMS] + (peers() if with_peers else [])
    bare, *_ = arms
    bare("a span by itself", 500)
    alone = statistics.median(bare("a span by itself", 500) for _ in range(15))
    print(f"a span made by hand, 12 attributes, by itself  {alone:7.1f} us")
    print(
        f"{'added us':<40}{'bare':>9}" + "".join(f"{arm.name:>15}" for arm in arms[1:]) + "   recorded / span (bound)"
    )
    for name, (_, chunks) in calls().items():
        times, turns = (1, STREAM_TURNS) if chunks else (CALLS, TURNS)
        for arm in arms:
            arm(name, 20 if not chunks else 2)
        taken = [[arm(name, times) for arm in arms] for _ in range(turns)]
        share = chunks or 1
        before = statistics.median(row[0] for row in taken) / share
        added = [statistics.median(row[place] - row[0] for row in taken) / share for place in range(1, len(arms))]
        if chunks:
            note = f"   {added[1]:.2f} us a chunk ({CHUNK_BOUND:g})"
        else:
            ratio = statistics.median((row[2] - row[0]) / (row[1] - row[0]) for row in taken if row[1] > row[0])
            note = f"   {ratio:.2f} ({BOUND:g})"
        print(f"{name:<40}{before:>9.1f}" + "".join(f"{figure:>15.1f}" for figure in added) + note)
    for arm in arms:
        arm.close()


# --- instructions ------------------------------------------------------------------------------------------------------

COUNTED = Path(__file__).parent / "instructions.json"
COUNTED_CALLS = 20


COUNTED_IN_TESTS = (
    "openai chat.completions.create", "anthropic messages.create", "google generate_content", "openai stream, usage injected, hidden",
)  # fmt: skip


def count(arm: str, names: list[str]) -> None:
    """Within valgrind: make each call some times, and dump what was counted after each."""
    with tempfile.TemporaryDirectory() as directory:
        made = functions(arm, Path(directory), 0)  # no thread, whose turns depend on the clock
        gc.disable()
        for name in names:
            times = 1 if "stream" in name else COUNTED_CALLS
            for _ in range(times + times // 2):
                made[name]()
            _control("-i", "on")
            for _ in range(times):
                made[name]()
            _control("-i", "off")
            _control("-d", name.replace(" ", "_"))


def _control(*words: str) -> None:
    subprocess.run(["callgrind_control", *words, str(os.getpid())], check=True, stdout=subprocess.DEVNULL)


def instructions(
    valgrind: str = "valgrind", arms: tuple[str, ...] = ARMS, names: tuple[str, ...] = ()
) -> dict[str, dict[str, float]]:
    """Call -> instructions of one call (of one chunk of a stream), bare, and added by the span by hand and by the recording."""
    counted: dict[str, dict[str, float]] = {}
    chosen = names or tuple(calls())
    chunks_of = {name: chunks for name, (_, chunks) in calls().items()}
    for arm in arms:
        with tempfile.TemporaryDirectory() as directory:
            command = [valgrind, "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={directory}/out"]
            environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(Path(__file__).parent)}
            subprocess.run(
                [*command, sys.executable, __file__, "--count", arm, *chosen],
                env=environment,
                check=True,
                capture_output=True,
            )
            for number, name in enumerate(chosen, 1):
                chunks = chunks_of[name]
                dump = Path(directory, f"out.{number}").read_text()
                total = int(re.search(r"^totals: (\d+)", dump, re.MULTILINE)[1])
                times = chunks or COUNTED_CALLS
                counted.setdefault(name, {})[arm] = total / times
    return {
        name: {arm: figure - (each["bare"] if arm != "bare" else 0) for arm, figure in each.items()}
        for name, each in counted.items()
    }


def show_instructions(write: bool) -> None:
    known = json.loads(COUNTED.read_text()) if COUNTED.exists() else {}
    counted = instructions()
    print(f"{'instructions':<40}{'bare':>12}{'+ span':>12}{'+ recorded':>12}{'ratio':>8}{'committed':>11}")
    for name, each in counted.items():
        before = known.get(name)
        print(
            f"{name:<40}{each['bare']:>12,.0f}{each['span']:>12,.0f}{each['recorded']:>12,.0f}{each['recorded'] / each['span']:>8.2f}"
            f"{before['recorded'] if before else 0:>11,.0f}"
        )
    if write:
        COUNTED.write_text(
            json.dumps({name: {k: round(v) for k, v in each.items()} for name, each in counted.items()}, indent=2)
            + "\n"
        )


def append(writer: str, deadline: int) -> None:
    """CPU of the process and time to return for one row, a millisecond after the one before."""
    from spanledger.spool.writer import Spool

    with tempfile.TemporaryDirectory() as directory:
        spool = Spool(Path(directory), 1 << 34, deadline_ms=deadline)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--no-peers", action="store_true", help="without the other instrumentors, which are installed in .bench"
    )
    parser.add_argument("--instructions", action="store_true", help="count instructions instead of time")
    parser.add_argument("--write", action="store_true", help="with --instructions: renew instructions.json")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--count", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.arm:
        serve(asked.arm)
    elif asked.count:
        count(asked.count[0], asked.count[1:])
    elif asked.instructions:
        show_instructions(asked.write)
    else:
        compare(not asked.no_peers)
        for name, deadline in (("the caller", 0), ("the spool's thread", DEADLINE_MS)):
            append(name, deadline)


if __name__ == "__main__":
    main()
