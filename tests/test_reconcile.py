"""`spanledger reconcile`: reads exports of each provider, and splits a residual into parts that add up."""

from __future__ import annotations

import contextlib
import gzip
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from empty_ledger import empty_ledger
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import open_client
from spanledger_clickhouse.invoices import provider_exports
from spanledger_clickhouse.invoices.provider_exports import InvoiceError, InvoiceLine, model_key, read
from spanledger_clickhouse.invoices.reconcile import LedgerSlice, explain_variance
from synthetic import call

pytestmark = [pytest.mark.clock, pytest.mark.services]

DAY = date(2026, 3, 2)
OPENAI = {"object": "page", "has_more": False, "data": [{"object": "bucket", "start_time": 1772409600, "end_time": 1772496000, "results": [
    {"object": "organization.costs.result", "amount": {"value": 1.25, "currency": "usd"}, "line_item": "gpt-5.4-mini-2026-03-17, input", "project_id": "proj_a"},
    {"object": "organization.costs.result", "amount": {"value": 0.5, "currency": "usd"}, "line_item": "gpt-5.4-mini-2026-03-17, output", "project_id": "proj_a"},
    {"object": "organization.costs.result", "amount": {"value": 0.01, "currency": "usd"}, "line_item": "web search tool calls", "project_id": None},
]}]}  # fmt: skip
ANTHROPIC = {"data": [{"starting_at": "2026-03-02T00:00:00Z", "ending_at": "2026-03-03T00:00:00Z", "results": [
    {"currency": "USD", "amount": "123.45", "workspace_id": "wrkspc_1", "description": "Claude Sonnet 4.6 Usage - Input Tokens", "cost_type": "tokens", "model": "claude-sonnet-4-6", "service_tier": "standard"},
    {"currency": "USD", "amount": "10", "workspace_id": None, "description": "Claude Opus 5.5 Usage - Output Tokens", "model": None},
]}], "has_more": False, "next_page": None}  # fmt: skip
GOOGLE = [
    {"service": {"description": "Gemini API"}, "sku": {"description": "Gemini 3.5 Flash Text Output - Predictions"}, "usage_start_time": "2026-03-02 07:00:00 UTC",
     "project": {"id": "my-project"}, "cost": 0.5, "currency": "USD", "credits": [{"name": "promo", "amount": -0.1}]},
    {"service": {"description": "Vertex AI"}, "sku": {"description": "Gemini 2.5 Flash Lite Input"}, "usage_start_time": "2026-03-02T07:00:00Z",
     "project": {"id": "my-project"}, "cost": 1.8, "currency": "EUR", "currency_conversion_rate": 0.9, "credits": []},
]  # fmt: skip


def lines_of(data: Any) -> list[tuple[Any, ...]]:
    text = data if isinstance(data, str) else json.dumps(data)
    return [line[:5] for line in read(text.encode())]


def test_an_openai_costs_export_is_read():
    assert lines_of(OPENAI) == [
        (DAY, "openai", "proj_a", "gpt-5.4-mini", Decimal("1.25")),
        (DAY, "openai", "proj_a", "gpt-5.4-mini", Decimal("0.5")),
        (DAY, "openai", "", "", Decimal("0.01")),
    ]


def test_concatenated_pages_are_read():
    assert lines_of([OPENAI, OPENAI]) == 2 * lines_of(OPENAI)


def test_an_anthropic_cost_report_in_cents_is_read():
    assert lines_of(ANTHROPIC) == [
        (DAY, "anthropic", "wrkspc_1", "claude-sonnet-4-6", Decimal("1.2345")),
        (DAY, "anthropic", "", "claude-opus-5-5", Decimal("0.1")),
    ]


def test_a_google_export_is_read_net_of_credits_in_dollars():
    expected = [
        (DAY, "gcp.gemini", "my-project", "gemini-3.5-flash", Decimal("0.4")),
        (DAY, "gcp.vertex_ai", "my-project", "gemini-2.5-flash-lite", Decimal(2)),
    ]
    assert lines_of("\n".join(json.dumps(each) for each in GOOGLE)) == expected
    csv = (
        "service_description,sku_description,usage_start_time,project_id,cost,currency,credits\n"
        'Gemini API,Gemini 3.5 Flash Text Output,2026-03-02,my-project,0.5,USD,"[{""amount"": -0.1}]"\n'
    )
    assert lines_of(csv) == expected[:1]


def test_any_csv_with_day_and_amount_is_read():
    assert lines_of('Day,Provider,Project,Model,Amount_USD\n2026-03-02,openai,p,GPT-5.4 mini,"$1,234.50"\n') == [
        (DAY, "openai", "p", "gpt-5.4-mini", Decimal("1234.50"))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"\xff\xfe1", "is not UTF-8 text"),
        (b"{not json", "neither JSON nor JSON lines"),
        (b"[1]", "this is not an object"),
        (b'{"data": []}', "contains no amounts"),
        (b"day,cost\n2026-03-02,1\n", "or pass --provider"),
        (b"day,cost,currency,provider\n2026-03-02,1,EUR,openai\n", "are in EUR"),
        (b"day,cost,provider\nyesterday,1,openai\n", "is not a valid day"),
        (b"day,cost,provider\n2026-03-02,NaN,openai\n", "is not a valid amount"),
        (b"when,how much\n2026-03-02,1\n", "has no day"),
    ],
)
def test_a_file_that_is_not_an_invoice_is_an_error(data: bytes, said: str):
    with pytest.raises(InvoiceError, match=said):
        read(data)


@given(st.binary() | st.text().map(str.encode) | st.recursive(st.none() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.sampled_from(["data", "results", "amount", "value", "day", "cost", "provider", "credits", "start_time"]), v)).map(lambda v: json.dumps(v).encode()))  # fmt: skip
def test_any_file_is_read_or_rejected(data: bytes):
    with contextlib.suppress(InvoiceError):
        read(data, "openai")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("gpt-5.4-mini-2026-03-17", "gpt-5.4-mini"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4"),
        ("models/gemini-3.5-flash", "gemini-3.5-flash"),
        ("claude-sonnet-4@20250514", "claude-sonnet-4"),
        ("GPT-4o mini", "gpt-4o-mini"),
    ],
)
def test_a_dated_model_name_matches_its_model(name: str, key: str):
    assert model_key(name) == key


def bill(usd: str, project: str = "p", model: str = "m", places: int = 6) -> InvoiceLine:
    return InvoiceLine(DAY, "openai", project, model, Decimal(usd), "csv", places)


def key(project: str = "p", model: str = "m"):
    return (DAY, "openai", project, model)


def one(usd: str, part: LedgerSlice, places: int = 6):
    [found] = explain_variance({key(): [bill(usd, places=places)]}, {key(): part})
    return {name: amount for name, amount in found.causes.items() if amount}, found.unexplained


CALLS = LedgerSlice(cost=Decimal(10), calls=100, priced_tokens=1000)


@pytest.mark.parametrize(
    ("usd", "part", "places", "causes", "unexplained"),
    [
        ("10", CALLS, 6, {}, "0"),
        ("10.004", CALLS, 2, {"rounding": "0.004"}, "0"),
        ("9.99", CALLS, 2, {"rounding": "-0.005"}, "-0.005"),
        ("11", CALLS._replace(unpriced=5, unpriced_tokens=100), 6, {"rounding": "0.0000005", "unpriced": "0.9999995"}, "0"),
        ("12", CALLS._replace(unpriced=5, unpriced_tokens=100), 6, {"rounding": "0.0000005", "unpriced": "1"}, "0.9999995"),
        ("7", LedgerSlice(calls=3, unpriced=3), 6, {"rounding": "0.0000005", "unpriced": "6.9999995"}, "0"),
        ("9", CALLS._replace(estimated_rate_cost=Decimal(2)), 6, {"rounding": "-0.0000005", "tier": "-0.9999995"}, "0"),
        ("10.3", CALLS._replace(maybe_billed=2), 6, {"rounding": "0.0000005", "maybe_billed": "0.2"}, "0.0999995"),
        ("13", CALLS, 6, {"rounding": "0.0000005"}, "2.9999995"),
    ],
)  # fmt: skip
def test_a_residual_is_explained_up_to_the_evidence(usd, part, places, causes, unexplained):
    expected = {name: Decimal(amount) for name, amount in causes.items()}
    assert one(usd, part, places) == (expected, Decimal(unexplained))


def test_a_model_without_calls_in_the_ledger_is_outside():
    [found] = explain_variance({key(model="sora"): [bill("4", model="sora")]}, {})
    assert (found.causes["outside"], found.unexplained) == (Decimal("3.9999995"), 0)


def test_spend_of_unknown_project_explains_projects_with_a_residual():
    found = explain_variance(
        {key("a"): [bill("6", "a")], key("b"): [bill("5", "b")]},
        {
            key("a"): LedgerSlice(Decimal(4), calls=1),
            key("b"): LedgerSlice(Decimal(5), calls=1),
            key(""): LedgerSlice(Decimal(3), calls=1),
        },
    )
    by_project = {each.project: each for each in found}
    assert by_project["a"].causes["unattributed"] == Decimal("1.9999995")
    assert by_project["b"].residual == 0
    assert (by_project[""].causes["unattributed"], by_project[""].unexplained) == (Decimal("-1.9999995"), Decimal("-1.0000005"))  # fmt: skip


money = st.decimals(0, 1000, places=6)
parts = st.builds(LedgerSlice, money, st.just(Decimal(0)), st.integers(1, 50), st.integers(0, 50), st.integers(0, 9), st.integers(0, 9), money, st.integers(0, 3))  # fmt: skip
keys = st.builds(key, st.sampled_from(["", "a", "b"]), st.sampled_from(["", "m", "n"]))


@given(st.dictionaries(keys, money), st.dictionaries(keys, parts))
def test_the_parts_always_add_up(amounts, found):
    invoiced = {k: [bill(str(usd), k[2], k[3])] for k, usd in amounts.items()}
    done = explain_variance(invoiced, found)
    assert {(r.day, r.provider, r.project, r.model) for r in done} == invoiced.keys() | found.keys()
    for each in done:
        assert sum(each.causes.values()) + each.unexplained == each.residual


@pytest.fixture
def where(tmp_path: Path, monkeypatch):
    found = empty_ledger(tmp_path / "ledger")
    monkeypatch.setenv("SPANLEDGER_DSN", found.dsn)
    at = datetime(2026, 3, 2, 12, tzinfo=UTC)
    mini = {
        "start_time": at,
        "response_model": "gpt-5.4-mini-2026-03-17",
        "attributes": {"spanledger.provider.project": "proj_a"},
    }
    rows = [
        call(span_id="1" * 16, cost_usd=Decimal("1.2"), **mini),
        call(span_id="2" * 16, cost_usd=Decimal("0.26"), output_cost_usd=Decimal("0.25"), tools_cost_usd=Decimal("0.01"), **mini),
        call(span_id="3" * 16, cost_usd=None, **mini),
        call(span_id="4" * 16, cost_usd=Decimal(9), start_time=datetime(2026, 3, 3, tzinfo=UTC)),
        call(span_id="5" * 16, cost_usd=Decimal(9), start_time=at, provider="anthropic"),
    ]  # fmt: skip
    with open_client(found) as client:
        insert.insert(client, found, [tuple(row.values()) for row in rows])
    return found


def test_the_ledger_is_compared_by_day_project_and_model(where, tmp_path: Path):
    file = tmp_path / "costs.json"
    file.write_text(json.dumps(OPENAI))
    done = CliRunner().invoke(main, ["reconcile", str(file), "--json"])
    assert done.exit_code == 0, done.output
    shown = {(row["project"], row["model"]): row for row in json.loads(done.stdout)}
    mini = shown["proj_a", "gpt-5.4-mini"]
    assert (Decimal(mini["invoiced_usd"]), Decimal(mini["ledger_usd"]), Decimal(mini["residual_usd"])) == (Decimal("1.75"), Decimal("1.45"), Decimal("0.3"))  # fmt: skip
    assert Decimal(mini["unpriced_usd"]) + Decimal(mini["rounding_usd"]) == Decimal("0.3")
    assert Decimal(shown["proj_a", ""]["ledger_usd"]) == Decimal("0.01")
    assert all(row["provider"] == "openai" and row["day"] == "2026-03-02" for row in shown.values())
    people = CliRunner().invoke(main, ["reconcile", str(file), "--dry-run", "--fail-over", "50"])
    assert people.exit_code == 0
    assert "invoiced $1.76, ledger $1.46, residual $0.3000" in people.stdout


def test_an_invoice_is_stored_once_and_shown_in_views(where, tmp_path: Path):
    file = tmp_path / "bill.csv"
    file.write_text("day,provider,model,amount_usd\n2026-03-02,openai,gpt-5.4-mini,5\n")
    for _ in range(2):
        assert CliRunner().invoke(main, ["reconcile", str(file)]).exit_code == 0
    with open_client(where) as client:
        client.command(f"USE `{where.database}`")
        assert client.query("SELECT invoiced_usd, ledger_usd FROM reconciliation").result_rows == [(Decimal(5), Decimal("1.46"))]  # fmt: skip
    assert CliRunner().invoke(main, ["reconcile", str(file), "--fail-over", "1"]).exit_code == 1
    file.write_text("day,provider,model,amount_usd\n2026-03-02,openai,gpt-5.4-mini,2\n")
    assert CliRunner().invoke(main, ["reconcile", str(file), "--fail-over", "1"]).exit_code == 0, (
        "the unpriced call explains it"
    )
    broken = tmp_path / "x.csv"
    broken.write_text("a,b\n1,2\n")
    assert "has no day" in CliRunner().invoke(main, ["reconcile", str(broken)]).output
    assert (
        "is not a valid project mapping"
        in CliRunner().invoke(main, ["reconcile", str(file), "--project-by", "x"]).output
    )


def test_a_provider_is_compared_on_the_days_of_its_own_invoice(where, tmp_path: Path):
    file = tmp_path / "bill.csv"
    file.write_text("day,provider,amount_usd\n2026-03-02,openai,1.46\n2026-03-03,anthropic,1\n")
    done = CliRunner().invoke(main, ["reconcile", str(file), "--json"])
    found = [(row["day"], row["provider"], Decimal(row["ledger_usd"])) for row in json.loads(done.stdout)]
    assert found == [("2026-03-02", "openai", Decimal("1.46")), ("2026-03-03", "anthropic", 0)]


def test_a_line_of_two_files_is_not_counted_twice(where, tmp_path: Path):
    file, packed = tmp_path / "bill.csv", tmp_path / "bill.csv.gz"
    file.write_text("day,provider,amount_usd\n2026-03-02,openai,1.46\n")
    packed.write_bytes(gzip.compress(file.read_bytes()))
    done = CliRunner().invoke(main, ["reconcile", str(file), str(packed)])
    assert done.exit_code == 1
    assert "have the same line, $1.46 of openai on 2026-03-02: it would count twice" in " ".join(done.output.split())


def test_what_looks_wrong_in_an_invoice_is_said(where, tmp_path: Path):
    file = tmp_path / "bill.csv"
    file.write_text("day,provider,amount_usd\n2026-03-02,google,1\n")
    done = CliRunner().invoke(main, ["reconcile", str(file), "--dry-run"])
    assert "no call so far is of google: is it spelt as on the calls?" in done.stderr
    assert "is not a number" in CliRunner().invoke(main, ["reconcile", str(file), "--fail-over", "nan"]).output


def test_a_refund_that_is_explained_does_not_fail(where, tmp_path: Path):
    file = tmp_path / "bill.csv"
    file.write_text("day,provider,amount_usd,kind\n2026-03-02,openai,1.46,\n2026-03-02,openai,-50,refund\n")
    assert CliRunner().invoke(main, ["reconcile", str(file), "--fail-over", "1"]).exit_code == 0


def test_a_day_stored_with_another_split_does_not_count_twice(where, tmp_path: Path):
    file = tmp_path / "bill.csv"

    def kept(*lines: str) -> tuple[Decimal, ...]:
        file.write_text("\n".join(("day,provider,project,model,amount_usd", *lines)) + "\n")
        assert CliRunner().invoke(main, ["reconcile", str(file)]).exit_code == 0
        with open_client(where) as client:
            rows = client.query(
                f"SELECT invoiced_usd FROM `{where.database}`.reconciliation ORDER BY day, provider"
            ).result_rows
        return tuple(amount for (amount,) in rows)

    assert kept("2026-03-02,openai,,,5", "2026-03-02,anthropic,,,7") == (Decimal(7), Decimal(5))
    assert kept("2026-03-02,openai,a,,2", "2026-03-02,openai,b,,3") == (Decimal(7), Decimal(5))
    assert kept("2026-03-02,openai,a,gpt-5.4,1", "2026-03-02,openai,a,,1") == (Decimal(7), Decimal(5)), "b's is kept"
    assert kept("2026-03-02,openai,a,gpt-5.4-mini,1") == (Decimal(7), Decimal(4)), "a's is what the last invoice says"
    assert kept("2026-03-02,openai,,,6") == (Decimal(7), Decimal(6))
    assert kept("2026-03-03,openai,,,1") == (Decimal(7), Decimal(6), Decimal(1))


def test_a_model_without_calls_counts_for_fail_over(where, tmp_path: Path):
    file = tmp_path / "bill.csv"
    file.write_text("day,provider,model,amount_usd\n2026-03-02,openai,gpt-5.4-mini,1.46\n2026-03-02,openai,gpt-9,1\n")
    assert CliRunner().invoke(main, ["reconcile", str(file), "--fail-over", "10"]).exit_code == 1
    assert CliRunner().invoke(main, ["reconcile", str(file), "--fail-over", "50"]).exit_code == 0


def test_invoice_lines_are_grouped_by_key():
    assert {len(found) for found in provider_exports.grouped(read(json.dumps(OPENAI).encode())).values()} == {1, 2}
