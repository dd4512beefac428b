"""`spanledger report`: every line of it, in every format, over a month that a random generator of fixed seed made.

Golden files are in tests/data/report; `UPDATE_GOLDEN=1 pytest tests/test_report.py` writes them anew: look at them then.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert, migrations
from spanledger_clickhouse.database.connection import open_client, resolve_target
from spanledger_clickhouse.report.queries import forecast
from synthetic import call, open_shop

pytestmark = [pytest.mark.clock, pytest.mark.services]

GOLDEN = Path(__file__).parent / "data/report"
NOW = "2026-03-21 15:20:00"


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> str:
    where = resolve_target(f"chdb://{tmp_path_factory.mktemp('shop') / 'ledger'}")
    with open_client(where) as client:
        open_shop(client, where, datetime.fromisoformat(NOW).replace(tzinfo=UTC), 5000)
    return where.dsn


def run(dsn: str, *arguments: str) -> Result:
    return CliRunner(env={"SPANLEDGER_DSN": dsn}).invoke(main, ["report", "--until", NOW, *arguments])


@pytest.mark.parametrize("form", ["text", "md", "html", "json", "slack"])
def test_every_line_in_every_format(shop, form: str):
    found = run(shop, "--format", form, "--budget", "500")
    assert found.exit_code == 0, found.output
    golden = GOLDEN / f"week.{ {'text': 'txt', 'slack': 'slack.json'}.get(form, form) }"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(found.stdout)
    assert found.stdout == golden.read_text()


def test_the_figures_are_those_of_the_views(shop):
    told = json.loads(run(shop, "--json").stdout)
    [(total, calls)] = ask(shop, "SELECT sum(cost_usd), count() FROM llm_calls FINAL WHERE start_time >= '2026-03-14 16:00:00'")  # fmt: skip
    assert (Decimal(told["total_usd"]), told["calls"]) == (total, calls)
    assert Decimal(told["projected_month_usd"]) == total * 30 / 7
    assert sum(Decimal(each["cost_usd"]) for each in told["features"]) == total
    [(spent, projected, used_up)] = ask(
        shop, f"SELECT spent_usd, projected_usd, exhausted_at FROM budget_status_at(as_of = '{NOW}') WHERE name = 'everything'"
    )  # fmt: skip
    assert told["forecast"]["spent_usd"] == pytest.approx(spent, rel=1e-9)
    assert told["forecast"]["month_usd"] == pytest.approx(projected, rel=1e-4)
    assert told["forecast"]["exhausted_at"] is None
    assert used_up.month > 3, "the view looks beyond the month, the report does not"


def test_a_budget_that_will_not_last_says_when(shop):
    [(spent,)] = ask(shop, f"SELECT spent_usd FROM budget_status_at(as_of = '{NOW}') WHERE name = 'everything'")
    lines = run(shop, "--budget", str(round(spent + 20, 2))).stdout
    assert "budget used up          2026-03-2" in lines
    assert "OVER BUDGET" in run(shop, "--budget", "100").stdout
    assert "OVER BUDGET" not in run(shop, "--budget", "100000").stdout


def test_an_empty_ledger_has_a_report(tmp_path: Path):
    where = resolve_target(f"chdb://{tmp_path / 'ledger'}")
    with open_client(where) as client:
        migrations.migrate(client, where)
    for form in ("text", "md", "html", "json", "slack"):
        found = run(where.dsn, "--format", form)
        assert found.exit_code == 0, found.output
    assert "7-day total             $0.00" in run(where.dsn).stdout


def test_what_has_no_price_is_no_zero_and_breaks_no_report(tmp_path: Path):
    where = resolve_target(f"chdb://{tmp_path / 'ledger'}")
    at = datetime(2026, 3, 20, tzinfo=UTC)
    rows = [call(span_id="1" * 16, start_time=at, feature="[/stream]", user_id="u", cost_usd=None)]
    with open_client(where) as client:
        migrations.migrate(client, where)
        insert.insert(client, where, [tuple(row.values()) for row in rows])
    assert "[/stream]     -      -      1       -       -" in run(where.dsn).stdout
    spent = CliRunner(env={"SPANLEDGER_DSN": where.dsn}).invoke(main, ["spend"])
    assert spent.exit_code == 0
    assert "[/stream]" in spent.output


def test_a_report_that_ends_with_a_month_has_that_months_budgets(tmp_path: Path):
    where = resolve_target(f"chdb://{tmp_path / 'ledger'}")
    rows = [
        call(
            span_id=f"{n:016x}",
            start_time=datetime(2026, 3, 31, 12, tzinfo=UTC) + timedelta(days=n),
            cost_usd=Decimal(63 + 7 * n),
        )
        for n in range(2)
    ]
    with open_client(where) as client:
        migrations.migrate(client, where)
        insert.insert(client, where, [tuple(row.values()) for row in rows])
    environment = {"SPANLEDGER_DSN": where.dsn}
    CliRunner(env=environment).invoke(main, ["budget", "set", "all", "100"])
    march = CliRunner(env=environment).invoke(
        main, ["report", "--since", "2026-03-01", "--until", "2026-04-01", "--json"]
    )
    [budget] = json.loads(march.stdout)["budgets"]
    assert budget["spent_usd"] == 63


def test_a_window_that_ends_before_it_begins_is_refused(shop):
    found = run(shop, "--since", "2026-04-01")
    assert found.exit_code == 2
    assert "is not before" in found.output


def test_a_file_is_written_whole(shop, tmp_path: Path):
    out = tmp_path / "march.html"
    assert run(shop, "--format", "html", "--out", str(out)).exit_code == 0
    assert out.read_text().endswith("</body></html>\n")
    assert [path.name for path in tmp_path.iterdir()] == ["march.html"]


def test_a_month_that_has_ended_is_forecast_as_it_was():
    days = [(date(2026, 3, 4) + timedelta(days=n), Decimal(10)) for n in range(28)]
    found = forecast(days, 310.0, datetime(2026, 4, 1, tzinfo=UTC), Decimal(400))
    assert (found.month_usd, found.low_usd, found.high_usd, found.exhausted_at) == (310.0, 310.0, 310.0, None)


def test_hostile_names_stay_text():
    from spanledger_clickhouse.report import html, slack, text
    from spanledger_clickhouse.report.sections import Section

    row = ("<script>alert(1)</script>|*a*`b`", "1")
    section = Section("Cost by feature", ("feature", "cost"), [row])
    assert "<script>" not in html._table(section)
    assert text.markdown_table(section.head, [row])[2] == "| \\<script\\>alert(1)\\</script\\>\\|\\*a\\*\\`b\\` | 1 |"
    assert "<" not in slack._block(section)["text"]["text"]


def ask(dsn: str, query: str) -> list[tuple]:
    where = resolve_target(dsn)
    with open_client(where) as client:
        client.command(f"USE `{where.database}`")
        return list(client.query(query).result_rows)
