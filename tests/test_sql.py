"""`spanledger sql`: statements run in read-only mode; writes require --write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from empty_ledger import empty_ledger
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import open_client, resolve_target
from spanledger_clickhouse.database.ledger import READONLY_ERROR, Ledger, NotReadOnlyError
from synthetic import call

pytestmark = pytest.mark.services

READS = {
    "SELECT count() AS n FROM llm_calls": [{"n": 2}],
    "/* how many */ (SELECT count() AS n FROM llm_calls)": [{"n": 2}],
    "FROM llm_calls SELECT count() AS n": [{"n": 2}],
    "SELECT\n  count() AS n\nFROM llm_calls": [{"n": 2}],
    "SELECT ';' AS a, 'INTO OUTFILE' AS b;  -- one; statement": [{"a": ";", "b": "INTO OUTFILE"}],
    "WITH 1 AS x SELECT x": [{"x": 1}],
    "SELECT count() AS n FROM numbers(3)": [{"n": 3}],
    "SELECT 'file(' AS file, format('{}', 'x') AS url": [{"file": "file(", "url": "x"}],
    "SELECT 1 AS x UNION ALL SELECT 1": [{"x": 1}, {"x": 1}],
    "EXISTS TABLE llm_calls": [{"result": 1}],
}
LISTS = ("SHOW TABLES", "SHOW CREATE TABLE llm_calls", "DESC llm_calls", "EXPLAIN SELECT 1")
WRITES = (
    "SELECT 1; DROP TABLE llm_calls",
    "SELECT 1; SELECT 2",
    "SET readonly = 0; DROP TABLE llm_calls",
    "WITH x AS (SELECT 'a' AS feature) INSERT INTO feature_rules (feature) SELECT feature FROM x",
    "INSERT INTO feature_rules (feature) VALUES ('a')",
    "INSERT INTO FUNCTION file('{file}') SELECT 1",
    "SELECT 1 INTO OUTFILE '{file}'",
    "EXPLAIN SELECT 1 INTO OUTFILE '{file}'",
    "SELECT * FROM file('{there}', 'LineAsString')",
    "SELECT * FROM url('http://127.0.0.1:9/', 'LineAsString')",
    "SELECT * FROM sqlite('{file}', 't')",
    "DESCRIBE TABLE sqlite('{file}', 't')",
    "EXPLAIN SELECT * FROM sqlite('{file}', 't')",
    "DESCRIBE TABLE url('http://127.0.0.1:9/', 'LineAsString')",
    "DESCRIBE TABLE file('{there}', 'LineAsString')",
    "SELECT file('{there}')",
    "SELECT 1 SETTINGS readonly = 0",
    "DROP TABLE llm_calls",
    "TRUNCATE TABLE llm_calls",
    "ALTER TABLE llm_calls DELETE WHERE 1",
    "DELETE FROM llm_calls WHERE 1",
    "UPDATE llm_calls SET user_id = 'x' WHERE 1",
    "OPTIMIZE TABLE llm_calls",
    "RENAME TABLE llm_calls TO other",
    "EXCHANGE TABLES llm_calls AND budgets",
    "DETACH TABLE llm_calls",
    "ATTACH TABLE other",
    "UNDROP TABLE other",
    "CREATE TABLE other (a Int8) ENGINE = Memory",
    "CREATE TEMPORARY TABLE other (a Int8)",
    "CREATE FUNCTION f AS (x) -> x",
    "CREATE USER mallory",
    "GRANT ALL ON *.* TO mallory",
    "BACKUP TABLE llm_calls TO File('{file}')",
    "SYSTEM STOP MERGES",
    "KILL QUERY WHERE 1",
    "SET max_threads = 1",
    "USE default",
)


def sql(*words: str) -> Result:
    return CliRunner().invoke(main, ["sql", *words])


@pytest.fixture(params=["embedded", "server"])
def dsn(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A ledger with two calls, in the embedded engine and behind ClickHouse's HTTP interface."""
    embedded = request.param == "embedded"
    where = empty_ledger(tmp_path / "ledger") if embedded else resolve_target(request.getfixturevalue("migrated_front"))
    with open_client(where) as client:
        insert.insert(client, where, [tuple(call(span_id=f"{n:016x}", user_id=f"u{n}").values()) for n in range(2)])
    monkeypatch.setenv("SPANLEDGER_DSN", where.dsn)
    return where.dsn


def state(dsn: str) -> Any:
    where = resolve_target(dsn)
    with open_client(where) as client:
        tables = client.query(
            "SELECT name, total_rows FROM system.tables WHERE database = {db:String} ORDER BY name",
            parameters={"db": where.database},
        ).result_rows
        return tables, client.query(f"SELECT user_id FROM `{where.database}`.llm_calls ORDER BY ALL").result_rows


def test_every_read_only_statement_is_executed(dsn: str):
    assert {query: json.loads(sql(query, "--json").stdout) for query in READS} == READS
    assert all(json.loads(sql(query, "--json").stdout) for query in LISTS)


def test_no_statement_that_may_write_is_executed_without_write(dsn: str, tmp_path: Path):
    before = state(dsn)
    there, file = tmp_path / "there", tmp_path / "out.tsv"
    there.write_text("x")
    results = {query: sql(query.replace("{file}", str(file)).replace("{there}", str(there))) for query in WRITES}
    assert [query for query, result in results.items() if result.exit_code == 0] == []
    reasons = ("Pass --write", "Multi-statements")
    assert {q: r.output for q, r in results.items() if not any(reason in r.output for reason in reasons)} == {}
    assert not file.exists()
    assert state(dsn) == before


def test_the_database_rejects_writes_that_look_like_reads(dsn: str, monkeypatch: pytest.MonkeyPatch):
    import re

    monkeypatch.setattr("spanledger_clickhouse.database.ledger.READS", re.compile(""))
    where = resolve_target(dsn)
    for statement in ("DROP TABLE llm_calls", "WITH 1 AS x INSERT INTO feature_rules (feature) SELECT 'a'"):
        with open_client(where) as client:
            client.command(f"USE `{where.database}`") if where.embedded else setattr(client, "database", where.database)
            with pytest.raises(NotReadOnlyError) as refused:
                Ledger(client, where).read(statement)
            assert getattr(refused.value.__cause__, "code", None) == READONLY_ERROR


def test_a_statement_that_writes_names_the_option(dsn: str):
    refused = sql("DROP TABLE llm_calls")
    assert (refused.exit_code, "Pass --write" in refused.output) == (2, True)


def test_several_statements_are_rejected_with_the_message_of_the_parser(dsn: str):
    refused = sql("SELECT 1; DROP TABLE llm_calls")
    assert (refused.exit_code, "Multi-statements are not allowed" in refused.output) == (1, True)


def test_with_write_a_statement_changes_the_ledger(dsn: str):
    query = "ALTER TABLE llm_calls DELETE WHERE user_id = 'u0' SETTINGS mutations_sync = 2"
    assert sql(query, "--write").exit_code == 0
    assert json.loads(sql("SELECT count() AS n FROM llm_calls", "--json").stdout) == [{"n": 1}]


def test_values_that_json_or_rich_cannot_represent_are_printed(dsn: str):
    odd = sql("SELECT generateUUIDv4() AS id, nan AS x, 'a' AS b_usd, 'c' AS utilisation", "--json")
    assert json.loads(odd.stdout)[0]["x"] is None
    assert sql("SELECT nan AS x_usd, 'a' AS b_usd, '[/x]' AS c").exit_code == 0
