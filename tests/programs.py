"""Programs that tests start: their environment, an application that makes calls until it ends, and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from spanledger_clickhouse.demo import run as demo
from spanledger_clickhouse.demo.loopback_provider import Provider

BIN = Path(sys.executable).parent
THREADS = 4

APPLICATION = f"""
import os, threading, time
from openai import OpenAI


client = OpenAI(max_retries=0, timeout=5)
done = os.open("done", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

def work(thread):
    number = 0
    while True:
        number += 1
        prompt = f"{{os.getpid()}} {{thread}} {{number}}"
        answer = client.chat.completions.create(model="gpt-4.1-mini", messages=[{{"role": "user", "content": prompt}}])
        os.write(done, f"{{answer.id}}\\n".encode())
        time.sleep(0.01)

for thread in range({THREADS}):
    threading.Thread(target=work, args=(thread,)).start()
"""
"""Calls a provider in `THREADS` threads; appends the id of each response that it received to the file `done`."""


COVERAGE = {name: value for name, value in os.environ.items() if name == "COVERAGE_PROCESS_CONFIG"}
"""Environment with which coverage measures a child. A measured child takes up to twice the CPU time, so only those have
it that run code which no test runs in its own process: conftest.py takes it from the environment of the others."""


def environment(provider: Provider, state: Path, **more: str) -> dict[str, str]:
    """Environment of an application: keys and addresses of the SDKs, the state directory, the tools of this Python."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**demo.environment(provider, state), "PATH": path, "HOME": str(state), **more}


class Program:
    """A program that is killed and started again."""

    def __init__(self, *command: object, state: Path, env: dict[str, str]) -> None:
        self.command, self.state, self.env = [str(part) for part in command], state, env
        self.kills = 0
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, cwd=self.state, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def kill(self) -> None:
        if self.process.poll() is None:
            self.kills += 1
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Programs:
    """Starts programs of a test; the fixture `programs` kills all of them in the end."""

    def __init__(self, state: Path, env: dict[str, str]) -> None:
        self.state, self.env = state, env
        self.started: list[Program] = []

    def __call__(self, *command: object, **more: str) -> Program:
        program = Program(*command, state=self.state, env={**self.env, **more})
        self.started.append(program)
        return program


def until(condition: Callable[[], object], seconds: float = 40.0) -> None:
    """Wait for a condition; fail if it is not met in time."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.05)
