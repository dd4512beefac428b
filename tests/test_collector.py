"""The Collector's configurations, with the real Collector: each is valid, and together they lose and double nothing.

The binary is built by `make collector` from collector-config/builder-config.yaml.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import demo
import httpx
import pytest
from loopback_provider import Provider

from conftest import ROOT
from empty_ledger import empty_ledger
from foreign_spans import body, foreign
from programs import APPLICATION, BIN, Program, Programs, until
from spanledger_clickhouse.database.connection import open_client, resolve_target
from spanledger_clickhouse.rows import otlp
from spanledger_clickhouse.ship import shipper

pytestmark = pytest.mark.services

CONFIGURATIONS = ROOT / "collector-config"
TOKEN = "0123456789abcdef"
SECONDS = float(os.environ.get("SPANLEDGER_FAULT_SECONDS", "12"))


@pytest.fixture(scope="session")
def collector() -> Path:
    binary = ROOT / ".collector/otelcol-spanledger"
    if not binary.exists():
        subprocess.run(["make", "collector"], cwd=ROOT, check=True)
    return binary


def configurations() -> list[Path]:
    return sorted(path for path in CONFIGURATIONS.glob("*.yaml") if path.name != "builder-config.yaml")


@pytest.mark.parametrize("file", configurations(), ids=lambda path: path.stem)
def test_the_collector_accepts_the_configuration(collector: Path, file: Path, tmp_path: Path):
    environment = {**os.environ, "SPANLEDGER_QUEUE_DIR": str(tmp_path)}
    done = subprocess.run(
        [collector, "validate", "--config", file], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    broken = tmp_path / "broken.yaml"
    broken.write_text(file.read_text().replace("sending_queue:", "sending_cue:"))
    done = subprocess.run(
        [collector, "validate", "--config", broken], env=environment, capture_output=True, check=False
    )
    assert done.returncode != 0, "validating finds nothing"


def test_it_is_built_of_exactly_what_the_configurations_use(collector: Path):
    built = set(
        re.findall(
            r"(receiver|processor|exporter|extension)/(?:storage/)?(\w+)",
            (CONFIGURATIONS / "builder-config.yaml").read_text(),
        )
    )
    used: set[tuple[str, str]] = set()
    names = {"otlp_json_file": "otlpjsonfile", "memory_limiter": "memorylimiter", "otlp_http": "otlphttp", "file_storage": "filestorage", "health_check": "healthcheck"}  # fmt: skip
    for file in configurations():
        kind = ""
        for line in file.read_text().splitlines():
            if section := re.match(r"(receiver|processor|exporter|extension)s:", line):
                kind = section[1]
            elif re.match(r"\w", line):
                kind = ""
            elif kind and (entry := re.match(r"  (\w+)", line)):
                used.add((kind, names.get(entry[1], entry[1])))
    used |= {("exporter", "otlp"), ("exporter", "nop")}  # inside loadbalancing; for the benchmark
    assert {(kind, name.removesuffix(kind)) for kind, name in built} == used


class Stack:
    """A Collector and a gateway over a ClickHouse front, on ports of their own."""

    def __init__(self, programs: Programs, collector: Path, directory: Path) -> None:
        self.programs, self.directory = programs, directory
        self.ports = {
            name: str(demo.free_port()) for name in ("clickhouse", "gateway", "grpc", "http", "health", "traces")
        }
        self.dsn = f"clickhouse://default:s3cret@127.0.0.1:{self.ports['clickhouse']}/llm"
        self.endpoint = f"http://127.0.0.1:{self.ports['http']}"
        self.env = {
            "SPANLEDGER_COLLECTOR_GRPC_PORT": self.ports["grpc"], "SPANLEDGER_COLLECTOR_HTTP_PORT": self.ports["http"],
            "SPANLEDGER_COLLECTOR_HEALTH_PORT": self.ports["health"], "SPANLEDGER_QUEUE_DIR": str(directory / "queue"),
            "SPANLEDGER_GATEWAY": f"http://127.0.0.1:{self.ports['gateway']}", "SPANLEDGER_GATEWAY_TOKEN": TOKEN,
            "TRACES_ENDPOINT": f"http://127.0.0.1:{self.ports['traces']}",
        }  # fmt: skip
        self.binary = collector
        empty_ledger(directory / "server", "llm")
        front = [sys.executable, Path(__file__).parent / "clickhouse_front.py", directory / "server"]
        self.clickhouse = programs(*front, "--port", self.ports["clickhouse"])
        self.gateway = programs(
            BIN / "spanledger", "gateway", "--port", self.ports["gateway"],
            SPANLEDGER_DSN=self.dsn, SPANLEDGER_GATEWAY_TOKENS=f"*={TOKEN}", SPANLEDGER_SPOOL_DIR=str(directory / "dead"),
        )  # fmt: skip
        until(lambda: answers(f"{self.env['SPANLEDGER_GATEWAY']}/readyz"), 60)

    def collect(self, configuration: str) -> Program:
        found = self.programs(self.binary, "--config", CONFIGURATIONS / configuration, **self.env)
        until(lambda: answers(f"http://127.0.0.1:{self.ports['health']}/"), 60)
        return found

    def ask(self, query: str) -> Any:
        with open_client(resolve_target(self.dsn)) as client:
            return client.query(query).result_rows


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def settled(count: Callable[[], int], wanted: int, seconds: float = 90) -> None:
    """Wait until a count is what it should be; no longer, and not for more."""
    end = time.monotonic() + seconds
    while count() < wanted and time.monotonic() < end:
        time.sleep(0.5)
    assert count() == wanted


@pytest.fixture
def stack(programs: Programs, collector: Path, tmp_path: Path) -> Stack:
    return Stack(programs, collector, tmp_path)


def test_kills_and_an_outage_on_the_way_lose_and_double_nothing(
    stack: Stack, provider: Provider, tmp_path: Path, capsys
):
    chance = random.Random(7)
    (tmp_path / "app.py").write_text(APPLICATION.replace("while True:", 'while not os.path.exists("stop"):'))
    middle = stack.collect("gateway.yaml")
    app = stack.programs(
        BIN / "opentelemetry-instrument", BIN / "python", "app.py", SPANLEDGER_OTLP_ENDPOINT=stack.endpoint
    )
    until(lambda: len(provider.sold) > 20)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(chance.uniform(0.3, 1.5))
        victim = chance.choice([middle, stack.gateway])
        victim.kill()
        time.sleep(chance.uniform(0.0, 0.5))
        victim.start()
    until(lambda: answers(f"http://127.0.0.1:{stack.ports['health']}/"), 60)
    before = len(provider.sold)
    stack.gateway.kill()  # the outage: connections are refused, calls go on, the Collector's queue takes them
    until(lambda: len(provider.sold) > before + 200, 60)
    stack.gateway.start()
    (tmp_path / "stop").touch()
    app.process.wait(30)

    sold = {each.id: each.picousd or 0 for each in provider.sold}
    settled(lambda: stack.ask("SELECT count() FROM llm.llm_calls FINAL")[0][0], len(sold))
    rows = dict(stack.ask("SELECT response_id, cost_usd FROM llm.llm_calls FINAL"))
    stored, sources = stack.ask("SELECT count(), groupUniqArray(source) FROM llm.llm_calls")[0]
    with capsys.disabled():
        print(  # noqa: T201 - what happened belongs in the output
            f"\n{middle.kills} kills of the Collector, {stack.gateway.kills} of the gateway; {len(sold)} calls sold, "
            f"{len(rows)} rows ({stored} stored)"
        )
    assert {key: int(cost.scaleb(12)) for key, cost in rows.items()} == sold
    assert sources == ["otlp"]
    assert middle.kills > 0 < stack.gateway.kills
    assert stack.ask("SELECT count() FROM llm.ledger_holes") == [(0,)]
    assert shipper.waiting_bytes(tmp_path / "spanledger/spool") == 0


def test_what_is_no_llm_call_stays_out_of_the_ledger_and_other_instrumentors_calls_get_in(stack: Stack):
    stack.collect("gateway.yaml")
    web = otlp.Span(
        "opentelemetry.instrumentation.fastapi",
        {},
        {"http.method": "GET"},
        "a" * 32,
        "5" * 16,
        "",
        "GET /",
        1,
        2,
        False,
    )
    now = time.time_ns()
    spans = [foreign(start=now), foreign("openlit.otel.tracing", "2" * 16, parent="1" * 16, start=now + 5), web]
    httpx.post(
        f"{stack.endpoint}/v1/traces", content=body(*spans), headers={"Content-Type": "application/json"}
    ).raise_for_status()
    settled(lambda: stack.ask("SELECT count() FROM llm.llm_calls")[0][0], 1)
    assert stack.ask("SELECT span_id, price_status FROM llm.llm_calls") == [("2" * 16, "priced")]
    told = httpx.get(f"{stack.env['SPANLEDGER_GATEWAY']}/metrics").text
    assert 'spanledger_gateway_spans_total{state="wrapper"} 1.0' in told
    assert 'spanledger_gateway_spans_total{state="not_a_call"} 1.0' in told


def test_the_spool_itself_can_be_read(stack: Stack, provider: Provider, tmp_path: Path):
    (tmp_path / "app.py").write_text(APPLICATION.replace("while True:", "while number < 5:"))
    app = stack.programs(BIN / "opentelemetry-instrument", BIN / "python", "app.py")
    app.process.wait(60)
    stack.programs(stack.binary, "--config", CONFIGURATIONS / "file.yaml", **stack.env,
                   SPANLEDGER_SPOOL_DIR=str(tmp_path / "spanledger/spool"))  # fmt: skip
    sold = {each.id: each.picousd for each in provider.sold}
    assert len(sold) == 20
    settled(lambda: stack.ask("SELECT count() FROM llm.llm_calls FINAL")[0][0], 20)
    rows = stack.ask("SELECT response_id, cost_usd FROM llm.llm_calls FINAL")
    assert {key: int(cost.scaleb(12)) for key, cost in rows} == sold


def test_an_agent_passes_spans_on_by_trace(stack: Stack):
    stack.collect("gateway.yaml")
    ports = {name: str(demo.free_port()) for name in ("GRPC", "HTTP", "HEALTH")}
    stack.programs(
        stack.binary, "--config", CONFIGURATIONS / "agent.yaml",
        **{f"SPANLEDGER_AGENT_{name}_PORT": port for name, port in ports.items()},
        SPANLEDGER_COLLECTORS_PORT=stack.ports["grpc"], SPANLEDGER_QUEUE_DIR=str(stack.directory / "agent"),
    )  # fmt: skip
    until(lambda: answers(f"http://127.0.0.1:{ports['HEALTH']}/"), 60)
    spans = [foreign(span_id=f"{n:016x}", start=time.time_ns())._replace(trace_id=f"{n:032x}") for n in range(1, 9)]
    httpx.post(
        f"http://127.0.0.1:{ports['HTTP']}/v1/traces",
        content=body(*spans),
        headers={"Content-Type": "application/json"},
    )
    settled(lambda: stack.ask("SELECT count() FROM llm.llm_calls FINAL")[0][0], 8)
    total = stack.ask("SELECT sum(cost_usd) FROM llm.llm_calls FINAL")[0][0]
    assert total == 8 * Decimal("0.00056")
