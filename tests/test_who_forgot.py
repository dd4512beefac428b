"""`spanledger who-forgot`: unattributed call sites with code owner, weekly cost and fix."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from empty_ledger import empty_ledger
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.cli.who_forgot import CallSite, suggested_fix
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import open_client
from spanledger_clickhouse.report.codeowners import CodeOwners, repository_owners
from synthetic import call

pytestmark = [pytest.mark.clock, pytest.mark.services]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    for file in (".git/HEAD", "shop/jobs.py", "shop/api/search.py", "docs/a.md", "docs/b/c.md"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("")
    (root / "CODEOWNERS").write_text(
        "# owners\n*       @shop/everyone\n/shop/  @shop/backend ada@shop.example # the shop\n*.md @docs\ndocs/* @writers\nshop/api/ @search\n/shop/free.py\n"
    )
    return root


@pytest.mark.parametrize(
    ("file", "owners"),
    [
        ("shop/jobs.py", ("@shop/backend", "ada@shop.example")),
        ("shop/api/search.py", ("@search",)),
        ("docs/a.md", ("@writers",)),
        ("docs/b/c.md", ("@docs",)),
        ("shop/free.py", ()),
        ("setup.py", ("@shop/everyone",)),
        ("/srv/app/shop/jobs.py", ("@shop/backend", "ada@shop.example")),
    ],
)
def test_the_last_matching_pattern_wins(repo: Path, file: str, owners: tuple[str, ...]):
    assert CodeOwners(repo).owners_of(file) == owners


def test_the_repository_is_found_from_a_subdirectory_even_without_owners(repo: Path, tmp_path: Path):
    assert repository_owners(repo / "shop/api").owners_of("shop/jobs.py")[0] == "@shop/backend"
    assert CodeOwners(tmp_path / "none").owners_of("shop/jobs.py") == ()


def test_the_most_expensive_call_site_comes_first_with_owner_and_fix(repo: Path, tmp_path: Path, monkeypatch):
    where = empty_ledger(tmp_path / "ledger")
    monkeypatch.setenv("SPANLEDGER_DSN", where.dsn)
    monkeypatch.chdir(repo)
    now = datetime.now(UTC)
    lost = {"feature": None, "user_id": None, "request_id": None}
    here = {
        "code_file": "/srv/app/shop/jobs.py",
        "code_line": 108,
        "code_function": "index",
        "attribution_reason": "context_lost",
    }
    partial = {
        "code_file": str(repo / "shop/api/search.py"),
        "code_line": 7,
        "code_function": "Search.run",
        "attribution_reason": "partial",
    }
    rows = [
        call(span_id="1" * 16, start_time=now - timedelta(days=1), cost_usd=Decimal(6), **lost, **here),
        call(span_id="2" * 16, start_time=now - timedelta(days=9), cost_usd=Decimal(6), **lost, **here),
        call(span_id="3" * 16, start_time=now - timedelta(days=2), cost_usd=Decimal(1), feature="x", user_id=None, request_id="r", **partial),
        call(span_id="4" * 16, start_time=now, cost_usd=None, feature=None, user_id="u", request_id="r", **{**partial, "code_line": 9}),
    ]  # fmt: skip
    with open_client(where) as client:
        insert.insert(client, where, [tuple(row.values()) for row in rows])
    found = json.loads(CliRunner().invoke(main, ["who-forgot", "--json"]).stdout)
    assert [tuple(row.values()) for row in found] == [
        ("shop/jobs.py:108", "index", "@shop/backend ada@shop.example", "context_lost", "6.000000000000", 1,
         'with spanledger.carried(job["spanledger"]):  # and spanledger.carry() where the job is created'),
        ("shop/api/search.py:7", "Search.run", "@search", "partial", "1.000000000000", 1, "with spanledger.attribution(user=...):"),
        ("shop/api/search.py:9", "Search.run", "@search", "partial", None, 1, '@spanledger.feature("run")  # above Search.run'),
    ]  # fmt: skip
    fortnight = json.loads(CliRunner().invoke(main, ["who-forgot", "--days", "14", "--json"]).stdout)
    assert (fortnight[0]["calls"], Decimal(fortnight[0]["week_usd"])) == (2, 6)


def test_the_fix_names_all_that_is_missing_as_code_can_say_it():
    def fix(function: str, reason: str, *missing: int) -> str:
        return suggested_fix(CallSite("a.py", 1, function, reason, "", None, 1, *missing, datetime.now(UTC)))

    assert fix("<module>", "context_lost", 1, 1, 1) == "with spanledger.attribution(user=..., feature=...):"
    assert fix("Search.run", "partial", 1, 1, 0) == 'with spanledger.attribution(user=..., feature="run"):'
    assert fix("run", "partial", 0, 0, 1) == "with spanledger.attribution(request_id=...):"


def test_the_fix_for_context_lost_at_the_ingress_is_the_middleware():
    site = CallSite("a.py", 1, "f", "no_baggage", "ingress", None, 1, 1, 1, 1, datetime.now(UTC))
    assert "middleware" in suggested_fix(site)
