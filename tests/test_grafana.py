"""Dashboards and alert rules: every query runs over a synthetic month, with the macros of the data source expanded."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from spanledger_clickhouse.database.connection import Target, open_client, resolve_target
from synthetic import open_shop
from synthetic import shop as make_shop

sys.path.insert(0, str(ROOT / "tools"))

import grafana
from grafana_preview import Window, draw, expand, page

pytestmark = pytest.mark.services

NOW = datetime.now(UTC)
WEEK = Window(NOW - timedelta(days=7), NOW)
NUMBERS = ("Decimal", "Float", "Int", "UInt")
READABLE = (*NUMBERS, "String", "DateTime", "Date", "Bool", "Enum", "Array", "LowCardinality", "UUID")
PANELS = [
    pytest.param(panel, id=f"{made.uid.removeprefix('spanledger-')}: {panel.title}")
    for made in grafana.DASHBOARDS for panel in made.panels if isinstance(panel, grafana.Panel)
]  # fmt: skip


class Shop:
    def __init__(self, client: Any, where: Target, rows: list[dict[str, Any]]) -> None:
        self.client, self.where = client, where
        self.rows = rows

    def ask(self, sql: str) -> Any:
        return self.client.query(sql)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    where = resolve_target(f"chdb://{tmp_path_factory.mktemp('shop') / 'ledger'}")
    with open_client(where) as client:
        rows = open_shop(client, where, NOW, calls=6000)
        client.command(f"USE `{where.database}`")
        yield Shop(client, where, rows)


def open_rows() -> list[dict[str, Any]]:
    """All generated rows, including those that never arrived."""
    return make_shop(NOW, 6000)


def kinds(result: Any) -> list[str]:
    return [re.sub(r"^(LowCardinality|Nullable)\((.*)\)$", r"\2", kind.name) for kind in result.column_types]


@pytest.mark.parametrize("panel", PANELS)
def test_the_query_of_a_panel_returns_what_grafana_can_draw(shop: Shop, panel: grafana.Panel):
    result = shop.ask(expand(panel.sql, WEEK))
    names, types = list(result.column_names), kinds(result)
    assert result.result_rows, "no rows"
    assert not [kind for kind in types if not kind.startswith(READABLE) and "Nullable" not in kind], types
    if panel.kind == grafana.STAT:
        assert len(names) == 1
        assert types[0].startswith((*NUMBERS, "Nullable"))
        assert result.result_rows[0][0] is not None
    elif panel.kind == grafana.TREND:
        assert names == ["time", "name", "value"]
        assert {row[1] for row in result.result_rows} == {"this period", "the period before"}
    elif panel.kind == grafana.SERIES:
        assert names[0] == "time"
        assert types[0].startswith("DateTime")
        assert len({row[0] for row in result.result_rows}) > 1
        assert len(names) == 2 or types[1].startswith(("String", "LowCardinality")) or names[1] == "name"
    elif panel.kind in (grafana.GAUGE, grafana.BARS):
        assert len(names) == 2
    assert set(panel.units) <= set(names)
    assert set(panel.links) | set(panel.red) <= set(names)
    assert panel.description.endswith(".")
    if panel.kind == grafana.TABLE:
        assert not [kind for kind in types if kind.startswith("Array")], "a raw array is a helper's, not a reader's"
    assert "<" in draw(grafana.panel(panel, 1, 0, 0), names, result.result_rows)


@pytest.mark.parametrize(
    ("sql", "chosen", "expanded"),
    [
        ("$__timeFilter(c.t)", {}, "c.t >= toDateTime(1772323200) AND c.t <= toDateTime(1772326800)"),
        ("$__dateFilter(d)", {}, "d >= toDate('2026-03-01') AND d <= toDate('2026-03-01')"),
        ("$__timeInterval(f(a, b))", {}, "toStartOfInterval(toDateTime(f(a, b)), INTERVAL 60 second)"),
        ("$__fromTime $__toTime", {}, "toDateTime(1772323200) toDateTime(1772326800)"),
        ("$__conditionalAll(x IN (${feature:singlequote}), $feature)", {}, "1=1"),
        (
            "$__conditionalAll(x IN (${feature:singlequote}), $feature)",
            {"feature": ["a", "it's"]},
            "x IN ('a', 'it\\'s')",
        ),
        ("$__conditionalAll(x IN (${feature:singlequote}), $feature)", {"feature": [""]}, "x IN ('')"),
        ("x = '$request'", {}, "x = ''"),
    ],
)
def test_macros_are_expanded_as_the_plug_in_does(sql: str, chosen: dict[str, list[str]], expanded: str):
    """Its pkg/macros/macros.go, 4.20; `$__conditionalAll` is the browser's, before the others."""
    begin = datetime(2026, 3, 1, tzinfo=UTC)
    assert expand(sql, Window(begin, begin + timedelta(hours=1), chosen)) == expanded


def test_variables_filter_every_panel(shop: Shop):
    one = {"environment": ["prod"], "service": ["service-1"], "feature": ["chat", "it's"], "tenant": ["tenant-1"]}
    for parameter in PANELS:
        panel = parameter.values[0]
        assert isinstance(panel, grafana.Panel)
        shop.ask(expand(panel.sql, Window(WEEK.since, WEEK.until, one)))
    spent = next(panel for panel in grafana.BURN.panels if isinstance(panel, grafana.Panel))
    expected = sum(
        (row["cost_usd"] or Decimal(0) for row in shop.rows
         if row["environment"] == "prod" and row["service"] == "service-1" and row["feature"] == "chat"), Decimal(0),
    )  # fmt: skip
    month = Window(NOW - timedelta(days=32), NOW, {**one, "feature": ["chat"]})
    assert shop.ask(expand(spent.sql, month)).result_rows == [(expected,)]


def test_panels_show_the_figures_of_the_generated_rows(shop: Shop):
    def answer(made: grafana.Dashboard, title: str, window: Window = WEEK) -> Any:
        [panel] = [panel for panel in made.panels if isinstance(panel, grafana.Panel) and panel.title == title]
        return shop.ask(expand(panel.sql, window)).result_rows

    month = Window(NOW - timedelta(days=32), NOW)
    priced = [row for row in shop.rows if row["cost_usd"] is not None]
    assert answer(grafana.BURN, "Spend", month) == [(sum((row["cost_usd"] for row in priced), Decimal(0)),)]
    features = {row[0]: row[1] for row in answer(grafana.BURN, "Cost by feature", month)}
    assert features == {
        feature: sum((row["cost_usd"] for row in priced if row["feature"] == feature), Decimal(0))
        for feature in {row["feature"] for row in shop.rows}
    }  # fmt: skip
    assert answer(grafana.TRUST, "Missing rows", month) == [(6,)]  # two numbers of each of three processes
    assert answer(grafana.TRUST, "Duplicate rows", month) == [(2,)]
    [(residual,)] = shop.ask("SELECT sum(residual_usd) FROM reconciliation").result_rows
    lost = [row for row in open_rows() if row["sequence"] in (700, 701) and row["cost_usd"] is not None]
    twice = sum((row["cost_usd"] for row in shop.rows if row["scope"]), Decimal(0))
    expected = sum((row["cost_usd"] for row in lost), Decimal(0)) - twice
    assert float(residual) == pytest.approx(float(expected), abs=1e-3)  # invoices have six digits
    assert answer(grafana.WHERE, "Most expensive users")[0][0] == "user-847"
    unattributed = [row["cost_usd"] or Decimal(0) for row in shop.rows if row["attribution_reason"]]
    [(share,)] = answer(grafana.TRUST, "Unattributed spend", month)
    assert float(share) == pytest.approx(
        float(sum(unattributed, Decimal(0)) / sum((row["cost_usd"] for row in priced), Decimal(0)))
    )


@pytest.mark.parametrize("rule", grafana.RULES, ids=lambda rule: rule.uid)
def test_the_query_of_a_rule_runs_without_a_browser(shop: Shop, rule: grafana.Rule):
    assert "$" not in rule.sql, "only the browser expands macros and variables"
    shop.ask(rule.sql)
    columns = {name: kind for name, kind, *_ in shop.ask(f"DESCRIBE ({rule.sql})").result_rows}
    numeric = [name for name, kind in columns.items() if re.match(r"(Nullable\()?U?(Float|Decimal|Int)", kind)]
    assert len(numeric) == 1, f"one number is the value, strings are labels: {columns}"
    assert all("String" in kind for name, kind in columns.items() if name not in numeric), columns
    labels = columns.keys() - set(numeric)
    assert set(re.findall(r"\$labels\.(\w+)", rule.description)) <= labels


def test_the_alert_for_a_runaway_user_fires(shop: Shop):
    """The first rule that pages names the user and the feature."""
    firing = {
        rule.uid: [row for row in shop.ask(rule.sql).result_rows if float(row[-1] or 0) > rule.above]
        for rule in grafana.RULES
    }
    highest, *others = firing["spanledger-user-hour"]
    assert highest[:2] == ("user-847", "summarize")
    assert all(float(row[-1]) < float(highest[-1]) / 5 for row in others), (
        "at some hours the largest customer alerts too"
    )
    assert (
        firing["spanledger-budget"] or firing["spanledger-budget-end"] or NOW.hour < 3
    )  # a day that has just started has no spend yet
    assert firing["spanledger-missing-row"], "two rows of a process are missing"
    assert not firing["spanledger-hole"], "no one is woken for them"
    since = (NOW - timedelta(days=1)).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    day = [row for row in shop.rows if row["start_time"] >= since and row["cost_usd"] is not None]
    lost = sum((row["cost_usd"] for row in day if row["attribution_reason"]), Decimal(0))
    [unattributed] = [rule for rule in grafana.RULES if rule.uid == "spanledger-unattributed"]
    [(share,)] = shop.ask(
        unattributed.sql.replace("now('UTC')", f"toDateTime('{NOW:%Y-%m-%d %H:%M:%S}', 'UTC')")
    ).result_rows
    assert share == pytest.approx(float(lost / sum((row["cost_usd"] for row in day), Decimal(0))))
    assert not firing["spanledger-silence"]


def test_the_periods_of_a_trend_are_those_of_the_calls(shop: Shop):
    [spend] = [
        panel for panel in grafana.OVERVIEW.panels if isinstance(panel, grafana.Panel) and panel.title == "Spend"
    ]
    end = NOW.replace(minute=0, second=0, microsecond=0)
    window = Window(end - timedelta(days=7), end - timedelta(seconds=1))
    sums: dict[str, Decimal] = {}
    for _, name, value in shop.ask(expand(spend.sql, window)).result_rows:
        sums[name] = sums.get(name, Decimal(0)) + value

    def cost(begin: datetime, until: datetime) -> Decimal:
        return sum(
            (row["cost_usd"] or Decimal(0) for row in shop.rows if begin <= row["start_time"] < until), Decimal(0)
        )

    week = timedelta(days=7)
    assert sums["this period"] == cost(end - week, end)
    before = sums["the period before"]
    assert abs(before - cost(end - 2 * week, end - week)) <= cost(end - 2 * week, end - 2 * week + timedelta(hours=1))


def test_the_month_adds_up_to_its_budget_line(shop: Shop):
    [panel] = [
        p for p in grafana.OVERVIEW.panels if isinstance(p, grafana.Panel) and p.title.startswith("Spend of this month")
    ]
    rows = shop.ask(panel.sql).result_rows
    first = NOW.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    spent = [value for _, name, value in rows if name == "spent"]
    assert spent == sorted(spent)
    month = sum((row["cost_usd"] or Decimal(0) for row in shop.rows if row["start_time"] >= first), Decimal(0))
    assert spent[-1] == pytest.approx(float(month))
    budget = {(time, value) for time, name, value in rows if name == "budget"}
    assert len(budget) == ((first + timedelta(days=32)).replace(day=1) - first).days
    [(amount,)] = shop.ask(
        "SELECT min(amount_usd) FROM budget_status WHERE scope = 'global' AND period = 'month'"
    ).result_rows
    assert {value for _, value in budget} == {float(amount)}


def test_only_what_cannot_wait_wakes_somebody():
    assert {rule.uid for rule in grafana.RULES if rule.severity == "page"} == {
        "spanledger-budget-end", "spanledger-hole", "spanledger-silence",
    }  # fmt: skip
    assert {rule.severity for rule in grafana.RULES} == {"page", "notify"}


def test_a_drill_down_keeps_the_range_and_the_filters():
    links = [
        url
        for made in grafana.DASHBOARDS
        for panel in made.panels
        if isinstance(panel, grafana.Panel)
        for url in panel.links.values()
        if url.startswith("/d/")
    ]
    assert links
    for url in links:
        for kept in (
            "${__url_time_range}",
            "${environment:queryparam}",
            "${service:queryparam}",
            "${tenant:queryparam}",
        ):
            assert kept in url


def test_generated_files_are_up_to_date():
    for path, text in grafana.files().items():
        assert path.read_text() == text, f"{path.name} is out of date: python tools/grafana.py"


def test_panels_do_not_overlap_and_have_unique_ids():
    for made in grafana.DASHBOARDS:
        panels = grafana.dashboard(made)["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        taken: set[tuple[int, int]] = set()
        for panel in panels:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            assert place["x"] + place["w"] <= 24
            taken |= cells
        json.dumps(grafana.dashboard(made))


def test_dashboards_match_the_types_of_grafana(tmp_path: Path):
    home = ROOT / ".tools/grafana"
    compiler = home / "node_modules/.bin/tsc"
    if not compiler.exists():
        assert shutil.which("npm"), "Grafana's types come from npm: install Node.js"
        home.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--no-save", "--no-package-lock", "--silent", "--prefix", home, "@grafana/schema@13.2.3", "typescript@5.9.3"],
                       check=True, capture_output=True, timeout=300)  # fmt: skip

    def errors(made: dict[str, Any], name: str) -> str:
        source = home / f"{name}.ts"
        text = json.dumps(made).replace(
            '"mode": "absolute"', '"mode": ThresholdsMode.Absolute'
        )  # an enum in TypeScript
        source.write_text(
            "import { type Dashboard, ThresholdsMode } from '@grafana/schema';\n"
            f"export const d: Partial<Dashboard> = {text};\n"
        )
        done = subprocess.run([compiler, "--noEmit", "--strict", "--skipLibCheck", "--moduleResolution", "bundler", "--module", "esnext", source],
                              cwd=home, capture_output=True, text=True, check=False)  # fmt: skip
        source.unlink()
        return done.stdout

    for made in grafana.DASHBOARDS:
        assert errors(grafana.dashboard(made), made.uid) == ""
    assert errors({**grafana.dashboard(grafana.BURN), "graphTooltip": "both"}, "broken") != "", (
        "the compiler reports no error"
    )


def test_every_panel_of_a_dashboard_has_data(shop: Shop):
    def ask(sql: str) -> Any:
        result = shop.ask(sql)
        return result.column_names, result.result_rows

    for made in grafana.DASHBOARDS:
        text, height = page(grafana.dashboard(made), ask, WEEK)
        assert "No data" not in text
        assert height > 500
