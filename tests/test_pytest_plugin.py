"""The fixture `spanledger_strict`, in an application's own test run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from programs import BIN, COVERAGE, environment
from spanledger_clickhouse.demo.loopback_provider import Provider

pytestmark = pytest.mark.services

SUITE = """
import openai, pytest, spanledger

def call():
    openai.OpenAI(max_retries=0).embeddings.create(model="text-embedding-3-small", input="x")

def test_without_the_fixture():
    call()

def test_attributed(spanledger_strict):
    with spanledger.attribution(user="ada", feature="search"):
        call()

def test_unattributed(spanledger_strict):
    with pytest.raises(spanledger.AttributionRequired, match="has no feature"), spanledger.attribution(user="ada"):
        call()

@pytest.mark.parametrize("spanledger_strict", [("tenant",)], indirect=True)
def test_other_dimensions(spanledger_strict):
    with pytest.raises(spanledger.AttributionRequired, match="has no tenant"):
        call()

def test_after_them():
    call()
"""


def test_a_call_without_a_required_dimension_fails_the_test_that_makes_it(provider: Provider, tmp_path: Path):
    (tmp_path / "test_app.py").write_text(SUITE)
    command = [
        BIN / "opentelemetry-instrument",
        "python",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "test_app.py",
    ]
    env = environment(provider, tmp_path, **COVERAGE)
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "5 passed" in result.stdout
    assert len(provider.sold) == 3, "the others were not sent"
