"""`spanledger assign`: teams and projects of services and features, applied when costs are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import spanledger
from conftest import Recorded
from spanledger_clickhouse.cli import main

pytestmark = pytest.mark.services

FILE = """
[team.feature]
summarize = "docs"

[team.service]
unknown_service = "platform"

[project.service]
unknown_service = "apollo"
"""


def run(*arguments: str) -> Any:
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


@pytest.fixture
def calls(own_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(own_state / "spool")
    monkeypatch.setattr("spanledger.manual.bootstrap.tracer", lambda scope, _=None: recorded.tracer("manual")())
    for number, who in enumerate(
        ({"team": "search"}, {"feature": "summarize"}, {"feature": "chat", "project": "zeus"})
    ):
        with spanledger.attribution(**who):  # pyright: ignore[reportArgumentType]
            spanledger.record(
                provider="openai",
                model="gpt-4.1-mini",
                usage={"input": 1000, "output": 0},
                response_id=f"assigned-{number}",
            )
    recorded.spool.close()


def test_what_a_call_says_goes_before_its_feature_and_its_service(calls: None, tmp_path: Path):
    assert {row["team"] for row in run("spend", "--by", "team")} == {"search", None}
    file = tmp_path / "teams.toml"
    file.write_text(FILE)
    said = CliRunner().invoke(main, ["assign", str(file)]).output
    assert said.startswith("3 assignments are set\nNo call so far has: service unknown_service.")
    service = run("sql", "SELECT any(service) AS service FROM llm_calls")[0]["service"]
    file.write_text(FILE.replace("unknown_service", service))
    assert CliRunner().invoke(main, ["assign", str(file)]).output == "3 assignments are set, 2 removed\n"
    assert {row["team"]: row["calls"] for row in run("spend", "--by", "team")} == {
        "search": 1,
        "docs": 1,
        "platform": 1,
    }
    assert {row["project"]: row["calls"] for row in run("spend", "--by", "project")} == {"apollo": 2, "zeus": 1}
    assert {row["team"]: row["calls"] for row in run("spend", "--by", "team", "--days", "3")} == {
        "search": 1,
        "docs": 1,
        "platform": 1,
    }, "a period has the rules as well"
    assert [row["feature"] for row in run("spend", "--by", "feature", "--where", "team=docs")] == ["summarize"]
    assert len(run("assign")) == 3
    file.write_text('[team.feature]\nsummarize = "reading"')
    assert run("assign", str(file))["without_calls"] == []
    assert {row["team"] for row in run("spend", "--by", "team")} == {"search", "reading", None}, "the past follows"
    file.write_text("")
    assert CliRunner().invoke(main, ["assign", str(file)]).exit_code == 0
    assert run("assign") == []
    assert {row["team"] for row in run("spend", "--by", "team")} == {"search", None}, "the past follows"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[tema.feature]\na = 'b'", "[tema] is none of team, project"),
        ("[team.user]\na = 'b'", "[team.user] is none of team.feature, team.service"),
        ("[team.feature]\na = 1", "a must be the name of a team, in quotes"),
        ("team = 'docs'", "[team] must be a table of names"),
        ("[team]\nfeature = 'docs'", "[team.feature] must be a table of names"),
        ("[[team]]", "[team] must be a table of names"),
        ("[team.feature]\n'' = 'docs'", '"" is no feature'),
        ("[team.feature]\na = ' '", "a must be the name of a team, in quotes"),
        ("[team", "cannot be read"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(text: str, error: str, own_state: Path, tmp_path: Path):
    file = tmp_path / "teams.toml"
    file.write_text(text)
    done = CliRunner().invoke(main, ["assign", str(file)])
    assert done.exit_code == 1
    assert error in done.output.replace("\n", " ")
