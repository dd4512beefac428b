"""Least privileges: the statements of `spanledger rights`, and what each role can do with them.

The embedded engine has no CREATE USER, but reads the grants and row filters of its one user from a config.xml in the
working directory. So each role runs in a separate process, with the grants of the statements.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import grants as rights
from spanledger_clickhouse.database.connection import DatabaseError

pytestmark = pytest.mark.services

CONFIG = "<clickhouse><users_config>users.xml</users_config></clickhouse>"
USERS = """<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users><default>
<password></password><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>
<grants>{grants}</grants><databases><spanledger>{filters}</spanledger></databases></default></users></clickhouse>"""

ASK = """
import json, sys
import clickhouse_connect
from clickhouse_connect.driver.exceptions import Error
from spanledger_clickhouse.database import insert as writer
from spanledger_clickhouse.database.connection import DatabaseError, resolve_target
from spanledger_clickhouse.session import open_ledger
from synthetic import call

where = resolve_target(f"chdb://{sys.argv[1]}")
client = clickhouse_connect.get_client(dsn=where.dsn)
answers = []
for question in json.loads(sys.argv[2]):
    try:
        if question == "insert":
            writer.insert(client, where, [tuple(call(span_id="f" * 16, tenant_id="acme").values())])
            answers.append("done")
        elif question == "a command":
            with open_ledger(dsn=where.dsn) as ledger:
                answers.append([list(map(str, row)) for row in ledger.query("SELECT count() > 0 FROM llm_calls").rows])
        else:
            answers.append([list(map(str, row)) for row in client.query(question).result_rows])
    except (Error, DatabaseError) as error:
        cause = error if isinstance(error, Error) else error.__cause__
        answers.append(cause.code)
print(json.dumps(answers))
"""
DENIED, CALLS = 497, "SELECT sum(calls) FROM spanledger.{}"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed ledger with five calls: three of acme, two of globex."""
    directory = tmp_path_factory.mktemp("kept") / "ledger"
    script = (
        "import sys; from spanledger_clickhouse.database import migrations as schema, insert as writer\n"
        "from spanledger_clickhouse.database.connection import open_client, resolve_target; from spanledger_clickhouse.database.rollups import Rollups\n"
        "from synthetic import call\n"
        "where = resolve_target(f'chdb://{sys.argv[1]}')\n"
        "rows = [tuple(call(span_id=f'{n:016x}', tenant_id='acme' if n < 3 else 'globex', user_id=f'u{n}').values()) for n in range(5)]\n"
        "with open_client(where) as client:\n"
        "    schema.migrate(client, where); writer.insert(client, where, rows); Rollups(client, where).refresh()\n"
    )
    run([script, str(directory)], directory.parent)
    return directory


def run(arguments: list[str], directory: Path) -> str:
    path = {"PYTHONPATH": str(Path(__file__).parent), "HOME": str(directory), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", *arguments],
        cwd=directory,
        env=path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def allowed(kept: Path, directory: Path, role: str, questions: list[str]) -> list[Any]:
    """The answers of a user with the role's grants and row policies: rows, or the code of the refusal."""
    made = rights.statements("spanledger", ("acme",))
    grants = [s.removesuffix(f" TO {role}") for s in made if s.startswith("GRANT") and s.endswith(f" TO {role}")]
    policies = [re.search(r"ON `spanledger`\.(\w+) .* USING (.*) AS ", s) for s in made if s.endswith(f" TO {role}")]
    filters = [f"<{p[1]}><filter>{p[2]}</filter></{p[1]}>" for p in policies if p]
    assert grants
    (directory / "config.xml").write_text(CONFIG)
    (directory / "users.xml").write_text(
        USERS.format(grants="".join(f"<query>{grant}</query>" for grant in grants), filters="".join(filters))
    )
    return json.loads(run([ASK, str(kept), json.dumps(questions)], directory))


def test_a_writer_adds_rows_and_reads_nothing(kept, tmp_path):
    asked = ["insert", "SELECT count() FROM spanledger.llm_calls", "ALTER TABLE spanledger.llm_calls DELETE WHERE 1",
             "DROP TABLE spanledger.llm_calls", "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')"]  # fmt: skip
    assert allowed(kept, tmp_path, "spanledger_writer", asked) == ["done", *[DENIED] * 4]


def test_a_gateway_adds_rows_and_reads_only_response_ids(kept, tmp_path):
    asked = ["insert", "SELECT count(response_id) > 0 FROM spanledger.llm_calls", "SELECT user_id FROM spanledger.llm_calls", "SELECT cost_usd FROM spanledger.llm_calls"]  # fmt: skip
    assert allowed(kept, tmp_path, "spanledger_gateway", asked) == ["done", [["1"]], DENIED, DENIED]


def test_a_reader_sees_everything_and_changes_nothing(kept, tmp_path):
    asked = [CALLS.format("llm_costs"), "SELECT count() > 0 FROM spanledger.cost_by_user", "insert",
             "ALTER TABLE spanledger.llm_calls DELETE WHERE 1", "TRUNCATE TABLE spanledger.budgets", "a command"]  # fmt: skip
    assert allowed(kept, tmp_path, "spanledger_reader", asked)[1:] == [[["1"]], *[DENIED] * 3, [["1"]]]


def test_a_tenant_sees_its_own_rows_in_tables_views_and_rollups(kept, tmp_path):
    role = "`spanledger_tenant_acme`"
    asked = ["SELECT DISTINCT tenant_id FROM spanledger.llm_calls", "SELECT DISTINCT tenant_id FROM spanledger.llm_costs_users",
             "SELECT DISTINCT tenant_id FROM spanledger.llm_costs_daily", "SELECT count() FROM spanledger.llm_costs_1h",
             "SELECT count() FROM spanledger.cost_by_user WHERE user_id IN ('u3', 'u4')", "insert"]  # fmt: skip
    assert allowed(kept, tmp_path, role, asked) == [[["acme"]]] * 3 + [[["0"]], [["0"]], DENIED]


ATTACKS = (
    "SELECT * FROM spanledger.llm_calls WHERE tenant_id = 'globex'",
    "SELECT * FROM spanledger.llm_calls FINAL WHERE 1 OR tenant_id != ''",
    "SELECT * FROM spanledger.llm_calls PREWHERE user_id = 'u3'",
    "SELECT count() FROM spanledger.llm_calls WHERE user_id IN (SELECT user_id FROM spanledger.llm_calls WHERE tenant_id = 'globex')",
    "WITH x AS (SELECT * FROM spanledger.llm_calls) SELECT * FROM x WHERE tenant_id != 'acme'",
    "SELECT * FROM merge('spanledger', '.*')", "SELECT * FROM merge('spanledger', 'llm_calls')",
    "SELECT * FROM remote('127.0.0.1', spanledger.llm_calls)", "SELECT * FROM cluster('default', spanledger.llm_calls)",
    "SELECT * FROM loop(spanledger, llm_calls) LIMIT 100", "SELECT * FROM mergeTreeIndex(spanledger, llm_calls)",
    "SELECT * FROM file('*', 'LineAsString', 'line String')", "SELECT * FROM executable('id', 'LineAsString', 'line String', (SELECT 1))",
    "SELECT * FROM clusterAllReplicas('default', system.query_log)", "SELECT * FROM system.query_log", "SELECT * FROM system.processes",
    "SELECT * FROM system.tables WHERE database = 'spanledger' AND create_table_query LIKE '%globex%'",
    "SELECT * FROM system.row_policies", "SELECT * FROM system.users", "SHOW CREATE TABLE spanledger.llm_calls",
    "CREATE VIEW spanledger.mine AS SELECT * FROM spanledger.llm_calls", "CREATE TEMPORARY TABLE mine AS SELECT * FROM spanledger.llm_calls",
    "CREATE OR REPLACE VIEW spanledger.cost_by_user DEFINER = default SQL SECURITY DEFINER AS SELECT * FROM spanledger.llm_calls",
    "ALTER TABLE spanledger.llm_calls UPDATE tenant_id = 'acme' WHERE 1", "DROP ROW POLICY acme ON spanledger.llm_calls",
    "CREATE ROW POLICY mine ON spanledger.llm_calls USING 1 TO ALL", "GRANT SELECT ON *.* TO CURRENT_USER", "SET ROLE ALL",
    "INSERT INTO FUNCTION file('x.csv') SELECT * FROM spanledger.llm_calls", "SYSTEM FLUSH LOGS", "KILL QUERY WHERE 1",
    "SELECT * FROM spanledger.ledger_events", "SELECT * FROM spanledger.corrections", "SELECT * FROM spanledger.llm_costs_1d_user",
    "SELECT dictGet('spanledger.llm_rates_dictionary', 'input', 1)", "EXPLAIN ESTIMATE SELECT * FROM spanledger.llm_calls",
    "SELECT * FROM spanledger.llm_costs_users_between(since = '2020-01-01 00:00:00', until = '2030-01-01 00:00:00')",
)  # fmt: skip
"""What a customer with a password of the server might try."""


def test_a_tenant_that_attacks_learns_nothing_of_another(kept, tmp_path):
    answers = allowed(kept, tmp_path, "`spanledger_tenant_acme`", list(ATTACKS))
    for attack, answer in zip(ATTACKS, answers, strict=True):
        shown = json.dumps(answer)
        assert not any(text in shown for text in ("globex", "u3", "u4")) or "row_policies" in attack, (
            attack,
            shown[:300],
        )
    assert answers[3] in ([["0"]], DENIED)


def test_a_writer_and_a_gateway_that_are_stolen_read_no_costs_and_change_nothing(kept, tmp_path):
    for role in ("spanledger_writer", "spanledger_gateway"):
        (tmp_path / role).mkdir()
        answers = allowed(kept, tmp_path / role, role, list(ATTACKS))
        for attack, answer in zip(ATTACKS, answers, strict=True):
            assert not any(text in json.dumps(answer) for text in ("u3", "u4")), (role, attack)


def test_every_statement_parses_and_grants_the_least(embedded):
    client, _ = embedded
    made = rights.statements("llm", ("acme",))
    for statement in made:
        client.query(f"EXPLAIN AST {statement}")
    grants = {
        role: [s for s in made if s.startswith("GRANT") and s.endswith(f"TO {role}")]
        for role in ("spanledger_writer", "spanledger_reader", "`spanledger_tenant_acme`")
    }
    assert grants["spanledger_writer"] == [
        "GRANT INSERT ON `llm`.llm_calls TO spanledger_writer",
        "GRANT INSERT ON `llm`.ledger_events TO spanledger_writer",
        "GRANT INSERT ON `llm`.llm_jobs TO spanledger_writer",
        "GRANT INSERT ON `llm`.outcomes TO spanledger_writer",
    ]
    assert grants["spanledger_reader"] == ["GRANT SELECT ON `llm`.* TO spanledger_reader"]
    tenant = {grant.split(" ON `llm`.")[1].split()[0] for grant in grants["`spanledger_tenant_acme`"]}
    assert {"llm_calls", "cost_by_user", "llm_costs_daily"} <= tenant
    assert not {name for name in tenant if "*" in name or "stage" in name or "refresh" in name or "local" in name}
    policies = [s for s in made if s.startswith("CREATE ROW POLICY")]
    tables = {
        row[0]
        for row in client.query(
            "SELECT name FROM system.tables WHERE database = 'spanledger' AND engine LIKE '%MergeTree'"
        ).result_rows
    }
    assert tables - {"llm_prices", "llm_rates"} == {s.split(" ON `llm`.")[1].split()[0] for s in policies}
    printed = CliRunner().invoke(main, ["rights", "--database", "llm", "--tenant", "acme"])
    assert printed.output.splitlines() == [f"{statement};" for statement in made]
    with pytest.raises(DatabaseError, match="is not a valid name"):
        rights.statements("llm", ("x' OR 1",))
