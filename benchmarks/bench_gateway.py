"""`spanledger gateway`: spans a second for each core, time to answer, memory; beside other receivers that only take.

    python benchmarks/bench_gateway.py [--spans 100000] [--batch 1000]

The gateway decodes, prices what has no price, and commits to ClickHouse before it answers: to a server (chDB behind its HTTP
interface, in another process, whose CPU is not the gateway's), or to the embedded engine in its own process. Bounds: 15,000 spans a
second of CPU that come with their price, 8,000 that it prices; p99 below 250 ms at half load; 300 MB without the embedded engine.
Beside it, in the same run: the Collector of `make collector` with an exporter that throws away, and rotel (PyPI) with
its blackhole, where they can be had. Those say how fast OTLP can be taken at all; what each does is not the same.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "examples")]
CLIENTS = 4
TICKS = os.sysconf("SC_CLK_TCK")


def batches(spans: int, batch: int, *, priced: bool) -> list[bytes]:
    """Requests in protobuf; `priced`: spans of ours with their cost, else another instrumentor's without."""
    found: list[bytes] = []
    now = time.time_ns()
    for begin in range(0, spans, batch):
        request: Any = ExportTraceServiceRequest()
        scope = request.resource_spans.add().scope_spans.add()
        scope.scope.name = "spanledger.openai" if priced else "opentelemetry.util.genai.handler"
        for number in range(begin, begin + batch):
            span = scope.spans.add()
            span.trace_id, span.span_id = number.to_bytes(16, "big"), (number + 1).to_bytes(8, "big")
            span.name, span.start_time_unix_nano, span.end_time_unix_nano = "chat gpt-4.1-mini", now, now + 10**9
            values: dict[str, str | int] = {
                "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4.1-mini",
                "gen_ai.response.model": "gpt-4.1-mini", "gen_ai.response.id": f"resp-{number}-{priced}", "gen_ai.usage.input_tokens": 1000 + number % 100,
                "gen_ai.usage.output_tokens": 50, "user.id": f"user-{number % 1000}", "spanledger.feature": "chat", "spanledger.request.id": f"req-{number // 3}",
                "server.address": "api.openai.com",
            }  # fmt: skip
            if priced:
                values |= {
                    "spanledger.cost.total_picousd": 480_000_000, "spanledger.cost.input_picousd": 400_000_000, "spanledger.cost.output_picousd": 80_000_000,
                    "spanledger.price.status": "priced", "spanledger.price.key": "gpt-4.1-mini", "spanledger.process.id": "p", "spanledger.sequence": number,
                    "spanledger.outcome": "ok", "spanledger.attempts": 1, "spanledger.usage.source": "exact",
                }  # fmt: skip
            for key, value in values.items():
                pair = span.attributes.add()
                pair.key = key
                if isinstance(value, int):
                    pair.value.int_value = value
                else:
                    pair.value.string_value = value
        found.append(request.SerializeToString())
    return found


def used(pid: int) -> float:
    """Seconds of CPU that a process and its threads have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid: int) -> float:
    """The most memory it has had, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    for _ in range(600):
        if process.poll() is not None:
            return False
        try:
            if httpx.post(url, content=b"", headers={"Content-Type": "application/x-protobuf"}).status_code == 200:
                return True
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    return False


def measured(name: str, command: list[Any], env: dict[str, str], url: str, requests: list[bytes], batch: int) -> None:
    process = subprocess.Popen(
        [str(part) for part in command], env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        if not ready(url, process):
            print(f"{name:<44} did not start")
            return
        times: list[float] = []
        refused = 0
        left = iter(requests)
        lock = threading.Lock()

        def send() -> None:
            nonlocal refused
            with httpx.Client(timeout=120) as client:
                while True:
                    with lock:
                        content = next(left, None)
                    if content is None:
                        return
                    start = time.perf_counter()
                    status = client.post(
                        url, content=content, headers={"Content-Type": "application/x-protobuf"}
                    ).status_code
                    times.append(time.perf_counter() - start)
                    refused += status != 200

        cpu, start = used(process.pid), time.perf_counter()
        threads = [threading.Thread(target=send) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken, cpu = time.perf_counter() - start, used(process.pid) - cpu
        spans = len(requests) * batch
        times.sort()
        print(
            f"{name:<44}{spans / taken:>12,.0f}{spans / max(cpu, 0.01):>16,.0f}{times[len(times) // 2] * 1000:>12,.0f}"
            f"{times[int(len(times) * 0.99)] * 1000:>12,.0f}{resident(process.pid):>10,.0f}"
            + (f"   {refused} refused" if refused else "")
        )
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


ATTACK_SECONDS = 8.0
TOKENS = {"a sender": "good-token-0123456789", "another": "evil-token-0123456789"}


def attacks() -> dict[str, Callable[[threading.Event], Any]]:
    """What another tenant sends: a body, or parts of one that has no end."""
    from foreign_spans import body, field, foreign, in_a_span

    month, now = 30 * 86400 * 10**9, time.time_ns()

    def slowly(stopped: threading.Event) -> Iterator[bytes]:
        while not stopped.wait(0.05):
            yield b" " * 10_000

    bomb = in_a_span(field(9, b"") * 500_000)
    old = body(*(foreign(span_id=f"{n:016x}", start=max(0, now - n * month)) for n in range(1, 151)))
    values = b'{"resourceSpans":[' + b"{}," * 500_000 + b"{}]}"
    return {
        "150 months of spans": lambda _: old,
        "half a million empty attributes": lambda _: bomb,
        "half a million JSON values": lambda _: values,
        "bodies without end": slowly,
    }


@contextlib.contextmanager
def server(directory: str) -> Iterator[str]:
    """The DSN of a ClickHouse in a process of its own: chDB behind its HTTP interface."""
    front = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/clickhouse_front.py"), f"{directory}/server"], stdout=subprocess.PIPE
    )
    try:
        assert front.stdout is not None
        yield f"clickhouse://default@127.0.0.1:{int(front.stdout.readline().split()[-1])}/spanledger"
    finally:
        front.kill()
        front.wait()


HALF_LOAD_SECONDS = 10.0


def at_half_load(directory: str, dsn: str, requests: list[bytes], batch: int) -> None:
    """Time to answer while requests come at half of the rate that one sender reached with requests of this size."""
    from spanledger_clickhouse.demo.run import free_port

    port = free_port()
    url, headers = f"http://127.0.0.1:{port}/v1/traces", {"Content-Type": "application/x-protobuf"}
    command = [str(Path(sys.executable).with_name("spanledger")), "gateway", "--port", str(port), "--no-rollups"]
    env = {**os.environ, "SPANLEDGER_DSN": dsn, "XDG_STATE_HOME": directory}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert ready(url, process)
        with httpx.Client(timeout=60, headers=headers) as client:
            start = time.perf_counter()
            for content in requests[:10]:
                client.post(url, content=content)
            pause = 2 * (time.perf_counter() - start) / 10
            times: list[float] = []
            end, due = time.perf_counter() + HALF_LOAD_SECONDS, time.perf_counter()
            number = 0
            while time.perf_counter() < end:
                time.sleep(max(0.0, due - time.perf_counter()))
                start = time.perf_counter()
                assert client.post(url, content=requests[number % len(requests)]).status_code == 200
                times.append(time.perf_counter() - start)
                due, number = due + pause, number + 1
        times.sort()
        print(
            f"{batch / pause:>56,.0f} spans/s{times[len(times) // 2] * 1000:>8,.0f}{times[int(len(times) * 0.99)] * 1000:>12,.0f}"
            f"{resident(process.pid):>10,.0f}   (bounds: p99 250 ms, 300 MB)"
        )
    finally:
        process.kill()
        process.wait()


def beside_others(directory: str, requests: list[bytes]) -> None:
    """Time to answer of one sender's requests of 50 spans, ten a second, alone and while another tenant attacks."""
    from spanledger_clickhouse.demo.run import free_port

    port = free_port()
    url = f"http://127.0.0.1:{port}/v1/traces"
    tokens = f"good={TOKENS['a sender']},evil={TOKENS['another']}"
    env = {
        "SPANLEDGER_DSN": f"chdb://{directory}/{port}",
        "XDG_STATE_HOME": directory,
        "SPANLEDGER_GATEWAY_TOKENS": tokens,
    }
    command = [str(Path(sys.executable).with_name("spanledger")), "gateway", "--port", str(port), "--no-rollups"]
    process = subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    headers = {"Content-Type": "application/x-protobuf", "Authorization": f"Bearer {TOKENS['a sender']}"}
    try:
        for _ in range(300):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.post(url, content=b"", headers=headers).status_code == 200:
                    break
            time.sleep(0.1)
        left = iter(requests)
        print(f"\n{'a sender of 50 spans, ten times a second, beside':<56}{'median ms':>12}{'p99 ms':>12}{'MB':>10}")
        for name, attack in {"nobody": None, **attacks()}.items():
            stopped = threading.Event()
            threads = [threading.Thread(target=_attack, args=(url, attack, stopped)) for _ in range(4 if attack else 0)]
            for thread in threads:
                thread.start()
            times: list[float] = []
            end = time.monotonic() + ATTACK_SECONDS
            with httpx.Client(timeout=60) as client:
                while time.monotonic() < end:
                    start = time.perf_counter()
                    assert client.post(url, content=next(left), headers=headers).status_code == 200
                    times.append(time.perf_counter() - start)
                    time.sleep(0.1)
            stopped.set()
            for thread in threads:
                thread.join()
            times.sort()
            print(
                f"{name:<56}{times[len(times) // 2] * 1000:>12,.0f}{times[int(len(times) * 0.99)] * 1000:>12,.0f}"
                f"{resident(process.pid):>10,.0f}"
            )
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _attack(url: str, content: Callable[[threading.Event], Any], stopped: threading.Event) -> None:
    import gzip

    authorization = {"Authorization": f"Bearer {TOKENS['another']}"}
    while not stopped.is_set():
        body = content(stopped)
        headers = {"Content-Type": "application/json", **authorization}
        if isinstance(body, bytes):
            headers["Content-Encoding"] = "gzip"
            headers["Content-Type"] = "application/json" if body.startswith(b"{") else "application/x-protobuf"
            body = gzip.compress(body, 1)
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(url, content=body, headers=headers, timeout=30)
        stopped.wait(0.05)


def rotel() -> Path | None:
    """The agent of the rotel package, in an environment of its own (.bench)."""
    home = ROOT / ".bench/rotel"
    if not home.exists():
        subprocess.run([ROOT / ".tools/bin/uv", "pip", "install", "--quiet", "--target", home, "rotel"], check=False)
    return next(home.rglob("rotel-agent"), None)


def main() -> None:
    from spanledger_clickhouse.demo.run import free_port

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spans", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=1000)
    asked = parser.parse_args()
    ours = batches(asked.spans, asked.batch, priced=True)
    theirs = batches(asked.spans, asked.batch, priced=False)
    print(
        f"{asked.spans:,} spans in requests of {asked.batch:,} ({len(ours[0]) / asked.batch:,.0f} bytes a span), {CLIENTS} clients on the same cores"
    )
    print(f"{'':<44}{'spans/s':>12}{'spans/s of CPU':>16}{'median ms':>12}{'p99 ms':>12}{'MB':>10}")
    with tempfile.TemporaryDirectory() as directory:
        with server(directory) as dsn:
            for name, requests in (("spans with their price", ours), ("spans that it prices", theirs)):
                for ledger, where in (("server", dsn), ("embedded", f"chdb://{directory}/{free_port()}")):
                    port = free_port()
                    command = [Path(sys.executable).with_name("spanledger"), "gateway", "--port", port, "--no-rollups"]
                    env, url = (
                        {"SPANLEDGER_DSN": where, "XDG_STATE_HOME": directory},
                        f"http://127.0.0.1:{port}/v1/traces",
                    )
                    measured(f"gateway, {ledger}, {name}", command, env, url, requests, asked.batch)
            print("\nat half of the rate that one sender reaches:")
            at_half_load(directory, dsn, ours, asked.batch)
        beside_others(directory, batches(50_000, 50, priced=True))
        print()
        binary = ROOT / ".collector/otelcol-spanledger"
        if binary.exists():
            port = free_port()
            configuration = Path(directory, "nop.yaml")
            configuration.write_text(
                f"receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}\n"
                "exporters: {nop: {}}\n"
                "service: {telemetry: {metrics: {level: none}}, pipelines: {traces: {receivers: [otlp], exporters: [nop]}}}\n"
            )  # fmt: skip
            measured(
                "the Collector, throwing away",
                [binary, "--config", configuration],
                {},
                f"http://127.0.0.1:{port}/v1/traces",
                ours,
                asked.batch,
            )
        else:
            print("the Collector: run `make collector` first")
        agent = rotel()
        if agent is not None:
            port, grpc = free_port(), free_port()
            command = [agent, "start", "--otlp-http-endpoint", f"127.0.0.1:{port}", "--otlp-grpc-endpoint", f"127.0.0.1:{grpc}", "--exporter", "blackhole",
                       "--pid-file", f"{directory}/rotel.pid", "--log-file", f"{directory}/rotel.log"]  # fmt: skip
            measured("rotel, throwing away", command, {}, f"http://127.0.0.1:{port}/v1/traces", ours, asked.batch)
        else:
            print("rotel: pip could not get it")


if __name__ == "__main__":
    main()
