"""gevent and eventlet: no stream hangs, whenever the standard library is patched, and every call is a row."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from matrix.environments import HERE, agree, environment, ledger, python, ran
from spanledger_clickhouse.demo.loopback_provider import Provider

PACKAGES = ("openai", "gevent", "eventlet", "gunicorn")


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_streams_end_and_are_rows(library: str, order: str, provider: Provider, tmp_path: Path):
    texts = ran(python("greenlets", *PACKAGES), "greenlets.py", provider, tmp_path, library, order)
    calls = 7 if order == "after" else 6
    assert len(texts) == len(provider.sold) == len(ledger(tmp_path)) == calls
    assert sorted(row["outcome"] for row in ledger(tmp_path)) == ["aborted", *["ok"] * (calls - 1)]


def get(url: str) -> int:
    try:
        return urllib.request.urlopen(url, timeout=20).status
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return 0


def test_a_gevent_worker_of_gunicorn_keeps_serving_after_streams(provider: Provider, tmp_path: Path):
    interpreter = python("greenlets", *PACKAGES)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        interpreter.parent / "opentelemetry-instrument", interpreter.parent / "gunicorn", "--chdir", HERE,
        "-k", "gevent", "-w", "1", "-b", f"127.0.0.1:{port}", "wsgi_app:application",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            command, env=environment(interpreter, provider, tmp_path), cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while get(f"http://127.0.0.1:{port}/") != 200 and time.monotonic() < end:
            time.sleep(0.2)
        paths = ["plain", "stream", "stream", "plain", "", "stream"]
        assert [get(f"http://127.0.0.1:{port}/{path}") for path in paths] == [200] * len(paths), (
            tmp_path / "log"
        ).read_text()
    finally:
        server.terminate()
        try:
            server.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    agree(provider, tmp_path)
    assert len(provider.sold) == 5
