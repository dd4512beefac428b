"""A dimension is one row of a table, and a meter is one: with a column, everything that handles them knows them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spanledger.pricing import rates
from spanledger.spool.writer import SUFFIX

ROOT = Path(__file__).parent.parent

DIMENSION = """    team: Annotated[str | None, Dimension("spanledger.team", "team", ("team", "team_id"))]
"""
METERS = """    input_document: Annotated[
        int,
        Meter("gen_ai.usage.document.input_tokens", "input_document_tokens", INPUT, ("input_cost_per_document_token", INPUT_RATE)),
    ] = 0
    robot_hours: Annotated[int, Meter("spanledger.usage.robot_hours", "robot_hours", TOOLS, ("robot_cost_per_hour",))] = 0
"""
MIGRATION = """-- A team of the application, tokens of documents and hours of a robot.
ALTER TABLE {db}.llm_calls{on_cluster}
    ADD COLUMN IF NOT EXISTS team LowCardinality(Nullable(String)) AFTER customer_tier,
    ADD COLUMN IF NOT EXISTS input_document_tokens UInt32 AFTER input_video_tokens,
    ADD COLUMN IF NOT EXISTS robot_hours UInt32 AFTER maps_queries,
    MODIFY COLUMN input_tokens UInt64 ALIAS toUInt64(input_uncached_tokens) + input_document_tokens
"""
PRICES = """
[models."scribe-1"]
litellm_provider = "openai"
input_cost_per_token = 1e-06
input_cost_per_document_token = 3e-06
output_cost_per_token = 2e-06
robot_cost_per_hour = 0.5
"""
APPLICATION = """
import json, sys
import spanledger
from spanledger.limits.api import check_request_allowed
from spanledger.middleware import WsgiAttribution

def application(environ, start_response):
    spanledger.record(provider="openai", model="scribe-1", usage={
        "input": 100, "output": 10, "input_document": 40, "robot_hours": 2})
    question = dict(provider="openai", model="scribe-1", input_tokens=10, max_output_tokens=10)
    teams = {team: check_request_allowed(**question, team=team)["allowed"] for team in ("search", "ads")}
    start_response("200 OK", [])
    return [json.dumps(teams).encode()]


served = WsgiAttribution(application, user="x-user", team="x-team")
for team in ("search", "ads"):
    environ = {"PATH_INFO": "/", "HTTP_X_USER": "ada", "HTTP_X_TEAM": team}
    [answer] = served(environ, lambda status, headers: None)
print(answer.decode())
"""


def insert_before(file: Path, line: str, rows: str) -> None:
    text = file.read_text()
    assert text.count(line) == 1, line
    file.write_text(text.replace(line, rows + line))


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of both packages with one row more in each table, and one file more in the schema."""
    copy = tmp_path_factory.mktemp("extended")
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "instrumentation/spanledger", copy / "spanledger", ignore=without)
    shutil.copytree(ROOT / "exporter/spanledger_clickhouse", copy / "spanledger_clickhouse", ignore=without)
    tables = copy / "spanledger/semconv"
    insert_before(tables / "dimensions.py", "\n\nclass Attribution(", DIMENSION)
    insert_before(tables / "usage.py", "    reported_total: int | None = None\n", METERS)
    (copy / "spanledger_clickhouse/schema/900_team_and_documents.sql").write_text(MIGRATION)
    (copy / "prices.toml").write_text(PRICES)
    (copy / "limits.toml").write_text(
        '[[budget]]\nname = "ads"\nwindow = "day"\namount_usd = 0.000001\naction = "block"\nscope = { team = "ads" }\n'
    )
    (copy / "application.py").write_text(APPLICATION)
    return copy


@pytest.mark.parametrize("prices", [(), ("input_cost_per_tokens",), ("input_cost_per_token_above_200k_tokens",)])
def test_a_meter_of_tokens_without_a_rate_per_token_is_an_error_of_its_row(prices: tuple[str, ...]):
    with pytest.raises(ValueError, match="fields that price one token"):
        rates._chain(prices)


@pytest.mark.services
def test_a_new_dimension_and_new_meters_are_known_everywhere(extended: Path, tmp_path: Path):
    """On the span, in the row and its price, in `spend --by`, in budgets and in the middleware."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(extended),
        "SPANLEDGER_SPOOL_DIR": str(tmp_path / "spool"),
        "SPANLEDGER_PRICE_OVERRIDES": str(extended / "prices.toml"),
        "SPANLEDGER_LIMITS": str(extended / "limits.toml"),
    }

    def run(*words: str, **settings: str) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            env=environment | settings,
            cwd=extended,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def command(*words: str) -> str:
        program = "from spanledger_clickhouse.cli import main; main()"
        return run("-c", program, *words, SPANLEDGER_DSN=f"chdb://{tmp_path / 'ledger'}")

    def answer(*words: str) -> Any:
        return json.loads(command(*words, "--json"))

    assert json.loads(run("application.py")) == {"search": True, "ads": False}
    spans = "".join(file.read_text() for file in (tmp_path / "spool").glob(f"*{SUFFIX}"))
    assert spans.count('"spanledger.team"') == spans.count('"gen_ai.usage.document.input_tokens"') == 2
    rows = answer(
        "sql",
        "SELECT team, user_id, input_uncached_tokens, input_document_tokens, input_tokens, robot_hours, input_cost_usd, "
        "tools_cost_usd, cost_usd FROM llm_calls FINAL ORDER BY team",
    )
    row = {
        "user_id": "ada", "input_uncached_tokens": 60, "input_document_tokens": 40, "input_tokens": 100, "robot_hours": 2,
        "input_cost_usd": "0.000180000000", "tools_cost_usd": "1.000000000000", "cost_usd": "1.000200000000",
    }  # fmt: skip
    assert rows == [{"team": team, **row} for team in ("ads", "search")]
    spend = answer("spend", "--by", "team")
    assert [(line["team"], line["total_cost_usd"]) for line in spend] == [
        ("ads", "1.000200000000"),
        ("search", "1.000200000000"),
    ]
    command("budget", "set", "search", "4", "--scope", "team=search")
    [budget] = answer("budget", "list")
    assert (budget["scope"], budget["key"], budget["spent_usd"]) == ("team", "search", "1.000200")
    assert answer("sql", "SELECT round(spent_usd, 6) AS usd FROM budget_status") == [{"usd": 1.0002}]
    usage = answer(
        "sql", "SELECT SkuMeter, sum(ConsumedQuantity) AS quantity FROM focus_cost_and_usage GROUP BY SkuMeter"
    )
    assert {line["SkuMeter"]: line["quantity"] for line in usage} == {"input": 200, "output": 20, "tools": 4}
