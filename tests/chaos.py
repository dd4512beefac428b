"""Faults over all topologies: what the provider sold is in the ledger, once, to the picodollar, or is a gap with an amount.

    PYTHONPATH=examples python tests/chaos.py [--minutes 10] [--seed 1] [--topology NAME] [--fault NAME]    (make chaos)

An application under `opentelemetry-instrument` calls a provider that keeps account of what it sells. In between, at
random moments: programs are killed with SIGKILL and started again, the disk is full or hangs, the clock jumps, the
database refuses, hangs, resets and commits without an answer, another tenant sends poison, bombs and bodies without end.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from collector_stack import CONFIGURATIONS, OTHER_TOKEN, Stack, collector_binary
from foreign_spans import body, foreign
from programs import APPLICATION, BIN, THREADS, Program, Programs, environment, until
from spanledger_clickhouse.database.connection import open_client, resolve_target
from spanledger_clickhouse.demo import run as demo
from spanledger_clickhouse.demo.loopback_provider import Provider
from spanledger_clickhouse.ship import shipper

TOPOLOGIES = ("shipped by the application", "shipped beside it", "Collector and gateway", "Collector reads the spool")
FAULTS = ("kill and network", "disk", "clock", "tenant")
TENANTS = frozenset(TOPOLOGIES[2:])
"""Topologies with a gateway, which has other tenants."""

DISTURBED = """
import os, time, types
fault = os.environ.get("CHAOS")
if fault == "disk":
    from spanledger.spool import segments
    fake = types.ModuleType("os")
    fake.__dict__.update(vars(os))
    def write(fd, data):
        phase = int(time.monotonic() * 4) % 8
        if phase in (1, 2):
            raise OSError(28, "No space left on device")
        if phase == 5:
            time.sleep(0.2)
        return os.write(fd, data)
    fake.write = write
    segments.os = fake
    segments.RETRY_SECONDS = 0.3
if fault == "clock":
    import opentelemetry.sdk.trace
    def time_ns(real=time.time_ns):
        return real() + (20 * 3600 * 10**9) * (-1 if int(time.monotonic()) % 2 else 1)
    opentelemetry.sdk.trace.time_ns = time_ns
"""
"""What goes before the application: a disk that is full or hangs, a clock that jumps by forty hours every second."""


@dataclass
class Outcome:
    """What became of the calls of a run."""

    topology: str
    fault: str
    seed: int
    kills: int = 0
    sold: int = 0
    rows: int = 0
    stored: int = 0
    """Rows before equal ones are merged: deliveries that were repeated."""
    double: int = 0
    lost: int = 0
    """Calls that came back to the application and have no row: in its memory when it ended on a full disk."""
    cut_off: int = 0
    """Calls that were under way when their application was killed."""
    gap_rows: int = 0
    """Rows that the ledger itself reports as missing."""
    difference_usd: Decimal = Decimal(0)
    """Cost of the rows less what the provider sold them for."""
    problems: list[str] = field(default_factory=list[str])

    HEADINGS = ("topology", "fault", "seed", "kills", "sold", "rows", "double", "lost", "cut off", "gaps", "sum")

    def cells(self) -> tuple[str, ...]:
        verdict = "equal" if not self.difference_usd else f"{self.difference_usd:+f}"
        numbers = (self.seed, self.kills, self.sold, self.rows, self.double, self.lost, self.cut_off, self.gap_rows)
        return (self.topology, self.fault, *map(str, numbers), verdict)

    def line(self) -> str:
        shown = ", ".join(f"{name} {cell}" for name, cell in zip(self.HEADINGS[2:], self.cells()[2:], strict=True))
        return f"{self.topology}, {self.fault}: {shown}" + "".join(f"\n  PROBLEM: {each}" for each in self.problems)


class Run:
    """One topology under one fault."""

    def __init__(
        self,
        topology: str,
        fault: str,
        seed: int,
        seconds: float,
        provider: Provider,
        programs: Programs,
        directory: Path,
        collector: Path,
    ) -> None:
        self.topology, self.fault, self.seed, self.seconds = topology, fault, seed, seconds
        self.provider, self.programs, self.directory, self.collector = provider, programs, directory, collector
        self.chance = random.Random(seed)
        self.victims: list[Program] = []
        self.stopped = threading.Event()
        self.stack: Stack | None = None
        self.dsn = ""

    def execute(self) -> Outcome:
        kills = self.fault == "kill and network"
        loop = "while not os.path.exists('stop'):"
        (self.directory / "app.py").write_text(DISTURBED + APPLICATION.replace("while True:", loop))
        app = self._start()
        until(lambda: len(self.provider.sold) > 20, 60)
        disturbers = [threading.Thread(target=self._disturb_as_tenant)] if self.fault == "tenant" else []
        for thread in disturbers:
            thread.start()
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            time.sleep(self.chance.uniform(0.2, 1.5))
            if kills:
                victim = self.chance.choice(self.victims)
                victim.kill()
                time.sleep(self.chance.uniform(0.0, 0.4))
                victim.start()
        self.stopped.set()
        for thread in disturbers:
            thread.join(60)
        (self.directory / "stop").touch()
        try:
            app.process.wait(60)
        except subprocess.TimeoutExpired:
            app.kill()
        return self._judge(app)

    def _start(self) -> Program:
        faults = ("--faults", self.seed) if self.fault == "kill and network" else ()
        chaos = self.fault if self.fault in ("disk", "clock") else ""
        command = (BIN / "opentelemetry-instrument", BIN / "python", "app.py")
        if self.topology in TENANTS:
            self.stack = Stack(self.programs, self.collector, self.directory, *faults)
            self.dsn = self.stack.dsn
            tails = self.topology == "Collector reads the spool"
            if tails:
                spool = self.directory / "spanledger/spool"
                spool.mkdir(parents=True)
                middle = self.programs(
                    self.collector, "--config", CONFIGURATIONS / "file.yaml", **self.stack.env,
                    SPANLEDGER_SPOOL_DIR=str(spool),
                )  # fmt: skip
                app = self.programs(*command, CHAOS=chaos)
            else:
                middle = self.stack.collect("gateway.yaml")
                app = self.programs(*command, CHAOS=chaos, SPANLEDGER_OTLP_ENDPOINT=self.stack.endpoint)
            self.victims = [app, middle, self.stack.gateway, self.stack.clickhouse]
            return app
        port = demo.free_port()
        self.dsn = f"clickhouse://default:s3cret@127.0.0.1:{port}/llm"
        front = [sys.executable, Path(__file__).parent / "clickhouse_front.py", self.directory / "server"]
        server = self.programs(*front, "--port", port, *faults)
        own = {"SPANLEDGER_DSN": self.dsn} if self.topology == "shipped by the application" else {}
        app = self.programs(*command, CHAOS=chaos, **own)
        self.victims = [app, app, server]
        if not own:
            follow = (BIN / "spanledger", "ship", "--follow", "--every", "0.2")
            self.victims.append(self.programs(*follow, SPANLEDGER_DSN=self.dsn))
        return app

    def _disturb_as_tenant(self) -> None:
        """Poison, bombs and bodies without end, in the name of another tenant, until the run ends."""
        assert self.stack is not None
        url = f"{self.stack.env['SPANLEDGER_GATEWAY']}/v1/traces"
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {OTHER_TOKEN}"}

        def slowly() -> Iterator[bytes]:
            for _ in range(100):
                if self.stopped.wait(0.1):
                    return
                yield b" " * 10_000

        month = 30 * 86400 * 10**9
        while not self.stopped.is_set():
            now = time.time_ns()
            old = [foreign(span_id=f"{n:016x}", start=max(0, now - n * month)) for n in range(1, 151)]
            bomb = b'{"resourceSpans":[' + b"{}," * 500_000 + b"{}]}"
            content = self.chance.choice([body(*old), bomb, b"{" * 100_000, slowly()])
            with suppress(httpx.HTTPError):
                httpx.post(url, content=content, headers=headers, timeout=20)

    def _judge(self, app: Program) -> Outcome:
        """Let everything settle without faults, and compare the ledger with what the provider sold."""
        found = Outcome(self.topology, self.fault, self.seed, sum(victim.kills for victim in set(self.victims)))
        sold = {each.id: each.picousd or 0 for each in self.provider.sold}
        returned = set((self.directory / "done").read_text().split())
        if self.fault == "kill and network":  # a database without faults
            server = self.victims[-1] if self.topology in TENANTS else self.victims[2]
            server.kill()
            server.command = server.command[: server.command.index("--faults")]
            server.start()
            until(lambda: _is_up(self.dsn), 60)
        rows = self._settled(returned)
        with open_client(resolve_target(self.dsn)) as client:
            found.stored = client.query("SELECT count() FROM llm.llm_calls").result_rows[0][0]
            gaps = client.query("SELECT sum(missing_rows), sum(missing_cost_usd) FROM llm.ledger_holes").result_rows[0]
        have = dict(rows)
        found.sold, found.rows, found.gap_rows = len(sold), len(rows), gaps[0]
        found.double = len(rows) - len(have)
        found.lost = len(returned - have.keys())
        found.cut_off = len(sold.keys() - have.keys() - returned)
        found.difference_usd = sum(have.values(), Decimal(0)) - Decimal(sum(sold.get(each, 0) for each in have)).scaleb(
            -12
        )
        lost_picousd = sum(sold.get(each, 0) for each in returned - have.keys())
        checks = {
            "a row is double": not found.double,
            "a call that came back to the application has neither row nor gap": found.lost <= found.gap_rows,
            "rows were lost though the disk was well": not found.lost or self.fault == "disk",
            "the amount of the gaps is wrong": not found.lost or gaps[1] == Decimal(lost_picousd).scaleb(-12),
            "the sums differ": not found.difference_usd,
            "a row was never sold": have.keys() <= sold.keys(),
            "more calls were cut off than were under way at the kills": found.cut_off <= THREADS * app.kills,
            "the ledger reports gaps that are none": found.gap_rows <= found.cut_off + found.lost,
            "nothing was killed": self.fault != "kill and network" or found.kills > 0,
        }
        found.problems = [problem for problem, is_right in checks.items() if not is_right]
        return found

    def _settled(self, returned: set[str]) -> list[tuple[str, Decimal]]:
        """The rows, once those of all calls that returned are there, or nothing changes any more."""
        query = "SELECT response_id, cost_usd FROM llm.llm_calls FINAL WHERE tenant_id != 'other'"
        end, rows = time.monotonic() + 90, list[tuple[str, Decimal]]()
        while time.monotonic() < end:
            spools = self.directory.glob("spanledger/spool*")
            if self.topology != "Collector reads the spool" and any(map(shipper.waiting_bytes, spools)):
                destination = (
                    {"SPANLEDGER_OTLP_ENDPOINT": self.stack.endpoint} if self.stack else {"SPANLEDGER_DSN": self.dsn}
                )
                subprocess.run(
                    [BIN / "spanledger", "ship"],
                    env={**self.programs.env, **destination},
                    capture_output=True,
                    check=False,
                )
            with open_client(resolve_target(self.dsn)) as client:
                rows = client.query(query).result_rows
            if returned <= {row[0] for row in rows}:
                break
            time.sleep(0.5)
        return rows


def _is_up(dsn: str) -> bool:
    try:
        with open_client(resolve_target(dsn)):
            return True
    except Exception:  # noqa: BLE001 - whatever it says, it is not up yet
        return False


def say(text: str, where: Any = None) -> None:
    """A line of the program's output."""
    (where or sys.stdout).write(f"{text}\n")
    (where or sys.stdout).flush()


def plan(topology: str | None, fault: str | None) -> list[tuple[str, str]]:
    """The (topology, fault) of all runs; other tenants need a gateway."""
    return [
        (where, what)
        for where in TOPOLOGIES
        for what in FAULTS
        if topology in (None, where) and fault in (None, what) and (what != "tenant" or where in TENANTS)
    ]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    arguments.add_argument("--minutes", type=float, default=10.0, help="how long calls are made, over all runs")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--topology", choices=TOPOLOGIES)
    arguments.add_argument("--fault", choices=FAULTS)
    arguments.add_argument("--json", action="store_true", help="outcomes as JSON lines")
    asked = arguments.parse_args()
    runs = plan(asked.topology, asked.fault)
    outcomes: list[Outcome] = []
    for number, (topology, fault) in enumerate(runs):
        seed = asked.seed + number
        say(f"[{number + 1}/{len(runs)}] {topology}, {fault}, seed {seed}", sys.stderr)
        with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
            directory, provider = Path(temporary), Provider().start()
            programs = Programs(directory, environment(provider, directory))
            try:
                run = Run(
                    topology,
                    fault,
                    seed,
                    asked.minutes * 60 / len(runs),
                    provider,
                    programs,
                    directory,
                    collector_binary(),
                )
                outcomes.append(run.execute())
            finally:
                for program in programs.started:
                    program.kill()
                provider.shutdown()
                provider.server_close()
        if asked.json:
            say(json.dumps(outcomes[-1].__dict__, default=str))
        for problem in outcomes[-1].problems:
            say(f"  PROBLEM: {problem}", sys.stderr)
    rows = [Outcome.HEADINGS, *(outcome.cells() for outcome in outcomes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        say("  ".join(cells))
    return 1 if any(outcome.problems for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
