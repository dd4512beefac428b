"""An accountant's test: twelve months with all that happens to invoices close, and what is wrong lands where it belongs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from empty_ledger import empty_ledger
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import Target, open_client
from synthetic import call

pytestmark = [pytest.mark.clock, pytest.mark.services]

MONTHS = [date(2025, month, 1) for month in range(1, 13)]
KEY = "spanledger.provider.project"
RATE = Decimal("0.0000004"), Decimal("0.0000016")
"""USD a token of gpt-4.1-mini, into and out of it."""


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Books:
    where = empty_ledger(tmp_path / "ledger")
    monkeypatch.setenv("SPANLEDGER_DSN", where.dsn)
    return Books(where, tmp_path)


class Books:
    """A ledger and the invoices of its provider."""

    def __init__(self, where: Target, directory: Path) -> None:
        self.where = where
        self.directory = directory
        self.rows: list[dict[str, Any]] = []
        self.lines: list[tuple[Any, ...]] = []
        self._chance = random.Random(7)
        self._numbers = iter(range(1, 1 << 30))

    def sell(
        self,
        day: date,
        project: str = "proj_a",
        *,
        calls: int = 4,
        model: str = "gpt-4.1-mini",
        hour: int = 12,
        **more: Any,
    ) -> Decimal:
        """Calls of a day, in the ledger; returns what they cost."""
        total = Decimal(0)
        for _ in range(calls):
            into, out = self._chance.randint(100_000, 900_000), self._chance.randint(10_000, 90_000)
            cost = into * RATE[0] + out * RATE[1]
            number = next(self._numbers)
            at = datetime(day.year, day.month, day.day, hour, 30, tzinfo=UTC)
            self.rows.append(call(**{
                "span_id": f"{number:016x}", "trace_id": f"{number:032x}", "response_id": f"resp_{number:020d}", "start_time": at,
                "response_model": f"{model}-2025-04-14", "request_model": model, "provider": "openai", "attributes": {KEY: project},
                "input_uncached_tokens": into, "output_text_tokens": out, "cost_usd": cost, "input_cost_usd": into * RATE[0],
                "output_cost_usd": out * RATE[1], "price_status": "priced", "price_key": model, **more,
            }))  # fmt: skip
            total += cost
        return total

    def bill(
        self,
        day: date,
        amount: Decimal,
        project: str = "proj_a",
        model: str = "gpt-4.1-mini",
        kind: str = "usage",
        places: int = 6,
    ) -> None:
        self.lines.append((day, "openai", project, model, kind, f"{amount:.{places}f}"))

    def write(self) -> None:
        with open_client(self.where) as client:
            insert.insert(client, self.where, [tuple(row.values()) for row in self.rows])
        self.rows = []

    def reconcile(self) -> list[dict[str, Any]]:
        file = self.directory / "invoice.csv"
        lines = "\n".join(",".join(map(str, line)) for line in self.lines)
        file.write_text(f"day,provider,project,model,kind,amount_usd\n{lines}\n")
        done = CliRunner().invoke(main, ["reconcile", str(file), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def causes(self) -> dict[str, Decimal]:
        """Sum of each cause that explains anything, and of what nothing explains."""
        self.write()
        sums: dict[str, Decimal] = {}
        for row in self.reconcile():
            for name, amount in row.items():
                if (
                    name not in ("invoiced_usd", "ledger_usd", "residual_usd")
                    and name.endswith("_usd")
                    and abs(Decimal(amount)) > Decimal("0.0001")
                ):
                    sums[name.removesuffix("_usd")] = sums.get(name.removesuffix("_usd"), Decimal(0)) + Decimal(amount)
        return sums


def run(*arguments: str) -> str:
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


def days(month: date) -> list[date]:
    first = [month + timedelta(days=n) for n in range(31)]
    return [day for day in first if day.month == month.month]


def test_twelve_months_close_with_discounts_credits_capacity_refunds_late_rows_and_a_corrected_price(books: Books):
    run(
        "contract",
        "set",
        "since-april",
        "--kind",
        "discount",
        "--provider",
        "openai",
        "--percent",
        "10",
        "--since",
        "2025-04-01",
    )
    for month in MONTHS:
        for day in days(month):
            cost = books.sell(day, calls=2, hour=23)  # the last hour of the provider's day, which is UTC's
            books.bill(day, cost * (Decimal("0.9") if month.month >= 4 else 1))
    books.bill(date(2025, 2, 28), Decimal(-5), "", "", "credit")
    books.bill(date(2025, 6, 30), Decimal("-1.25"), "", "", "refund")
    books.bill(date(2025, 8, 31), Decimal(2400), "", "", "commitment")
    books.bill(date(2025, 9, 30), Decimal("19.6"), "", "", "tax")
    late = books.rows.pop(40)  # of January, comes in March
    books.write()
    books.reconcile()
    refused = CliRunner().invoke(main, ["close", "2025-01"])
    assert refused.exit_code == 1
    assert "unexplained" in refused.output, "a row is missing, and no process says so"
    run("close", "2025-01", "--force", "--note", "one row is late")
    run("close", "2025-02")
    books.rows = [late]
    books.write()
    for month in MONTHS[2:]:
        run("close", f"{month:%Y-%m}", "--note", "closed in time")
    closed = {row["month"]: row for row in json.loads(run("close", "--json"))}
    assert len(closed) == 12
    assert all(
        Decimal(row["unexplained_usd"]) <= Decimal(row["invoiced_usd"]) / 1000
        for month, row in closed.items()
        if month != "2025-01-01"
    )
    assert Decimal(closed["2025-01-01"]["adjustment_usd"]) == late["cost_usd"]
    assert Decimal(closed["2025-03-01"]["carried_usd"]) == late["cost_usd"], "the next month that was closed carries it"
    assert all(Decimal(row["carried_usd"]) == 0 for month, row in closed.items() if month != "2025-03-01")
    assert CliRunner().invoke(main, ["close", "2025-03"]).exit_code == 1, "a closed month is not closed again"


def test_capacity_is_shared_by_use_to_the_cent(books: Books):
    run(
        "contract",
        "set",
        "ptu",
        "--kind",
        "capacity",
        "--provider",
        "azure.ai.openai",
        "--amount",
        "2400.01",
        "--since",
        "2025-01-01",
        "--until",
        "2026-01-01",
    )
    for month in MONTHS:
        for team, calls in (("search", 3), ("support", month.month % 3)):
            prepaid = {
                "provider": "azure.ai.openai",
                "price_status": "prepaid",
                "team": team,
                "computed_cost_usd": Decimal("0.7"),
            }
            books.sell(month, calls=calls, **prepaid)
    for row in books.rows:
        row["cost_usd"] = Decimal(0)
    books.write()
    for month in MONTHS:
        costs = json.loads(run("contract", "costs", f"{month:%Y-%m}", "--json"))
        assert round(sum(Decimal(row["amortised_usd"]) for row in costs), 2) == Decimal("2400.01")
        assert len(costs) == (1 if month.month % 3 == 0 else 2)


DAY = date(2025, 3, 4)


def test_a_key_that_bypasses_the_instrumentation_is_outside(books: Books):
    books.bill(DAY, books.sell(DAY))
    books.bill(DAY, Decimal("7.5"), "proj_forgotten")
    assert books.causes() == {"outside": pytest.approx(Decimal("7.5"), abs=Decimal("0.001"))}


def test_rows_that_never_arrived_are_lost_rows(books: Books):
    books.bill(DAY, books.sell(DAY, calls=6))
    for number, row in enumerate(books.rows):
        row.update(process_id="p-1", sequence=number)
    lost = [books.rows.pop(2), books.rows.pop(3)]
    with open_client(books.where) as client:
        at = datetime(DAY.year, DAY.month, DAY.day, 13, tzinfo=UTC)
        recorded = sum((row["cost_usd"] for row in (*books.rows, *lost)), Decimal(0))
        event = ("p-1", "end", at, "app", "host", 6, 0, None, None, Decimal(0), recorded)
        insert.insert_events(client, books.where, [event])
    cost = sum((row["cost_usd"] for row in lost), Decimal(0))
    assert books.causes() == {"lost_rows": pytest.approx(cost, abs=Decimal("0.001"))}


def test_a_wrong_price_is_a_price(books: Books):
    cost = books.sell(DAY)
    for row in books.rows:
        row["cost_usd"] *= Decimal("1.1")
    books.bill(DAY, cost)
    assert books.causes() == {"price": pytest.approx(-cost / 10, abs=Decimal("0.001"))}


def test_a_row_that_was_written_twice_is_a_duplicate(books: Books):
    books.bill(DAY, books.sell(DAY))
    again = {**books.rows[1], "span_id": "f" * 16, "scope": "by hand"}
    books.rows.append(again)
    assert books.causes() == {"duplicates": pytest.approx(-again["cost_usd"], abs=Decimal("0.001"))}


def test_calls_of_another_account_are_of_another_account(books: Books):
    books.bill(DAY, books.sell(DAY))
    other = books.sell(DAY, "proj_of_a_partner")
    assert books.causes() == {"other_account": -other}


def test_amounts_in_cents_are_rounding(books: Books):
    cost = books.sell(DAY)
    books.bill(DAY, cost, places=2)
    assert set(books.causes()) <= {"rounding"}


@pytest.mark.parametrize(("kind", "amount"), [("tax", "1.9"), ("credit", "-3.2"), ("refund", "-0.5")])
def test_what_is_no_usage_has_its_own_place(kind: str, amount: str, books: Books):
    books.bill(DAY, books.sell(DAY))
    books.bill(DAY, Decimal(amount), "", "", kind)
    assert books.causes() == {kind: Decimal(amount)}


def test_a_month_that_is_not_over_or_has_no_invoice_is_not_closed(books: Books):
    now = datetime.now(UTC)
    running = CliRunner().invoke(main, ["close", f"{now:%Y-%m}"])
    assert running.exit_code == 1
    assert "is not over" in running.output
    books.sell(DAY)
    books.write()
    missing = CliRunner().invoke(main, ["close", "2025-03"])
    assert "there is no invoice of openai for 2025-03" in missing.output
    assert CliRunner().invoke(main, ["close", "2025-03", "--without-invoice", "openai"]).exit_code == 0
    assert "is open again" in run("close", "2025-03", "--reopen", "--note", "an invoice came")
    assert json.loads(run("close", "--json")) == []


def test_the_band_of_the_forecast_holds_as_often_as_it_claims():
    program = Path(__file__).parent.parent / "benchmarks/bench_forecast.py"
    done = subprocess.run([sys.executable, program, "--json"], capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    assert figures["all"]["questions"] == 200
    assert 0.72 <= figures["all"]["coverage"] <= 0.88
    assert figures["all"]["mean_error"] < 0.12


def test_what_the_ledger_does_not_know_does_not_close(books: Books):
    books.bill(DAY, books.sell(DAY))
    books.bill(DAY, Decimal(1000), "proj_forgotten")
    books.write()
    books.reconcile()
    refused = CliRunner().invoke(main, ["close", "2025-03"])
    assert refused.exit_code == 1
    assert "are outside: spend that no call of the ledger shows" in " ".join(refused.output.split())


def test_a_provider_without_any_price_needs_its_invoice_too(books: Books):
    books.bill(DAY, books.sell(DAY))
    books.sell(DAY, provider="mistral_ai", cost_usd=None, price_status="unpriced:unknown_model")
    books.write()
    books.reconcile()
    refused = CliRunner().invoke(main, ["close", "2025-03"])
    assert "there is no invoice of mistral_ai for 2025-03" in " ".join(refused.output.split())


def test_an_invoice_of_nothing_is_an_invoice(books: Books):
    books.sell(DAY, cost_usd=Decimal(0), input_cost_usd=Decimal(0), output_cost_usd=Decimal(0), price_status="prepaid")
    books.bill(DAY, Decimal(0))
    books.write()
    books.reconcile()
    assert "2025-03 is closed" in run("close", "2025-03")


def test_a_closed_month_is_opened_only_as_itself(books: Books):
    books.bill(DAY, books.sell(DAY))
    books.write()
    books.reconcile()
    run("close", "2025-03")
    assert CliRunner().invoke(main, ["close", "2025-03", "--reopen", "--dry-run"]).exit_code == 2
    assert json.loads(run("close", "--json")), "it is still closed"
    done = CliRunner().invoke(main, ["reconcile", str(books.directory / "invoice.csv")])
    assert "2025-03 is closed: what was sealed stays as it is" in done.stderr
    run("close", "2025-03", "--reopen", "--note", "a credit came late")
    assert json.loads(run("close", "--json")) == []


def test_a_credit_does_not_hide_what_is_unexplained(books: Books):
    cost = books.sell(DAY, calls=20)
    books.bill(DAY, cost * Decimal("0.5"))
    books.bill(DAY, -2 * cost, "", "", "credit")
    books.write()
    books.reconcile()
    assert CliRunner().invoke(main, ["close", "2025-03"]).exit_code == 1


def test_a_discount_that_the_invoice_lacks_is_unexplained(books: Books):
    run(
        "contract", "set", "d", "--kind", "discount", "--provider", "openai", "--percent", "10", "--since", "2025-01-01"
    )
    cost = books.sell(DAY)
    books.bill(DAY, cost)
    causes = books.causes()
    assert causes["contract"] == pytest.approx(-cost / 10, abs=Decimal("0.001"))
    assert causes["unexplained"] == pytest.approx(cost / 10, abs=Decimal("0.001"))


def test_a_provider_that_comes_into_a_closed_month_is_carried(books: Books):
    january, february = date(2025, 1, 3), date(2025, 2, 3)
    for day in (january, february):
        books.bill(day, books.sell(day))
    books.write()
    books.reconcile()
    run("close", "2025-01")
    late = books.sell(january, provider="anthropic")
    books.write()
    report = ("report", "--from", "2025-02-01", "--to", "2025-02-28", "--json")
    assert Decimal(json.loads(run(*report))["adjustments_usd"]) == late, "the report says what close will carry"
    run("close", "2025-02")
    report = ("report", "--from", "2025-03-01", "--to", "2025-03-28", "--json")
    assert Decimal(json.loads(run(*report))["adjustments_usd"]) == 0
    carried = {
        row["provider"]: Decimal(row["carried_usd"])
        for row in json.loads(run("close", "--json"))
        if row["month"] == "2025-02-01"
    }
    assert carried == {"anthropic": late, "openai": 0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kind", "discount", "--percent", "0.0000001", "--since", "2025-01-01"], "between 0 and 100"),
        (["--kind", "capacity", "--amount", "10", "--since", "2025-01-15"], "first day"),
        (["--kind", "credit", "--amount", "10", "--since", "2025-02-01", "--provider", "openai"], "the same spend"),
        (["--kind", "seats", "--since", "2025-01-01"], "needs an amount"),
        (["--kind", "discount", "--percent", "nan", "--since", "2025-01-01"], "not a number"),
        (["--kind", "discount", "--percent", "10", "--since", "1950-01-01"], "days are from"),
        (["--kind", "discount", "--percent", "10", "--since", "2025-02-01", "--until", "2025-01-01"], "is not after"),
    ],
)
def test_a_contract_that_cannot_be_meant_is_refused(words: list[str], message: str, books: Books):
    run("contract", "set", "first", "--kind", "credit", "--amount", "50", "--since", "2025-01-01")
    refused = CliRunner().invoke(main, ["contract", "set", "second", *words])
    assert refused.exit_code == 1
    assert message in " ".join(refused.output.split())
    assert [row["name"] for row in json.loads(run("contract", "list", "--json"))] == ["first"]


def test_a_contract_keeps_what_is_not_given(books: Books):
    run(
        "contract",
        "set",
        "d",
        "--kind",
        "discount",
        "--provider",
        "openai",
        "--percent",
        "12.5",
        "--since",
        "2025-01-01",
    )
    unknown = CliRunner().invoke(main, ["contract", "set", "e", "--percent", "15"])
    assert "there is no contract 'e' to change; a new one needs --kind and --since" in " ".join(unknown.output.split())
    said = run("contract", "set", "d", "--percent", "15")
    assert said == (
        "d: discount of 15 % for openai, any model, from 2025-01-01 (was: discount of 12.5 % for openai, any model, from 2025-01-01)\n"
    )


def test_credits_for_different_models_are_not_for_the_same_spend(books: Books):
    for name, model in (("a", "gpt-5*"), ("b", "claude*"), ("c", "gpt-4.1")):
        run("contract", "set", name, "--kind", "credit", "--amount", "10", "--since", "2025-01-01", "--model", model)
    refused = CliRunner().invoke(
        main,
        ["contract", "set", "e", "--kind", "credit", "--amount", "1", "--since", "2025-01-01", "--model", "gpt-5-mini"],
    )
    assert "a and e are credits for the same spend" in " ".join(refused.output.split())


def test_a_window_of_effective_costs_knows_what_months_before_have_used(books: Books):
    for month in (1, 2, 3):
        books.sell(date(2025, month, 3), cost_usd=Decimal(20), calls=4)  # 80 a month
    books.write()
    run("contract", "set", "c", "--kind", "credit", "--amount", "100", "--since", "2025-01-01")
    query = "SELECT month, sum(amortised_usd) AS credit FROM {} GROUP BY month ORDER BY month"
    whole = json.loads(run("sql", query.format("effective_costs"), "--json"))
    assert [(row["month"], row["credit"]) for row in whole] == [
        ("2025-01-01", -80),
        ("2025-02-01", -20),
        ("2025-03-01", 0),
    ]
    march = "effective_costs_between(since = '2025-03-01 00:00:00', until = '2025-04-01 00:00:00')"
    assert [row["credit"] for row in json.loads(run("sql", query.format(march), "--json"))] == [0]


def test_contracts_of_a_file_are_set(books: Books, tmp_path: Path):
    file = tmp_path / "contracts.toml"
    file.write_text('[contract.openai]\nkind = "discount"\nprovider = "openai"\npercent = 12.5\nsince = 2025-01-01\n')
    assert run("contract", "import", str(file)) == "1 contract is set\n"
    file.write_text('[contract.openai]\nkind = "discount"\nprocent = 12.5\nsince = 2025-01-01\n')
    assert "which means nothing" in CliRunner().invoke(main, ["contract", "import", str(file)]).output
    run("contract", "remove", "openai")
    assert json.loads(run("contract", "list", "--json")) == []
