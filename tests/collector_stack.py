"""The real Collector and a gateway over a ClickHouse front, on ports of their own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from empty_ledger import empty_ledger
from programs import BIN, Program, Programs, until
from spanledger_clickhouse.database.connection import open_client, resolve_target
from spanledger_clickhouse.demo import run as demo

ROOT = Path(__file__).parent.parent
CONFIGURATIONS = ROOT / "collector-config"
TOKEN, OTHER_TOKEN = "0123456789abcdef", "fedcba9876543210"


def collector_binary() -> Path:
    """The Collector that `make collector` builds; built if it is not there."""
    binary = ROOT / ".collector/otelcol-spanledger"
    if not binary.exists():
        subprocess.run(["make", "collector"], cwd=ROOT, check=True)
    return binary


class Stack:
    """A Collector and a gateway over a ClickHouse front, on ports of their own."""

    def __init__(self, programs: Programs, collector: Path, directory: Path, *front_options: object) -> None:
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
        self.clickhouse = programs(*front, "--port", self.ports["clickhouse"], *front_options)
        self.gateway = programs(
            BIN / "spanledger", "gateway", "--port", self.ports["gateway"],
            SPANLEDGER_DSN=self.dsn, SPANLEDGER_GATEWAY_TOKENS=f"*={TOKEN},other={OTHER_TOKEN}", SPANLEDGER_SPOOL_DIR=str(directory / "dead"),
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
