"""What recording a batch's results costs the download: time, the longest stall of an event loop, memory, the spool.

Each run is a process of its own: one asynchronous download from a local server, with and without Spanledger. A line is
1 kB.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MANY = 1_000_000
CASES = ((10_000, "whole"), (10_000, "pieces"), (100_000, "whole"), (100_000, "pieces"), (MANY, "pieces"))
"""Lines; read as one body (`files.content`), or in pieces of 64 KiB that are thrown away."""
RUNS = 3
"""Of which the fastest counts, but for the largest size."""

CHILD = """
import asyncio, json, sys, time
import openai
url, ours, lines, whole = sys.argv[1], sys.argv[2] == "with", int(sys.argv[3]), sys.argv[4] == "whole"
if ours:
    from spanledger.bootstrap import pre_instrument
    from spanledger.instrumentors import HTTPInstrumentor, OpenAIInstrumentor
    pre_instrument()
    OpenAIInstrumentor().instrument(skip_dep_check=True)
    HTTPInstrumentor().instrument(skip_dep_check=True)
    time.sleep(1)

def memory():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024

async def main():
    stalls, over = [], False
    async def watch():
        while not over:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            stalls.append(time.perf_counter() - began)
    watching = asyncio.create_task(watch())
    before = memory()
    async with openai.AsyncOpenAI(api_key="k", base_url=url) as client:
        async with client.files.with_streaming_response.content("file-1000") as response:
            async for _ in response.iter_bytes(65536):  # the first call of a process imports, and starts threads
                pass
        await asyncio.sleep(0.3)
        stalls.clear()
        began = time.perf_counter()
        if whole:
            content = await client.files.content(f"file-{lines}")
        else:
            async with client.files.with_streaming_response.content(f"file-{lines}") as response:
                async for _ in response.iter_bytes(65536):
                    pass
        took = time.perf_counter() - began
    downloading = max(stalls, default=0)
    if ours:
        from spanledger.capture import result_files
        stalls.clear()
        while not result_files.wait(0):
            await asyncio.sleep(0.01)
    read = time.perf_counter() - began - took
    over = True
    await watching
    print(json.dumps({"took": took, "stall": downloading, "stall_after": max(stalls, default=0), "read": read,
                      "memory": memory() - before}))

asyncio.run(main())
"""


def line(number: int) -> bytes:
    usage = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}
    message = {"role": "assistant", "content": "word " * 120}
    body = {
        "id": f"chatcmpl-{number}", "object": "chat.completion", "created": 1_790_000_000, "model": "gpt-4.1-mini",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage,
    }  # fmt: skip
    answer = {"status_code": 200, "request_id": "r", "body": body}
    result = {"id": f"batch_req_{number:09}", "custom_id": f"c{number}", "response": answer, "error": None}
    return json.dumps(result).encode() + b"\n"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    blocks: tuple[bytes, ...] = ()

    def do_GET(self) -> None:
        lines = int(self.path.split("file-")[1].split("/")[0])
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(self.blocks[0]) * lines // 1000))
        self.end_headers()
        for number in range(lines // 1000):
            self.wfile.write(self.blocks[number])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing."""


def _run(url: str, way: str, lines: int, reading: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as state:
        env = {"XDG_STATE_HOME": state, "TMPDIR": state}
        command = [sys.executable, "-c", CHILD, url, way, str(lines), reading]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        spool = sum(file.stat().st_size for file in Path(state).rglob("*.jsonl"))
        return {**json.loads(done.stdout), "spool": spool / 1e6}


def main() -> None:
    first = b"".join(map(line, range(1000)))
    Handler.blocks = tuple(first.replace(b"batch_req_000000", b"batch_req_%06d" % thousand) for thousand in range(1000))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    print(
        f"{'lines':>9} {'read as':8} {'':8} {'download':>10} {'longest stall':>14} {'afterwards':>11} {'read in':>9} {'memory':>9} {'spool':>9}"
    )
    for lines, reading in CASES:
        took: dict[str, float] = {}
        for way in ("without", "with"):
            runs = [_run(url, way, lines, reading) for _ in range(RUNS if lines < MANY else 1)]
            run = min(runs, key=lambda each: each["took"])
            took[way] = run["took"]
            print(
                f"{lines:>9,} {reading:8} {way:8} {run['took']:>8.3f} s {run['stall'] * 1000:>11.1f} ms"
                f" {run['stall_after'] * 1000:>8.1f} ms {run['read']:>7.1f} s {run['memory']:>6.0f} MB {run['spool']:>6.1f} MB"
            )
        print(f"{'':>18} added    {(took['with'] / took['without'] - 1) * 100:>+8.1f} %")
    server.shutdown()


if __name__ == "__main__":
    main()
