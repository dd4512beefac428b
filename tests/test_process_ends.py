"""However a process ends, what the provider answered is on disk, once, with the numbers of each process whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from canned import Canned
from programs import BIN, environment, until
from spanledger_clickhouse.demo import run as demo
from spanledger_clickhouse.demo.loopback_provider import Provider
from spanledger_clickhouse.rows.rows import COLUMNS, contents

pytestmark = pytest.mark.services

CALLS = """
import os, signal, sys, time
from openai import OpenAI


def call(times=2):
    client = OpenAI(max_retries=0)
    for number in range(times):
        client.embeddings.create(model="text-embedding-3-small", input=f"{os.getpid()} {number}")
"""


class Ledger:
    """What stands in a spool."""

    def __init__(self, state: Path) -> None:
        lines = [
            contents(line)
            for file in (state / "spanledger/spool").glob("*.jsonl")
            for line in file.read_bytes().splitlines()
        ]
        self.rows = [dict(zip(COLUMNS, row, strict=True)) for found in lines for row in found.rows]
        self.ended = {event[0]: event[5] for found in lines for event in found.events if event[1] == "end"}
        self.numbers: dict[str, list[int]] = defaultdict(list)
        for row in self.rows:
            self.numbers[row["process_id"]].append(row["sequence"])

    def is_whole(self, provider: Provider, processes: int) -> None:
        assert len(self.rows) == len(provider.sold)
        assert sum(row["cost_usd"] for row in self.rows).scaleb(12) == sum(sold.picousd or 0 for sold in provider.sold)
        assert len(self.numbers) == processes
        for process, numbers in self.numbers.items():
            assert sorted(numbers) == list(range(len(numbers)))
            assert self.ended.get(process, len(numbers)) == len(numbers)


def run(code: str, provider: Provider, state: Path, **more: str) -> int:
    file = state / "app.py"
    file.write_text(CALLS + code)
    done = subprocess.run(
        [BIN / "opentelemetry-instrument", BIN / "python", file], env=environment(provider, state, **more),
        cwd=state, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "spanledger failed" not in done.stderr.lower(), done.stderr
    return done.returncode


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        ("pass", 0, True),
        ("raise RuntimeError('the application fails')", 1, True),
        ("sys.exit(3)", 3, True),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(5)", -signal.SIGINT, True),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)", -signal.SIGTERM, False),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, False),
        ("os._exit(4)", 4, False),
    ],
)
def test_a_process_that_ends(end: str, code: int, told: bool, provider: Provider, tmp_path: Path):
    assert run(f"call()\n{end}\n", provider, tmp_path) == code
    ledger = Ledger(tmp_path)
    assert len(provider.sold) == 2
    ledger.is_whole(provider, 1)
    assert len(ledger.ended) == told


CHILDREN = {
    "fork": ("call()\nif os.fork() == 0:\n    call()\n    os._exit(0)\nos.wait()\ncall()", 2, 6),
    "multiprocessing fork": ("Process = get_context('fork').Process", 3, 8),
    "multiprocessing spawn": ("Process = get_context('spawn').Process", 3, 8),
    "pool": ("with ProcessPoolExecutor(2, get_context('fork')) as pool:\n        list(pool.map(call, [1] * 4))", None, 8),
    "pool of spawned": ("with ProcessPoolExecutor(2, get_context('spawn')) as pool:\n        list(pool.map(call, [1] * 4))", None, 8),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHILDREN)
def test_children_have_numbers_of_their_own(kind: str, provider: Provider, tmp_path: Path):
    code, processes, calls = CHILDREN[kind]
    if kind != "fork":
        begin = "from multiprocessing import get_context\nfrom concurrent.futures import ProcessPoolExecutor\n"
        run_children = f"    {code}\n"
        if code.startswith("Process"):
            run_children += (
                "    found = [Process(target=call) for _ in range(2)]\n"
                "    [child.start() for child in found]\n    [child.join() for child in found]\n"
            )
        code = f"{begin}if __name__ == '__main__':\n    call()\n{run_children}    call()\n"
    assert run(code, provider, tmp_path) == 0
    assert len(provider.sold) == calls
    ledger = Ledger(tmp_path)
    ledger.is_whole(provider, processes or len(ledger.numbers))
    assert 2 <= len(ledger.numbers) <= 3


# --- servers -----------------------------------------------------------------------------------------------------

WEB = {
    "asgi": """
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/call":
        call(1)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})
""",
    "wsgi": """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/call":
        call(1)
    start_response("200 OK", [])
    return [b"done"]
""",
}

SERVERS = {
    "uvicorn": ("asgi", ("uvicorn", "web:app", "--port", "{port}"), "term"),
    "uvicorn, interrupted": ("asgi", ("uvicorn", "web:app", "--port", "{port}"), "int"),
    "uvicorn with workers": ("asgi", ("uvicorn", "web:app", "--workers", "2", "--port", "{port}"), "term"),
    "gunicorn sync": ("wsgi", ("gunicorn", "-w", "2", "-b", "127.0.0.1:{port}", "web:app"), "term"),
    "gunicorn gthread": ("wsgi", ("gunicorn", "-w", "2", "-k", "gthread", "--threads", "4", "-b", "127.0.0.1:{port}", "web:app"), "term"),
    "gunicorn preloaded": ("wsgi", ("gunicorn", "-w", "2", "--preload", "-b", "127.0.0.1:{port}", "web:app"), "term"),
    "gunicorn, killed": ("wsgi", ("gunicorn", "-w", "2", "-b", "127.0.0.1:{port}", "web:app"), "kill"),
}  # fmt: skip


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_that_is_stopped(server: str, provider: Provider, tmp_path: Path):
    kind, command, end = SERVERS[server]
    (tmp_path / "web.py").write_text(CALLS + WEB[kind])
    port = demo.free_port()
    with program([part.format(port=port) for part in command], provider, tmp_path, end):
        url = f"http://127.0.0.1:{port}"
        answers(f"{url}/")
        with httpx.Client() as client:
            assert all(client.get(f"{url}/call", timeout=20).text == "done" for _ in range(8))
    assert len(provider.sold) == 8
    ledger = Ledger(tmp_path)
    ledger.is_whole(provider, len(ledger.numbers))
    if end != "kill" and not (server.startswith("uvicorn") and end == "term"):  # which ends by the signal itself
        assert ledger.ended.keys() >= ledger.numbers.keys()


def test_celery_workers_that_are_stopped(provider: Provider, tmp_path: Path):
    (tmp_path / "jobs.py").write_text(
        CALLS
        + """
from celery import Celery
app = Celery("jobs", broker="filesystem://")
app.conf.broker_transport_options = {f"data_folder_{way}": "queue" for way in ("in", "out")}

@app.task
def job():
    call(1)
"""
    )
    (tmp_path / "queue").mkdir()
    env = environment(provider, tmp_path)
    send = "import jobs; [jobs.job.delay() for _ in range(6)]"
    subprocess.run([BIN / "python", "-c", send], cwd=tmp_path, env=env, check=True, timeout=60)
    with program(["celery", "-A", "jobs", "worker", "-c", "2", "-P", "prefork"], provider, tmp_path, "term"):
        until(lambda: len(provider.sold) == 6)
        until(lambda: len(Ledger(tmp_path).rows) == 6)
    ledger = Ledger(tmp_path)
    ledger.is_whole(provider, len(ledger.numbers))


class program:  # noqa: N801 - reads as a statement
    """A program under opentelemetry-instrument, in a session of its own, ended as `end` says: to the process that
    was started for a polite end, to every one for a kill."""

    def __init__(self, command: list[str], provider: Provider, state: Path, end: str) -> None:
        self.end = end
        self.process = subprocess.Popen(
            [BIN / "opentelemetry-instrument", *command], cwd=state, env=environment(provider, state, PYTHONPATH="."),
            start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> None:
        """Nothing: it starts by itself."""

    def __exit__(self, *_: object) -> None:
        if self.end == "kill":
            os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.send_signal(signal.SIGINT if self.end == "int" else signal.SIGTERM)
        try:
            self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            raise


def answers(url: str) -> None:
    def asked() -> bool:
        try:
            return httpx.get(url, timeout=1).status_code == 200
        except httpx.TransportError:
            return False

    until(asked)


# --- a host that freezes processes between requests --------------------------------------------------------------


@pytest.fixture
def collector() -> Iterator[Canned]:
    server = Canned()
    server.answers["/v1/traces"] = {}
    yield server
    server.close()


def test_a_flush_ships_before_the_host_freezes_the_process(provider: Provider, tmp_path: Path, collector: Canned):
    code = """
from opentelemetry import trace
call()
flushed = trace.get_tracer_provider().force_flush(10_000)
print(flushed, flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""
    (tmp_path / "app.py").write_text(CALLS + code)
    env = environment(provider, tmp_path, SPANLEDGER_OTLP_ENDPOINT=collector.url)
    command = [BIN / "opentelemetry-instrument", BIN / "python", "app.py"]
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    shipped = sum(len(contents_of(body)) for _, _, body in collector.asked)
    process.kill()
    process.communicate()
    assert shipped == len(provider.sold) == 2


def contents_of(body: bytes) -> list[Any]:
    import gzip

    return contents(json.dumps(json.loads(gzip.decompress(body))).encode()).rows
