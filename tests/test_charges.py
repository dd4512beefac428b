"""`spanledger.charge` and `spanledger.outcome`: money that is no model, and what the work came to."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

import spanledger
from conftest import Recorded
from empty_ledger import empty_ledger
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import open_client
from spanledger_clickhouse.rows.rows import contents
from synthetic import call

pytestmark = pytest.mark.usefixtures("by_hand")


@pytest.mark.parametrize("amount", ["0.008", Decimal("0.008"), 0.008])
def test_a_charge_is_a_row_of_its_request_with_its_exact_amount(amount: Decimal | str | float, ledger: Recorded):
    with spanledger.attribution(user="ada", request_id="r-1"):
        assert spanledger.charge("tavily", amount, unit="search", quantity=2)
    row = ledger.row
    assert (row["provider"], row["operation"], row["cost_usd"], row["other_cost_usd"]) == (
        "tavily",
        "charge",
        Decimal("0.008"),
        Decimal("0.008"),
    )
    assert (row["price_status"], row["request_model"], row["user_id"]) == ("provider_reported", "search", "ada")


@pytest.mark.parametrize("amount", ["eight", -1, float("nan"), True, None, 10**9])
def test_an_amount_that_is_none_is_no_row_and_no_error(
    amount: object, ledger: Recorded, caplog: pytest.LogCaptureFixture
):
    assert not spanledger.charge("tavily", amount)  # pyright: ignore[reportArgumentType]
    assert ledger.rows == []
    assert "is no amount in USD" in caplog.text


def test_a_charge_with_a_name_counts_once(ledger: Recorded):
    for _ in range(2):
        spanledger.charge("e2b", "0.02", unit="sandbox minute", charge_id="sb-1")
    keys = {(row["trace_id"], row["span_id"]) for row in ledger.rows}
    assert len(keys) == 1, "rows of one key are one row of the ledger"


def test_names_of_charges_do_not_run_into_those_of_tenants(ledger: Recorded):
    for tenant, charge_id in (("acme", "eu 1"), ("acme eu", "1")):
        with spanledger.attribution(tenant=tenant):
            assert spanledger.charge("tavily", "0.01", charge_id=charge_id)
    assert len(ledger.rows) == 2


@pytest.mark.parametrize("quantity", ["two", -1, 0, float("nan")])
def test_a_quantity_that_is_none_is_no_row_and_may_be_said_again(quantity: object, ledger: Recorded):
    assert not spanledger.charge("tavily", "0.01", quantity=quantity, charge_id=f"of {quantity}")  # pyright: ignore[reportArgumentType]
    assert spanledger.charge("tavily", "0.01", quantity=2, charge_id=f"of {quantity}")
    assert len(ledger.rows) == 1


def test_an_outcome_is_kept_without_a_value_that_is_none(caplog: pytest.LogCaptureFixture, ledger: Recorded):
    assert spanledger.outcome("deal", "d-1", value_usd=2_000_000)
    assert spanledger.outcome("deal", "d-2", value_usd="much")
    assert "'much' is no value in USD: deal d-2 has none" in caplog.text
    assert not spanledger.outcome("deal", "d-3", accepted="no")  # pyright: ignore[reportArgumentType]


def test_an_outcome_is_said_later_and_its_cost_has_all_that_it_took(ledger: Recorded, tmp_path: Path):
    assert spanledger.outcome("ticket", "T-1", status="rejected", request_id="r-1")
    assert spanledger.outcome("ticket", "T-1", value_usd="12.5", request_id="r-1")
    assert spanledger.outcome("ticket", "T-2", status="rejected", request_id="r-2")
    assert not spanledger.outcome("", "T-3")
    where = empty_ledger(tmp_path / "ledger")
    rows = [
        call(span_id=f"{n:016x}", response_id=f"c-{n}", request_id=request, cost_usd=cost, outcome=outcome)
        for n, (request, cost, outcome) in enumerate([
            ("r-1", Decimal("0.10"), "ok"), ("r-1", Decimal("0.02"), "aborted"), ("r-2", Decimal("0.30"), "ok"), ("r-9", Decimal(5), "ok"),
        ])
    ]  # fmt: skip
    with open_client(where) as client:
        insert.insert(client, where, [tuple(row.values()) for row in rows])
        insert.insert_contents(client, where, [contents(line) for line in ledger.lines])
        client.command(f"USE `{where.database}`")
        [found] = client.query(
            "SELECT kind, outcomes, accepted_outcomes, round(total_cost_usd, 9), round(cost_per_accepted_usd, 9), failed_calls, total_value_usd "
            "FROM cost_per_outcome"
        ).result_rows
    assert found == ("ticket", 2, 1, 0.42, 0.42, 1, 12.5)


def test_an_outcome_is_no_call(ledger: Recorded):
    spanledger.outcome("ticket", "T-1", request_id="r-1")
    assert ledger.rows == []
    assert b"spanledger.outcome.kind" in b"".join(ledger.lines)


def test_an_outcome_that_names_no_tenant_has_that_of_its_request(ledger: Recorded, tmp_path: Path):
    spanledger.outcome("ticket", "T-1", request_id="r-1")
    where = empty_ledger(tmp_path / "ledger")
    with open_client(where) as client:
        insert.insert(
            client, where, [tuple(call(request_id="r-1", tenant_id="acme", cost_usd=Decimal("0.2")).values())]
        )
        insert.insert_contents(client, where, [contents(line) for line in ledger.lines])
        client.command(f"USE `{where.database}`")
        assert client.query("SELECT kind, calls, round(total_cost_usd, 9) FROM cost_per_outcome").result_rows == [
            ("ticket", 1, 0.2)
        ]


def test_charges_of_two_tenants_may_have_one_name(ledger: Recorded):
    for tenant in ("a", "b"):
        with spanledger.attribution(tenant=tenant):
            assert spanledger.charge("vendor", "1.00", charge_id="inv-1")
    assert {row["tenant_id"] for row in ledger.rows} == {"a", "b"}
