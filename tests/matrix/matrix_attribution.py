"""A thousand random requests beside tools that change contexts, threads or providers: no user is wrong."""

from __future__ import annotations

import json
import subprocess

import pytest

from matrix.environments import HERE, environment, python
from spanledger_clickhouse.demo.loopback_provider import Provider

PEERS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "none": ((), {}),
    "ddtrace": (
        ("ddtrace",),
        {
            "DD_TRACE_OTEL_ENABLED": "true",
            "DD_TRACE_AGENT_URL": "http://127.0.0.1:9",
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        },
    ),
    "sentry": (("sentry-sdk",), {}),
    "langfuse": (("langfuse",), {}),
    "logfire": (("logfire",), {}),
}
"""Packages, and settings."""
REQUESTS = 1000


@pytest.mark.parametrize("peer", PEERS)
def test_no_user_is_wrong_beside(peer: str, provider: Provider, tmp_path):
    packages, settings = PEERS[peer]
    interpreter = python(f"attribution-{peer}", *packages)
    start = ["ddtrace-run"] if peer == "ddtrace" else []
    names = [*start, "opentelemetry-instrument", "python"]
    command = [
        *(interpreter.with_name(name) for name in names),
        HERE.parent / "random_requests.py",
        "7",
        str(REQUESTS),
        peer,
    ]
    env = {**environment(interpreter, provider, tmp_path), **settings}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert (counts["wrong"], counts["unnamed"]) == (0, 0), counts
    assert counts["calls"] > 3 * REQUESTS
    assert counts["right"] > counts["calls"] / 2, counts
    assert "the application is unaffected" not in done.stderr, done.stderr[-3000:]
