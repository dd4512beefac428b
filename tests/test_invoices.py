"""Exports as providers write them, fetched from their APIs or from files; other currencies."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner

from empty_ledger import empty_ledger
from spanledger_clickhouse import http_client
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import open_client
from spanledger_clickhouse.invoices import exchange_rates, fetch
from spanledger_clickhouse.invoices.lines import InvoiceError, InvoiceLine, model_key
from spanledger_clickhouse.invoices.provider_exports import read
from spanledger_clickhouse.money import shown_in, usd
from spanledger_clickhouse.report.showback import Showback
from synthetic import call

pytestmark = [pytest.mark.clock, pytest.mark.services]

EXPORTS = Path(__file__).parent / "data/invoices"
DAY = date(2026, 11, 20)


def read_table(*rows: str) -> list[InvoiceLine]:
    return read("\n".join(rows).encode())


@pytest.mark.parametrize(
    ("name", "count", "total", "models", "places"),
    [
        ("openai_cost_grouped.csv", 21, "692.0861766", {"gpt-4.1-mini", "gpt-5.4", "text-embedding-3-small"}, 7),
        ("openai_costs.json", 21, "692.0861766", {"gpt-4.1-mini", "gpt-5.4", "text-embedding-3-small"}, 12),
        ("claude_api_cost.csv", 18, "1886.32", {"claude-haiku-4-5", "claude-sonnet-4-6"}, 2),
        ("anthropic_cost_report.json", 18, "1886.337922", {"claude-haiku-4-5", "claude-sonnet-4-6"}, 8),
        ("generic_excel.csv", 1, "12.34", {"gpt-5.4"}, 2),
    ],
)
def test_an_export_is_read_as_it_comes(name: str, count: int, total: str, models: set[str], places: int):
    lines = read((EXPORTS / name).read_bytes())
    assert (len(lines), sum(line.usd for line in lines)) == (count, Decimal(total))
    assert ({line.model for line in lines}, lines[0].places, lines[0].day) == (models, places, DAY)


def test_a_part_of_an_export_is_refused():
    with pytest.raises(InvoiceError, match="has_more"):
        read((EXPORTS / "openai_costs_more.json").read_bytes())
    whole = (EXPORTS / "openai_cost_grouped.csv").read_bytes()
    with pytest.raises(InvoiceError, match="cut off"):
        read(whole[: whole.rindex(b",proj_abc")])
    more, last = (json.loads((EXPORTS / name).read_text()) for name in ("openai_costs_more.json", "openai_costs.json"))
    rest = {**last, "data": last["data"][len(more["data"]) :]}
    assert sum(line.usd for line in read(json.dumps([more, rest]).encode())) == Decimal("692.0861766"), (
        "all pages, in one list"
    )
    with pytest.raises(InvoiceError, match="twice"):
        read(json.dumps([more, more, rest]).encode())
    assert read(gzip.compress(whole)) == read(whole)


def test_the_console_and_the_api_of_anthropic_agree_but_for_rounding():
    console, report = (
        read((EXPORTS / name).read_bytes()) for name in ("claude_api_cost.csv", "anthropic_cost_report.json")
    )
    for of_console, of_report in zip(console, report, strict=True):
        assert of_console[:4] == of_report[:4]
        assert abs(of_console.usd - of_report.usd) <= of_console.rounding


def test_the_cost_and_usage_report_of_aws_is_read():
    head = "line_item_usage_start_date,line_item_line_item_type,line_item_usage_account_id,line_item_product_code,product_product_name,line_item_usage_type,line_item_currency_code,line_item_unblended_cost"
    lines = read_table(
        head,
        "2026-11-20T05:00:00.000Z,Usage,123456789012,abc123,Claude Sonnet 4.5 (Amazon Bedrock Edition),USE1-MP:USE1_InputTokenCount-Units,USD,1.25",
        "2026-11-20T06:00:00.000Z,Usage,123456789012,AmazonBedrock,Amazon Bedrock,USE1-NovaLite-input-tokens,USD,0.5",
        "2026-11-20T06:00:00.000Z,Usage,123456789012,AmazonEC2,Amazon Elastic Compute Cloud,BoxUsage:m5.large,USD,99",
        "2026-11-20T00:00:00.000Z,Tax,123456789012,AmazonBedrock,Amazon Bedrock,,USD,0.1",
        "2026-11-20T00:00:00.000Z,SavingsPlanNegation,123456789012,AmazonBedrock,Amazon Bedrock,,USD,-7",
        "2026-11-20T00:00:00.000Z,Credit,123456789012,AmazonBedrock,Amazon Bedrock,,USD,-0.25",
    )
    assert [(line.model, line.usd, line.kind) for line in lines] == [
        ("claude-sonnet-4-5", Decimal("1.25"), "usage"), ("nova-lite", Decimal("0.5"), "usage"), ("", Decimal("0.1"), "tax"), ("", Decimal("-0.25"), "credit"),
    ]  # fmt: skip
    assert {(line.provider, line.project, line.day) for line in lines} == {("aws.bedrock", "123456789012", DAY)}


def test_the_cost_management_export_of_azure_is_read():
    head = "Date,SubscriptionId,MeterCategory,MeterSubCategory,MeterName,ChargeType,CostInBillingCurrency,BillingCurrencyCode"
    lines = read_table(
        head,
        "11/20/2026,sub-1,Foundry Models,Azure OpenAI,gpt-4o-mini-0718-Inp-glbl Tokens,Usage,0.5,USD",
        "11/20/2026,sub-1,Foundry Models,Azure OpenAI GPT5,5.4 mini cd Inp Gl 1M Tokens,Usage,0.25,USD",
        "11/20/2026,sub-1,Virtual Machines,Dv3 Series,D4 v3,Usage,290,USD",
    )
    assert [(line.provider, line.model, line.usd, line.day) for line in lines] == [
        ("azure.ai.openai", "gpt-4o-mini", Decimal("0.5"), DAY), ("azure.ai.openai", "gpt-5.4-mini", Decimal("0.25"), DAY),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "day", "amount"),
    [
        (("Tag;Anbieter", "x;y"), None, None),
        (("day;provider;amount_usd", "20.11.2026;openai;1.234,50"), DAY, "1234.50"),
        (("day,provider,amount_usd", '20/11/2026,openai,"1,234.50"'), DAY, "1234.50"),
        (("day,provider,amount_usd", "11/20/2026,openai,($3.10)"), DAY, "-3.10"),
        (("day,provider,amount_usd", "11/10/2026,openai,1"), None, None),
    ],
)
def test_a_spreadsheet_is_read_or_refused(rows: tuple[str, ...], day: date | None, amount: str | None):
    if day is None:
        with pytest.raises(InvoiceError):
            read_table(*rows)
        return
    [line] = read_table(*rows)
    assert (line.day, line.usd) == (day, Decimal(str(amount)))


@pytest.mark.parametrize(
    ("rows", "total"),
    [
        (("day\tprovider\tamount_usd", "2026-11-20\topenai\t1,234.50", "2026-11-20\topenai\t12.34"), "1246.84"),
        (("day,provider,amount_usd", "2026-11-20,openai,12,50"), None),
        (("day,provider,amount_usd", '2026-11-20,openai,"0,567"'), "0.567"),
        (("day;provider;amount_usd", "2026-11-20;openai;1,234"), None),
        (("day;provider;amount_usd", "2026-11-20;openai;1.234"), None),
        (("day;provider;amount_usd", "2026-11-20;openai;1.234", "2026-11-20;openai;1.50"), "2.734"),
        (("day,provider,amount_usd,cost,currency", "2026-11-20,openai,10,,", "2026-11-21,openai,,200,EUR"), None),
        (("day,provider,amount_usd,currency", "2026-11-20,openai,10,EUR"), None),
        (("day,provider,amount_usd", "2026-11-20,openai,€10"), None),
        (("day,provider,amount_usd", "2026-W47,openai,10"), None),
        (("day,provider,amount_usd", '2026-11-20,openai,"12,34'), None),
        (("day,provider,amount", "2026-11-20,openai,€90.00"), None),
        (("day,provider,cost,credits", "2026-11-20,openai,10,250"), "10"),
        (("day,provider,kind,amount_usd", "2026-11-20,openai,private endpoint usage,10"), "10"),
    ],
)
def test_an_amount_that_can_be_two_is_refused(rows: tuple[str, ...], total: str | None):
    if total is None:
        with pytest.raises(InvoiceError):
            read_table(*rows)
        return
    lines = read_table(*rows)
    assert sum(line.usd for line in lines) == Decimal(total)
    assert {line.kind for line in lines} == {"usage"}


def page(*days: int, more: bool = False) -> dict[str, Any]:
    start = 1_760_000_000 // 86_400
    buckets = [
        {"start_time": (start + n) * 86_400, "end_time": (start + n + 1) * 86_400, "results": [{"amount": {"value": n + 1, "currency": "usd"}}]}
        for n in days
    ]  # fmt: skip
    return {"data": buckets, "has_more": more, "next_page": "p" if more else None}


def test_pages_that_follow_each_other_have_all_days():
    assert sum(line.usd for line in read(json.dumps([page(0, 1, more=True), page(2)]).encode())) == 6
    with pytest.raises(InvoiceError, match="no page with the days from"):
        read(json.dumps([page(0, more=True), page(2)]).encode())


def test_a_zip_says_to_unpack_it():
    with pytest.raises(InvoiceError, match="unpack it"):
        read(b"PK\x03\x04rest")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5"),
        ("Claude Haiku 4.5 (Amazon Bedrock Edition)", "claude-haiku-4-5"),
        ("claude-3-5-sonnet-20241022", "claude-sonnet-3-5"),
        ("Claude Sonnet 3.7", "claude-sonnet-3-7"),
        ("us.amazon.nova-pro-v1:0", "nova-pro"),
        ("gemini-3-pro-preview", "gemini-3-pro"),
        ("OpenAI GPT-5.6 (Amazon Bedrock Edition)", "gpt-5.6"),
    ],
)
def test_display_dated_and_regional_names_are_one_model(name: str, key: str):
    assert model_key(name) == key


# --- the providers' APIs --------------------------------------------------------------------------------------------------


class CostApi(ThreadingHTTPServer):
    """Speaks the documented cost APIs of the three: pages with cursors, a rate limit at first, keys."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, list[str]], dict[str, str]]] = []
        self.limited = 1
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: CostApi  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        self.server.asked.append((parts.path, query, {name.lower(): value for name, value in self.headers.items()}))
        if self.server.limited:
            self.server.limited -= 1
            self.answer(429, {"error": {"message": "slow down"}}, {"Retry-After": "0"})
            return
        page = query.get("page", query.get("pageToken", ["first"]))[0]
        if parts.path == "/v1/organization/costs":
            if "Bearer sk-admin" not in self.headers.get("Authorization", ""):
                self.answer(401, {"error": {"message": "wrong key"}})
                return
            bucket = {"start_time": int(query["start_time"][0]), "results": [
                {"amount": {"value": 1.5, "currency": "usd"}, "line_item": "gpt-5.4-2026-03-05, input", "project_id": f"proj_{page}"}]}  # fmt: skip
        elif parts.path == "/v1/organizations/cost_report":
            bucket = {"starting_at": query["starting_at"][0], "results": [
                {"amount": "150", "currency": "USD", "model": "claude-sonnet-4-6", "workspace_id": f"wrk_{page}"}]}  # fmt: skip
        else:
            self.answer(200, rows_of_bigquery("second"))
            return
        last = page != "first"
        self.answer(200, {"data": [bucket], "has_more": not last, "next_page": None if last else "second"})

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, {"query": [document["query"]]}, dict(self.headers.items())))
        self.answer(
            200,
            {**rows_of_bigquery("first"), "pageToken": "next", "jobReference": {"jobId": "job_1", "location": "EU"}},
        )

    def answer(self, status: int, document: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def rows_of_bigquery(project: str) -> dict[str, Any]:
    fields = {"usage_start_time": "2026-11-20", "service_description": "Vertex AI", "sku_description": "Gemini 3.5 Flash Text Output",
              "project_id": project, "cost_type": "regular", "currency": "EUR", "currency_conversion_rate": "0.5", "cost": "0.75"}  # fmt: skip
    row = {"f": [{"v": value} for value in fields.values()]}
    return {"jobComplete": True, "schema": {"fields": [{"name": name} for name in fields]}, "rows": [row]}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[CostApi]:
    monkeypatch.setattr(http_client, "BACKOFF_SECONDS", 0.01)
    for name, key in (
        ("OPENAI_ADMIN_KEY", "sk-admin"),
        ("ANTHROPIC_ADMIN_KEY", "sk-ant-admin"),
        ("GOOGLE_ACCESS_TOKEN", "ya29"),
    ):
        monkeypatch.setenv(name, key)
    monkeypatch.setenv("GOOGLE_BILLING_TABLE", "my-project.billing.export")
    server = CostApi()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("source", "provider", "projects"),
    [
        ("openai", "openai", ["proj_first", "proj_second"]),
        ("anthropic", "anthropic", ["wrk_first", "wrk_second"]),
        ("gcp", "gcp.vertex_ai", ["first", "second"]),
    ],
)
def test_all_pages_of_a_report_are_fetched_past_a_rate_limit(
    source: str, provider: str, projects: list[str], api: CostApi
):
    lines = read(fetch.fetch(source, DAY, date(2026, 11, 21), api.url))
    assert [(line.provider, line.project, line.usd, line.day) for line in lines] == [
        (provider, project, Decimal("1.5"), DAY) for project in projects
    ]
    assert api.limited == 0


def test_a_fetched_month_is_reconciled_and_a_wrong_key_is_said(
    api: CostApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    where = empty_ledger(tmp_path / "ledger")
    monkeypatch.setenv("SPANLEDGER_DSN", where.dsn)
    command = ["reconcile", "--fetch", "openai", "--month", "2026-03", "--base-url", api.url]
    done = CliRunner().invoke(main, [*command, "--json"])
    assert done.exit_code == 0, done.output
    assert {row["outside_usd"] for row in json.loads(done.stdout)} == {"1.500000000000"}
    _, query, _ = api.asked[-1]
    assert (query["start_time"], query["end_time"], query["group_by"]) == (
        ["1772323200"],
        ["1775001600"],
        ["project_id", "line_item"],
    )
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-user")
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 1
    assert "costs need an administrator's key" in " ".join(refused.output.split())
    assert "sk-user" not in refused.output
    monkeypatch.delenv("OPENAI_ADMIN_KEY")
    assert "set OPENAI_ADMIN_KEY" in CliRunner().invoke(main, command).output
    assert CliRunner().invoke(main, ["reconcile"]).exit_code == 2


# --- currencies, months, teams ----------------------------------------------------------------------------------------------

ECB = b"Date,USD,JPY,GBP,\n2026-03-06,1.25,150,0.80,\n2026-03-05,1.00,N/A,0.75,\n"


def test_rates_of_the_central_bank_count_until_the_next_day_that_has_one():
    rates = exchange_rates.read(ECB)
    assert rates.usd(Decimal(8), "EUR", date(2026, 3, 6)) == Decimal(10)
    assert rates.usd(Decimal(8), "EUR", date(2026, 3, 8)) == Decimal(10), "a Sunday has Friday's"
    assert rates.rate("GBP", date(2026, 3, 6)) == Decimal("0.64")
    for currency, day in (
        ("EUR", date(2026, 3, 4)),
        ("EUR", date(2026, 4, 1)),
        ("CHF", date(2026, 3, 6)),
        ("JPY", date(2026, 3, 5)),
    ):
        with pytest.raises(InvoiceError, match="no exchange rate"):
            rates.rate(currency, day)
    [line] = read(b"day,provider,amount,currency\n2026-03-07,openai,8,EUR\n", rates=rates)
    assert line.usd == 10


@pytest.mark.parametrize(
    ("amount", "text"),
    [("-0.02", "-$0.0200"), ("-0.0", "$0.00"), ("0", "$0.00"), (None, "-"), ("1234.5", "$1,234.50"), ("-1234.5", "-$1,234.50"), ("0.0000123456", "$0.0000123"), ("0.00041", "$0.00041"), ("-1e-15", "$0.00")],
)  # fmt: skip
def test_an_amount_is_shown_in_one_way(amount: str | None, text: str):
    assert usd(amount) == text


def test_an_amount_is_shown_in_another_currency():
    with shown_in("EUR", Decimal("0.5")):
        assert usd(Decimal(3)) == "€1.50"
    with shown_in("CHF", Decimal(1)):
        assert usd(-2) == "-2.00 CHF"
    assert usd(3) == "$3.00"


@pytest.fixture
def quarter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two teams from February to March."""
    where = empty_ledger(tmp_path / "ledger")
    monkeypatch.setenv("SPANLEDGER_DSN", where.dsn)
    rows = [
        call(span_id=f"{month}{number:015x}", response_id=f"r-{month}-{number}", team=team, feature=f"feature-{'x' * 60}-{number}",
             start_time=datetime(2026, month, 6, 12, tzinfo=UTC), cost_usd=Decimal(10 * month))
        for month in (2, 3) for number, team in enumerate(("search", "support"))
    ]  # fmt: skip
    with open_client(where) as client:
        insert.insert(client, where, [tuple(row.values()) for row in rows])


def test_a_month_stands_beside_the_one_before_by_team_and_in_another_currency(quarter: None, tmp_path: Path):
    text = CliRunner().invoke(main, ["report", "--month", "2026-03"]).stdout
    assert "2026-03-01 00:00 to 2026-04-01 00:00 UTC" in text
    assert "previous period          $40.00 (+50.0%)" in text
    assert "search   $30.00  50.0%      1  $20.00  +50.0%" in text
    assert max(map(len, text.splitlines())) <= 78, "long names wrap"
    missing = CliRunner().invoke(main, ["report", "--month", "2026-03", "--currency", "EUR"])
    assert "no exchange rate of EUR for 2026-03-06" in " ".join(missing.output.split())
    rates = tmp_path / "rates.csv"
    rates.write_bytes(ECB)
    assert CliRunner().invoke(main, ["rates", "import", str(rates)]).exit_code == 0
    euros = CliRunner().invoke(main, ["report", "--month", "2026-03", "--currency", "EUR"]).stdout
    assert "€48.00" in euros
    assert "one US dollar was 0.8000 EUR on average" in euros
    both = CliRunner().invoke(main, ["report", "--month", "2026-03", "--since", "2026-03-02"])
    assert both.exit_code == 2


def test_teams_whose_names_look_alike_have_a_file_each():
    teams = ["a b", "a-b", "R&D", "R D", "\u652f\u4ed8", "\u641c\u7d22", "x" * 255, "x" * 254, "(no team)"]
    names = [Showback(date(2026, 3, 1), team, []).file_name for team in teams]
    assert len(set(names)) == len(teams)
    assert max(map(len, names)) < 130
    assert names[1] == "2026-03-a-b"


def test_each_team_gets_a_file(quarter: None, tmp_path: Path):
    for form in ("csv", "html"):
        done = CliRunner().invoke(
            main, ["report", "--month", "2026-03", "--showback", str(tmp_path / "march"), "--format", form]
        )
        assert done.exit_code == 0, done.output
    assert sorted(file.name for file in (tmp_path / "march").iterdir()) == [
        "2026-03-search.csv", "2026-03-search.html", "2026-03-support.csv", "2026-03-support.html",
    ]  # fmt: skip
    lines = (tmp_path / "march/2026-03-search.csv").read_text().splitlines()
    assert lines[1].startswith("2026-03,search,app,feature-")
    assert lines[1].endswith(",1,0,30.000000,30.000000,0.000000,30.000000")
    assert "<h1>LLM costs of search, March 2026</h1>" in (tmp_path / "march/2026-03-search.html").read_text()
