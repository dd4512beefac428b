"""`spanledger report`: every line in every format, over a synthetic month with a fixed seed.

Golden files are in tests/data/report; `UPDATE_GOLDEN=1 pytest tests/test_report.py` rewrites them: check the diff.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert, migrations
from spanledger_clickhouse.database.connection import open_client, resolve_target
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
def test_a_report_matches_its_golden_file_in_every_format(shop, form: str):
    result = run(shop, "--format", form, "--budget", "500")
    assert result.exit_code == 0, result.output
    golden = GOLDEN / f"week.{ {'text': 'txt', 'slack': 'slack.json'}.get(form, form) }"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(result.stdout)
    assert result.stdout == golden.read_text()


def test_figures_match_the_views(shop):
    figures = json.loads(run(shop, "--json").stdout)
    [(total, calls)] = ask(shop, "SELECT sum(cost_usd), count() FROM llm_calls FINAL WHERE start_time >= '2026-03-14 16:00:00'")  # fmt: skip
    assert (Decimal(figures["total_usd"]), figures["calls"]) == (total, calls)
    assert Decimal(figures["projected_month_usd"]) == total * 30 / 7
    assert sum(Decimal(feature["cost_usd"]) for feature in figures["features"]) == total
    [(spent, projected, exhausted_at)] = ask(
        shop, f"SELECT spent_usd, projected_usd, exhausted_at FROM budget_status_at(as_of = '{NOW}') WHERE name = 'everything'"
    )  # fmt: skip
    assert figures["forecast"]["spent_usd"] == pytest.approx(spent, rel=1e-9)
    assert figures["forecast"]["month_usd"] == pytest.approx(projected, rel=1e-4)
    assert figures["forecast"]["exhausted_at"] is None
    assert exhausted_at is None, "no date after the period"


def test_an_insufficient_budget_has_an_exhaustion_date(shop):
    [(spent,)] = ask(shop, f"SELECT spent_usd FROM budget_status_at(as_of = '{NOW}') WHERE name = 'everything'")
    lines = run(shop, "--budget", str(round(spent + 20, 2))).stdout
    assert "budget exhausted on      2026-03-2" in lines
    assert "OVER BUDGET" in run(shop, "--budget", "100").stdout
    assert "OVER BUDGET" not in run(shop, "--budget", "100000").stdout


def test_an_overspent_month_was_exhausted_when_it_crossed_its_budget(shop):
    [(first, cost)] = ask(
        shop,
        "SELECT toDate(start_time) AS day, sum(cost_usd) AS cost FROM llm_calls FINAL WHERE toStartOfMonth(start_time) = '2026-02-01' "
        "GROUP BY day HAVING cost > 0 ORDER BY day LIMIT 1",
    )
    arguments = ("--since", "2026-02-01", "--until", "2026-03-01", "--budget", f"{cost / 2:.9f}", "--json")
    exhausted_at = datetime.fromisoformat(json.loads(run(shop, *arguments).stdout)["forecast"]["exhausted_at"])
    assert abs(exhausted_at - datetime(first.year, first.month, first.day, 12, tzinfo=UTC)) < timedelta(minutes=1)


def test_an_empty_ledger_has_a_report(tmp_path: Path):
    where = resolve_target(f"chdb://{tmp_path / 'ledger'}")
    with open_client(where) as client:
        migrations.migrate(client, where)
    for form in ("text", "md", "html", "json", "slack"):
        result = run(where.dsn, "--format", form)
        assert result.exit_code == 0, result.output
    assert "7-day total              $0.00" in run(where.dsn).stdout


def test_an_unpriced_call_has_an_unknown_cost_in_the_report(tmp_path: Path):
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


def test_a_report_up_to_the_end_of_a_month_shows_the_budgets_of_that_month(tmp_path: Path):
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


def test_a_period_that_ends_before_its_start_is_rejected(shop):
    result = run(shop, "--since", "2026-04-01")
    assert result.exit_code == 2
    assert "is not before" in result.output


def test_an_output_file_is_written_atomically(shop, tmp_path: Path):
    out = tmp_path / "march.html"
    assert run(shop, "--format", "html", "--out", str(out)).exit_code == 0
    assert out.read_text().endswith("</body></html>\n")
    assert [path.name for path in tmp_path.iterdir()] == ["march.html"]


def test_the_forecast_of_a_past_month_is_its_spend(shop):
    [(spent,)] = ask(shop, "SELECT sum(cost_usd) FROM llm_calls FINAL WHERE toStartOfMonth(start_time) = '2026-02-01'")
    arguments = ("--since", "2026-02-01", "--until", "2026-03-01", "--budget", "1000000", "--json")
    forecast = json.loads(run(shop, *arguments).stdout)["forecast"]
    assert spent > 0
    amounts = [forecast[name] for name in ("spent_usd", "month_usd", "low_usd", "high_usd")]
    assert amounts == pytest.approx([float(spent)] * 4, rel=1e-9)
    assert forecast["exhausted_at"] is None


def test_markup_in_names_is_escaped():
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
