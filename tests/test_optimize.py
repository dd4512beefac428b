"""Smaller bills: prompts that fit, answers that were not bought, and calls at other prices. Each figure is that of the price table."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from conftest import Recorded
from empty_ledger import empty_ledger
from spanledger.optimize import SemanticCache, record_cache_hit, truncate
from spanledger.pricing import quote
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import Target, open_client
from spanledger_clickhouse.prices.what_if import Change, compare
from spanledger_clickhouse.session import open_ledger
from synthetic import call

SYSTEM = {"role": "system", "content": "be kind"}


def words(text: str) -> int:
    return len(text.split())


def turn(number: int) -> dict[str, Any]:
    return {"role": "user" if number % 2 else "assistant", "content": f"turn {number} " + "word " * 8}


# --- truncate --------------------------------------------------------------------------------------------------------


def test_instructions_and_the_newest_messages_stay_in_their_order():
    messages = [SYSTEM, *map(turn, range(10)), {"role": "developer", "content": "in brief"}]
    kept = truncate(messages, 50, count=words)
    assert [message["content"].split()[:2] for message in kept] == [
        ["be", "kind"],
        ["turn", "8"],
        ["turn", "9"],
        ["in", "brief"],
    ]
    assert all(any(message is other for other in messages) for message in kept)


def test_all_stay_where_they_fit_and_the_question_always():
    messages = [SYSTEM, turn(1), turn(2)]
    assert truncate(messages, 1000) == messages
    assert truncate(messages, 0) == [SYSTEM, turn(2)]
    assert truncate([], 10) == []
    assert truncate(messages, 0, keep_last=0) == [SYSTEM]


@pytest.mark.parametrize(
    "result",
    [{"role": "tool", "tool_call_id": "1", "content": "4"}, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "4"}]}],
)  # fmt: skip
def test_a_tools_result_does_not_stay_without_its_call(result: dict[str, Any]):
    asked = {
        "role": "assistant",
        "content": "x " * 100,
        "tool_calls": [{"id": "1", "function": {"name": "add", "arguments": "{}"}}],
    }
    assert truncate([SYSTEM, asked, result, turn(1)], 40, count=words) == [SYSTEM, turn(1)]


def test_the_bound_needs_no_tokenizer_and_counts_at_least_what_one_would():
    text = {"role": "user", "content": [{"type": "text", "text": "hello " * 100}]}
    assert truncate([text, turn(1)], 200) == [turn(1)]


# --- cache hits --------------------------------------------------------------------------------------------------------


def test_a_hit_is_a_row_at_no_cost_with_what_it_has_avoided(
    ledger: Recorded, by_hand: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("spanledger.optimize.bootstrap.tracer", lambda scope: ledger.tracer("cache")())
    assert record_cache_hit(provider="openai", model="gpt-4.1-mini", usage={"input": 1000, "output": 100})
    row = ledger.row
    expected = quote("openai", "gpt-4.1-mini", {"input": 1000, "output": 100}).total_picousd
    assert expected
    assert (row["cost_usd"], row["avoided_cost_usd"], row["price_status"]) == (
        0,
        Decimal(expected).scaleb(-12),
        "cache_hit",
    )
    assert (row["input_uncached_tokens"], row["output_text_tokens"], row["usage_source"]) == (0, 0, "cache")


@pytest.fixture
def cache(ledger: Recorded, by_hand: None, monkeypatch: pytest.MonkeyPatch) -> SemanticCache[str]:
    monkeypatch.setattr("spanledger.optimize.bootstrap.tracer", lambda scope: ledger.tracer("cache")())
    letters = "abcdefghijklmnopqrstuvwxyz"
    return SemanticCache(lambda text: [text.lower().count(letter) for letter in letters], threshold=0.9, size=2)


def test_a_question_that_means_the_same_is_answered_and_measured(ledger: Recorded, cache: SemanticCache[str]):
    used = {"provider": "openai", "model": "gpt-4.1-mini", "usage": {"input": 1000, "output": 100}}
    assert cache.get("what is the capital of France") is None
    cache.put("what is the capital of France", "Paris", **used)
    assert cache.get("What is the capital of France??") == "Paris"
    assert cache.get("zzzz xxxx qqqq") is None
    assert (cache.lookups, cache.hits, round(cache.hit_rate, 3)) == (3, 1, 0.333)
    assert cache.avoided_usd == ledger.row["avoided_cost_usd"] > 0


def test_a_cache_forgets_what_was_used_least(cache: SemanticCache[str]):
    for name in ("aaa", "bbb"):
        cache.put(name, name, provider="openai", model="m", usage={})
    assert cache.get("aaa") == "aaa"
    cache.put("ccc", "ccc", provider="openai", model="m", usage={})
    assert (cache.get("aaa"), cache.get("bbb"), cache.get("ccc")) == ("aaa", None, "ccc")


def test_an_embedding_of_nothing_is_like_no_other(cache: SemanticCache[str]):
    cache.put("...", "x", provider="openai", model="m", usage={})
    assert cache.get("...") is None


@pytest.mark.parametrize(("threshold", "size"), [(0, 1), (1.5, 1), (0.9, 0)])
def test_a_wrong_threshold_or_size_is_said(threshold: float, size: int):
    with pytest.raises(ValueError, match="threshold is above 0"):
        SemanticCache(lambda _: [1.0], threshold=threshold, size=size)


# --- what if ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    target = empty_ledger(tmp_path / "ledger")
    monkeypatch.setenv("SPANLEDGER_SPOOL_DIR", str(tmp_path / "nothing"))
    monkeypatch.setenv("SPANLEDGER_DSN", target.dsn)
    now = datetime.now(UTC)
    used = {"input_uncached_tokens": 1000, "cache_read_tokens": 9000, "output_text_tokens": 500}
    usage = {"input": 10_000, "cache_read": 9000, "output": 500}
    cost = Decimal(quote("openai", "gpt-4.1", usage).total_picousd or 0).scaleb(-12)
    rows = [
        call(span_id=f"{n:016x}", response_id=f"r{n}", start_time=now - timedelta(hours=n), request_model="gpt-4.1", response_model="gpt-4.1",
             provider="openai", server_address="api.openai.com", feature="chat", cost_usd=cost, price_status="priced", **used)
        for n in range(1, 5)
    ]  # fmt: skip
    rows.append(call(span_id="f" * 16, response_id="x", start_time=now - timedelta(hours=1), request_model="gpt-99", response_model="gpt-99", feature="new", cost_usd=None))  # fmt: skip
    with open_client(target) as client:
        insert.insert(client, target, [tuple(row.values()) for row in rows])
    return target


@pytest.mark.parametrize(
    ("change", "model", "usage", "more"),
    [
        (Change(without_cache=True), "gpt-4.1", {"input": 10_000, "output": 500}, {}),
        (Change(tier="batch"), "gpt-4.1", {"input": 10_000, "cache_read": 9000, "output": 500}, {"tier": "batch"}),
        (Change(model="gpt-4.1-mini"), "gpt-4.1-mini", {"input": 10_000, "cache_read": 9000, "output": 500}, {}),
        (Change(model="claude-haiku-4-5", provider="anthropic"), "claude-haiku-4-5", {"input": 10_000, "cache_read": 9000, "output": 500}, {"provider": "anthropic"}),
    ],
)  # fmt: skip
def test_each_call_is_priced_as_it_might_have_been(
    change: Change, model: str, usage: dict[str, int], more: dict[str, Any], where: Target
):
    until = datetime.now(UTC)
    with open_ledger(dsn=where.dsn, take_in=False) as ledger:
        by_feature = {c.feature: c for c in compare(ledger, until - timedelta(days=2), until, change)}
    one = quote(more.pop("provider", "openai"), model, usage, **more).total_picousd
    assert one
    chat = by_feature["chat"]
    assert (chat.calls, chat.otherwise_usd, chat.not_comparable) == (4, 4 * Decimal(one).scaleb(-12), 0)
    assert chat.cost_usd == 4 * Decimal(quote("openai", "gpt-4.1", {"input": 10_000, "cache_read": 9000, "output": 500}).total_picousd or 0).scaleb(-12)  # fmt: skip
    assert (by_feature["new"].not_comparable, by_feature["new"].cost_usd) == (1, 0)


def test_the_command_compares_and_claims_no_saving(where: Target):
    answer = CliRunner().invoke(main, ["prices", "what-if", "--tier", "batch", "--of", "gpt-4.1", "--json"])
    [row] = json.loads(answer.stdout)
    assert Decimal(row["otherwise_usd"]) < Decimal(row["cost_usd"])
    assert "saved" not in answer.output
    wrong = CliRunner().invoke(main, ["prices", "what-if"])
    assert "say what would be different" in wrong.output
