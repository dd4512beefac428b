"""The examples, run as their users would: who asked for each call is on its row."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import ROOT
from programs import BIN, COVERAGE, environment
from spanledger_clickhouse.demo import run as demo
from spanledger_clickhouse.demo.loopback_provider import Provider
from spanledger_clickhouse.rows.rows import COLUMNS, rows

pytestmark = pytest.mark.services

EXAMPLES = ROOT / "examples"


def ledger(state: Path) -> list[dict[str, Any]]:
    return [
        dict(zip(COLUMNS, row, strict=True))
        for file in (state / "spanledger/spool").glob("*.jsonl")
        for line in file.read_bytes().splitlines()
        for row in rows(line)
    ]


class Running:
    """A program in the background, ended by its id."""

    def __init__(self, *command: str | Path, cwd: Path, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [BIN / "opentelemetry-instrument", *command], cwd=cwd, env=env, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()


def until_it_answers(url: str) -> None:
    for _ in range(300):
        try:
            httpx.get(f"{url}/health", timeout=1)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"{url} did not answer")


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        ("flask_app", ("flask", "run", "--port", "{port}")),
        ("django_app", ("python", "app.py", "runserver", "--noreload", "127.0.0.1:{port}")),
    ],
)
def test_a_web_application_says_who_asked(folder, command, provider: Provider, tmp_path: Path):
    port = demo.free_port()
    url = f"http://127.0.0.1:{port}"
    words = [word.format(port=port) for word in command]
    with Running(*words, cwd=EXAMPLES / folder, env=environment(provider, tmp_path, **COVERAGE)):
        until_it_answers(url)
        for number in range(12):
            kind, user = ("summarize", "chat")[number % 2], f"user-{number % 3}"
            headers = {"x-user": user, "x-request-id": f"r{number}", "baggage": "user.id=victim"}
            answer = httpx.post(f"{url}/{kind}", content=f"{user} r{number}", headers=headers, timeout=30)
            assert answer.status_code == 200, answer.text
    true = Counter(tuple(sold.prompt.split()) for sold in provider.sold)
    assert len(true) == 12
    assert Counter((row["feature"], row["user_id"], row["request_id"]) for row in ledger(tmp_path)) == true
    assert not any("baggage" in sold.headers for sold in provider.sold)


def test_celery_tasks_know_who_sent_them(provider: Provider, tmp_path: Path):
    env = environment(provider, tmp_path, CELERY_FOLDER=str(tmp_path / "celery"), **COVERAGE)
    app = EXAMPLES / "celery_app"
    with Running("celery", "-A", "tasks", "worker", "--concurrency", "2", cwd=app, env=env):
        done = subprocess.run(
            [BIN / "opentelemetry-instrument", "python", "send.py"], cwd=app, env=env, capture_output=True, text=True, timeout=120, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert sorted((row["user_id"], row["request_id"], row["feature"]) for row in ledger(tmp_path)) == [
        ("ada", "r0", "summarize"), ("ada", "r2", "digest"), ("bob", "r1", "digest"),
    ]  # fmt: skip


def test_twelve_lost_contexts_are_named_with_file_and_line(provider: Provider, tmp_path: Path):
    program = EXAMPLES / "lost_context.py"
    env = environment(provider, tmp_path, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="threading")
    done = subprocess.run(
        [BIN / "opentelemetry-instrument", "python", program], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = {
        number for number, line in enumerate(program.read_text().splitlines(), 1) if re.search(r'input="\d+ ', line)
    }
    found = ledger(tmp_path)
    assert len(lines) == 12
    assert Counter(row["code_line"] for row in found) == Counter(lines)
    assert {row["code_file"] for row in found} == {str(program)}
    assert {row["user_id"] for row in found} == {None}
    assert {row["attribution_reason"] for row in found} == {"context_lost"}
    assert sum("(spanledger who-forgot)" in line for line in done.stderr.splitlines()) == 12


def test_the_threading_instrumentation_saves_five_of_them(provider: Provider, tmp_path: Path):
    env = environment(provider, tmp_path)
    subprocess.run(
        [BIN / "opentelemetry-instrument", "python", EXAMPLES / "lost_context.py"], env=env, cwd=tmp_path, check=True, timeout=120, capture_output=True
    )  # fmt: skip
    assert Counter(row["user_id"] for row in ledger(tmp_path))["ada"] >= 5
