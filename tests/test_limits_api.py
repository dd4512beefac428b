"""Limits for own code: `check_request_allowed` and `record_actual_cost`, over threads and forks."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import spanledger
from limiters import account_of_limiter
from spanledger.limits import api

pytestmark = pytest.mark.services


def test_own_code_checks_a_request_and_records_its_cost(tmp_path: Path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    api.reset()
    file = tmp_path / "limits.toml"
    file.write_text('[[budget]]\nname = "u"\nwindow = "day"\nper = "user"\namount_usd = 0.02\naction = "block"\n')
    monkeypatch.setenv("SPANLEDGER_LIMITS", str(file))
    request = {
        "provider": "anthropic",
        "model": "claude-sonnet-4-6",
        "input_tokens": 1000,
        "max_output_tokens": 500,
        "user": "ada",
    }
    first = spanledger.check_request_allowed(**request)
    assert (first["allowed"], first["reason"], first["retry_after_seconds"]) == (True, "", 0)
    second = spanledger.check_request_allowed(**request)
    assert (second["allowed"], second["reason"]) == (False, "budget 'u': $0.02 for the day is used up")
    assert 0 < second["retry_after_seconds"] <= 86_400
    assert spanledger.record_actual_cost(first["reservation"], Decimal("0.004"))
    assert spanledger.check_request_allowed(**request)["allowed"]
    assert not spanledger.record_actual_cost("", 1)
    api.reset()


def test_threads_that_check_first_at_the_same_time_share_one_limiter(tmp_path: Path, monkeypatch):
    api.reset()
    file = tmp_path / "limits.toml"
    file.write_text('[[budget]]\nname = "all"\nwindow = "day"\namount_usd = 0.02\naction = "block"\n')
    monkeypatch.setenv("SPANLEDGER_LIMITS", str(file))
    request = {"provider": "anthropic", "model": "claude-sonnet-4-6", "input_tokens": 1000, "max_output_tokens": 500}
    decisions: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda: decisions.append(spanledger.check_request_allowed(**request)))
        for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(decision["allowed"] for decision in decisions) == 1
    api.reset()


def test_own_code_pseudonymizes_users_as_rows_do(tmp_path: Path, monkeypatch, caplog):
    from spanledger.context import baggage as baggage_attribution

    api.reset()
    file = tmp_path / "limits.toml"
    file.write_text('[[budget]]\nname = "u"\nwindow = "day"\nper = "user"\namount_usd = 1\n')
    monkeypatch.setenv("SPANLEDGER_LIMITS", str(file))
    monkeypatch.setenv("SPANLEDGER_HASH_USER_ID", "secret")
    baggage_attribution._hashing_key.cache_clear()
    try:
        decision = spanledger.check_request_allowed(
            provider="openai", model="gpt-5.4-mini", input_tokens=1, max_output_tokens=1, user="ada\x1f\ud800"
        )
        assert decision["allowed"]
        limiter = api.limiter_from_settings()
        assert limiter is not None
        assert account_of_limiter(limiter).split("\x1f")[1] == baggage_attribution.pseudonym("ada", b"secret")
        for cost in ("-1", "nan", "much", Decimal("Infinity"), "1e9"):
            assert not spanledger.record_actual_cost(decision["reservation"], cost)
        assert caplog.text.count("is not a valid cost in USD") == 5
        assert spanledger.record_actual_cost(decision["reservation"], "0.5"), (
            "an invalid cost leaves the reservation open"
        )
    finally:
        baggage_attribution._hashing_key.cache_clear()
        api.reset()


def test_a_forked_child_checks_limits_even_if_its_parent_held_the_lock(tmp_path: Path, monkeypatch):
    file = tmp_path / "limits.toml"
    file.write_text('[[budget]]\nname = "all"\nwindow = "day"\namount_usd = 1\n')
    code = """
import os, spanledger, sys
from spanledger.limits.api import limiter_from_settings
request = dict(provider="openai", model="gpt-5.4-mini", input_tokens=10, max_output_tokens=10)
first = spanledger.check_request_allowed(**request)
with limiter_from_settings()._store._lock:
    child = os.fork()
    if child == 0:
        second = spanledger.check_request_allowed(**request)
        os._exit(0 if second["allowed"] and second["reservation"] != first["reservation"] else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    monkeypatch.setenv("SPANLEDGER_LIMITS", str(file))
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0


@pytest.mark.parametrize(("configured", "deadline"), [(None, 0.02), ("150", 0.15), ("0", 0.02), ("soon", 0.02)])
def test_the_time_for_redis_can_be_set(configured: str | None, deadline: float, tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setenv("SPANLEDGER_REDIS_URL", "redis://127.0.0.1:9/0")
    if configured is not None:
        monkeypatch.setenv("SPANLEDGER_REDIS_TIMEOUT_MS", configured)
    assert api._redis_deadline() == deadline
    assert ("20 are used" in caplog.text) == (configured in {"0", "soon"})
