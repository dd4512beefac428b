"""`spanledger ci-diff`: compares two test runs of an application, and the monthly cost of the difference."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import anthropic
import pytest
from click.testing import CliRunner, Result

import spanledger
from conftest import Recorded
from empty_ledger import empty_ledger
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import open_client
from spanledger_clickhouse.demo.loopback_provider import Provider
from synthetic import call

pytestmark = pytest.mark.services


@pytest.fixture
def run_of(ledger: Recorded, provider: Provider, tmp_path: Path):
    """Create a run from (feature, request, words in the prompt of each call)."""

    def make(name: str, *asked: tuple[str, str, list[int]]) -> Path:
        before = len(ledger.lines)
        with anthropic.Anthropic(api_key="k", base_url=provider.url) as client:
            for feature, request, prompts in asked:
                with spanledger.attribution(user="u", feature=feature, request_id=request):
                    for words in prompts:
                        message = {"role": "user", "content": "word " * words}
                        client.messages.create(model="claude-sonnet-4-6", max_tokens=64, messages=[message])
        where = tmp_path / name
        where.mkdir()
        (where / "run.jsonl").write_bytes(b"".join(ledger.lines[before:]) + b'{"cut sho')
        return where

    return make


def diff(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["ci-diff", *map(str, arguments)])


def test_an_extra_call_raises_the_cost_of_a_request(run_of):
    base = run_of("base", ("chat", "r1", [9]), ("chat", "r2", [9]), ("search", "r3", [9]))
    head = run_of("head", ("chat", "r1", [9, 9]), ("chat", "r2", [9, 9]), ("search", "r3", [9]))
    found = json.loads(diff(base, head, "--volume", "chat=1000", "--json").stdout)
    by_feature = {each["feature"]: each for each in found["features"]}
    assert (
        by_feature["chat"]["base_calls"],
        by_feature["chat"]["head_calls"],
        by_feature["chat"]["head_requests"],
    ) == (2, 4, 2)
    assert Decimal(found["month_usd"]) == 1000 * Decimal(by_feature["chat"]["change_usd"])
    assert by_feature["search"]["month_usd"] is None


def test_an_exceeded_limit_sets_the_exit_status(run_of):
    base, head = run_of("base", ("chat", "r1", [9])), run_of("head", ("chat", "r1", [9, 9, 9]))
    assert diff(base, head, "--volume", "chat=1000").exit_code == 0
    over = diff(base, head, "--volume", "chat=1000000", "--fail-over", "5")
    assert over.exit_code == 1
    assert "over the limit: $" in over.stderr
    assert diff(base, head, "--fail-over-percent", "1000").exit_code == 0
    assert diff(base, head, "--fail-over-percent", "50").exit_code == 1
    assert diff(head, base, "--fail-over-percent", "0").exit_code == 0, "what has become cheaper breaks no limit"
    assert diff(base, head, "--fail-over", "5").exit_code == 2, "without a volume it is unknown"


def test_a_comment_for_the_pull_request(run_of):
    base, head = (
        run_of("base", ("chat", "r1", [9]), ("old", "r2", [9])),
        run_of("head", ("chat", "r1", [9]), ("a|b", "r3", [9])),
    )
    comment = diff(base, head, "--format", "md", "--volume", "a|b=10").stdout
    assert comment.startswith("### LLM cost of this change\n\nAt live volume this change costs $")
    assert "| feature | requests |" in comment
    assert "| a\\|b | 0 / 1 | - |" in comment
    assert "| removed |" in comment
    assert "| new |" in comment


def test_live_volume_comes_from_the_ledger(run_of, tmp_path: Path, monkeypatch):
    where = empty_ledger(tmp_path / "chdb")
    now = datetime.now(UTC)
    rows = [
        call(span_id=f"{n:016x}", start_time=now, feature="chat", request_id=f"r{n % 7}", cost_usd=Decimal(1))
        for n in range(70)
    ]
    with open_client(where) as client:
        insert.insert(client, where, [tuple(row.values()) for row in rows])
    base, head = run_of("base", ("chat", "r1", [9])), run_of("head", ("chat", "r1", [9, 9]))
    monkeypatch.setenv("SPANLEDGER_DSN", where.dsn)
    monkeypatch.setenv("SPANLEDGER_SPOOL_DIR", str(tmp_path / "empty"))
    found = json.loads(diff(base, head, "--live", "--json").stdout)
    assert Decimal(found["month_usd"]) == 30 * Decimal(found["features"][0]["change_usd"])


def test_a_directory_without_calls_is_an_error(tmp_path: Path, run_of):
    done = diff(run_of("base", ("chat", "r1", [9])), tmp_path)
    assert done.exit_code == 1
    assert "has no calls: run the tests under opentelemetry-instrument" in done.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell: str):
    script = CliRunner().invoke(main, ["completion", shell])
    assert script.exit_code == 0
    assert "_SPANLEDGER_COMPLETE" in script.stdout
    words = {"COMP_WORDS": "spanledger who", "COMP_CWORD": "1", f"_{'SPANLEDGER'}_COMPLETE": f"{shell}_complete"}
    if shell == "fish":
        words["COMP_CWORD"] = "who"
    done = CliRunner(env=words).invoke(main, [], prog_name="spanledger")
    assert "who-forgot" in done.output
