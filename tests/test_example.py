"""End to end: an unmodified application, opentelemetry-instrument, the commands.

Every row is compared with the loopback provider: tokens, picodollars, user, feature, request, trace.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from programs import COVERAGE
from spanledger_clickhouse.demo import run as demo
from spanledger_clickhouse.demo.loopback_provider import Provider, Sold

pytestmark = pytest.mark.services

REQUESTS = 40
COLUMNS = (
    "response_id, provider, request_model, c.input_tokens AS input, cache_read_tokens AS cache_read, "
    "cache_write_tokens AS cache_write, cache_write_1h_tokens AS cache_write_1h, c.output_tokens AS output, "
    "reasoning_tokens AS reasoning, cost_usd, user_id, feature, request_id, trace_id, attempts, outcome, "
    "attribution_reason, code_file, code_line, service, environment, usage_source"
)


def spanledger(env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run([demo.BIN / "spanledger", *arguments], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Traces of the load, responses of the provider, rows of the ledger and environment, for the same forty requests."""
    state = tmp_path_factory.mktemp("state")
    provider = Provider().start()
    env = {**demo.environment(provider, state), "PATH": f"{demo.BIN}{os.pathsep}{os.environ['PATH']}"}
    env.pop("COVERAGE_PROCESS_CONFIG", None)  # for the commands; this fixture precedes the one that removes it
    app, url = demo.start({**env, **COVERAGE}, state)
    try:
        traces = demo.load(url, REQUESTS)
        time.sleep(1)
    finally:
        app.terminate()
        app.wait(timeout=20)
    rows = json.loads(spanledger(env, "sql", f"SELECT {COLUMNS} FROM llm_calls AS c FINAL", "--json"))
    yield traces, provider.sold, rows, env
    provider.shutdown()
    provider.server_close()


def counted(sold: Sold) -> tuple:
    cost = format(Decimal(sold.picousd or 0).scaleb(-12), "f")
    counts = (sold.input, sold.cache_read, sold.cache_write, sold.cache_write_1h, sold.output, sold.reasoning)
    return (sold.model, *counts, cost)


def attributed(sold: Sold, traces: dict[str, str]) -> tuple:
    if sold.prompt.startswith("index: "):
        return (None, None, None)
    user, feature, request = re.search(r"of (\w+), (\w+), (req-\d+)", sold.prompt).groups()
    return (user, feature, request, traces[request])


def test_every_call_is_one_row(recorded):
    _, sold, rows, _ = recorded
    assert len(rows) == len(sold) > REQUESTS
    ids = Counter(row["response_id"] for row in rows)
    assert ids == Counter(s.id if s.api != "embeddings" else "" for s in sold)


def test_every_row_matches_the_provider(recorded):
    traces, sold, rows, _ = recorded
    ours = Counter(
        (
            *(
                row[name]
                for name in ("request_model", "input", "cache_read", "cache_write", "cache_write_1h", "output")
            ),
            row["reasoning"],
            row["cost_usd"],
            *(
                (row["user_id"], row["feature"], row["request_id"], row["trace_id"])
                if row["user_id"]
                else (row["user_id"], row["feature"], row["request_id"])
            ),
        )
        for row in rows
    )
    theirs = Counter((*counted(s), *attributed(s, traces)) for s in sold)
    assert ours == theirs


def test_the_total_matches_the_provider(recorded):
    _, sold, rows, _ = recorded
    assert sum(Decimal(row["cost_usd"]) for row in rows) == Decimal(sum(s.picousd for s in sold)).scaleb(-12)


def test_a_retried_call_is_one_row_with_two_attempts(recorded):
    _, sold, rows, _ = recorded
    refused = {s.id for s in sold if "[429]" in s.prompt and s.id}
    assert {row["attempts"] for row in rows if row["response_id"] in refused} == {2}
    assert all(row["outcome"] == "ok" and row["usage_source"] == "exact" for row in rows)


def test_the_background_job_without_context_is_named(recorded):
    *_, rows, env = recorded
    app = Path(env["XDG_STATE_HOME"], "app.py")
    lines = app.read_text().splitlines()
    lost = [row for row in rows if row["attribution_reason"]]
    assert len(lost) == REQUESTS // 4
    for row in lost:
        assert (row["attribution_reason"], row["code_file"]) == ("context_lost", str(app))
        assert "anthropic.messages.create(" in lines[row["code_line"] - 1]


def test_the_resource_names_the_service(recorded):
    *_, rows, _ = recorded
    assert {(row["service"], row["environment"]) for row in rows} == {("demo", "demo")}


def test_the_provider_never_sees_baggage(recorded):
    _, sold, _, _ = recorded
    assert not any("baggage" in s.headers for s in sold)


@pytest.mark.parametrize("by", ["feature", "user", "model", "request"])
def test_spend_sums_to_the_total_whatever_it_is_grouped_by(recorded, by):
    _, sold, _, env = recorded
    groups = json.loads(spanledger(env, "spend", "--by", by, "--top", "1000", "--json"))
    total = sum(Decimal(group["total_cost_usd"]) for group in groups)
    attributed = [s for s in sold if by != "request" or not s.prompt.startswith("index: ")]
    assert total == Decimal(sum(s.picousd for s in attributed)).scaleb(-12)


def test_tables_list_features_functions_and_models(recorded):
    *_, env = recorded
    assert "summarize" in spanledger(env, "spend")
    assert "index_documents" in spanledger(env, "who-forgot")
    assert "claude-sonnet-4-6" in spanledger(env, "request", "req-0000")


def test_a_row_can_be_explained(recorded):
    _, sold, rows, env = recorded
    row = next(row for row in rows if row["request_model"] == "claude-sonnet-4-6")
    out = spanledger(env, "prices", "explain", row["response_id"])
    assert f"the row holds {row['cost_usd']} USD (priced; claude-sonnet-4-6 bundled" in out
    total = next(s.picousd for s in sold if s.id == row["response_id"])
    assert f"{total:,} picodollars" in out


def test_the_demo_ends_with_the_same_sum_and_uses_no_settings_of_the_user(tmp_path: Path):
    env = {**os.environ, "SPANLEDGER_DSN": "http://127.0.0.1:9/production", "OTEL_TRACES_EXPORTER": "nowhere"}
    command = [demo.BIN / "spanledger", "demo", "--requests", "8", "--keep", tmp_path / "demo"]
    for _ in range(2):  # the second replaces the first
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "-> the same" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_the_demo_deletes_no_directory_of_the_user(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    command = [demo.BIN / "spanledger", "demo", "--keep", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not a directory of the demo" in done.stderr
    assert (tmp_path / "thesis.txt").exists()


def test_a_disconnected_client_causes_no_traceback_in_the_provider(provider: Provider, capfd):
    with socket.create_connection(("127.0.0.1", provider.server_port)) as connection:
        connection.sendall(b"POST /elsewhere HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}")
        assert connection.recv(8) == b"HTTP/1.1"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no farewell
    for thread in [thread for thread in threading.enumerate() if "process_request" in thread.name]:
        thread.join(10)
    assert capfd.readouterr().err == ""
