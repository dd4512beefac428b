"""How often the forecast's band holds: it claims 80 %. Back-tested on 40 synthetic ledgers, each asked on five days of a month.

    python benchmarks/bench_forecast.py            # a table by kind of ledger and day
    python benchmarks/bench_forecast.py --json

Kinds: a business that rests at weekends, one that does not, growth of 1 to 3 % a day, a launch that doubles spend, batches on one day a
week, few and large days. Each has 90 days before the month. Beside ours: the mean of seven days without weekdays, whose band has
the deviation of that mean only.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from spanledger_clickhouse.database.connection import open_client, resolve_target
from spanledger_clickhouse.database.statements import statement

MONTHS: Final = [date(2026, month, 1) for month in (3, 4, 5, 6, 7, 8, 9, 10)]
ASKED: Final = (5, 10, 15, 20, 27)
HISTORY: Final = 90

Kind = Callable[[random.Random], Callable[[date, int], float]]


def _office(chance: random.Random) -> Callable[[date, int], float]:
    level, rest = chance.uniform(20, 400), chance.uniform(0.05, 0.5)
    return lambda day, _: level * (rest if day.isoweekday() > 5 else 1) * chance.gammavariate(20, 1 / 20)


def _steady(chance: random.Random) -> Callable[[date, int], float]:
    level = chance.uniform(20, 400)
    return lambda _day, _: level * chance.gammavariate(8, 1 / 8)


def _growing(chance: random.Random) -> Callable[[date, int], float]:
    level, growth = chance.uniform(20, 100), chance.uniform(0.002, 0.01)
    return lambda day, n: (
        level * math.exp(growth * n) * (0.5 if day.isoweekday() > 5 else 1) * chance.gammavariate(15, 1 / 15)
    )


def _batches(chance: random.Random) -> Callable[[date, int], float]:
    level, weekday = chance.uniform(20, 100), chance.randint(1, 7)
    return lambda day, _: level * (6 if day.isoweekday() == weekday else 1) * chance.gammavariate(10, 1 / 10)


def _rare(chance: random.Random) -> Callable[[date, int], float]:
    level = chance.uniform(100, 400)
    return lambda _day, _: level * chance.gammavariate(3, 1 / 3) if chance.random() < 0.4 else level / 20


KINDS: Final[dict[str, Kind]] = {
    "rests at weekends": _office,
    "every day alike": _steady,
    "grows": _growing,
    "batches once a week": _batches,
    "few, large days": _rare,
}


def ledgers() -> Iterator[tuple[str, date, dict[date, float]]]:
    """(kind, month, cost by day), eight of each kind."""
    for number, (kind, make) in enumerate(KINDS.items()):
        for index, month in enumerate(MONTHS):
            cost = make(random.Random(100 * number + index))
            first = month - timedelta(days=HISTORY)
            days = [first + timedelta(days=n) for n in range(HISTORY + 31)]
            yield kind, month, {day: cost(day, n) for n, day in enumerate(days)}


def forecasts() -> list[tuple[str, int, float, float, float, float, float]]:
    """(kind, day of the month, actual, projected, low, high, the simple rule's half band) of each question."""
    rows: list[str] = []
    actual: dict[str, float] = {}
    for kind, month, costs in ledgers():
        end = (month + timedelta(days=32)).replace(day=1)
        total = sum(cost for day, cost in costs.items() if month <= day < end)
        for asked in ASKED:
            as_of = datetime(month.year, month.month, asked, 12, tzinfo=UTC)
            name = f"{kind}|{month}|{asked}"
            actual[name] = total
            for day, cost in costs.items():
                if as_of.date() - timedelta(days=32) <= day <= as_of.date():
                    seen = cost / 2 if day == as_of.date() else cost
                    rows.append(f"('{name}', '{as_of:%Y-%m-%d %H:%M:%S}', '{month}', '{end}', '{day}', {seen:.6f})")
    query = f"""
        SELECT name, projected_usd, projected_low_usd, projected_high_usd,
               1.2816 * stddevs / sqrt(7) * calendar_days
        FROM
        (
            SELECT *, 1e12 AS amount, {statement("budgets/forecast")}
            FROM
            (
                SELECT name, toDateTime(as_of_text, 'UTC') AS as_of, toDateTime(toDate(begin), 'UTC') AS period_start,
                       toDateTime(toDate(end), 'UTC') AS period_end, sumIf(cost, day >= toDate(begin)) AS spent, stddevPop(cost) AS stddevs,
                       {statement("budgets/burn_rate")}
                FROM (SELECT c1 AS name, c2 AS as_of_text, c3 AS begin, c4 AS end, toDate(c5) AS day, c6 AS cost FROM VALUES({", ".join(rows)}))
                GROUP BY name, as_of_text, begin, end
            )
        )"""
    with open_client(resolve_target()) as client:
        found: list[Any] = client.query(
            query,
            settings={
                "max_query_size": 1 << 24,
                "max_ast_elements": 10_000_000,
                "max_expanded_ast_elements": 10_000_000,
            },
        ).result_rows
    return [(name.partition("|")[0], int(name.rpartition("|")[2]), actual[name], *figures) for name, *figures in found]


def summary() -> dict[str, Any]:
    """Coverage of the band, and the mean error, of all and by kind and day; and of the simple rule."""
    rows = forecasts()

    def of(selected: list[Any]) -> dict[str, float]:
        return {
            "questions": len(selected),
            "coverage": sum(low <= actual <= high for _, _, actual, _, low, high, _ in selected) / len(selected),
            "mean_error": sum(abs(projected / actual - 1) for _, _, actual, projected, *_ in selected) / len(selected),
            "band": sum((high - low) / actual for _, _, actual, _, low, high, _ in selected) / len(selected),
            "simple_coverage": sum(abs(actual - projected) <= half for _, _, actual, projected, _, _, half in selected) / len(selected),
        }  # fmt: skip

    return {
        "all": of(rows),
        "kinds": {kind: of([row for row in rows if row[0] == kind]) for kind in KINDS},
        "days": {str(asked): of([row for row in rows if row[1] == asked]) for asked in ASKED},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    figures = summary()
    if parser.parse_args().json:
        print(json.dumps(figures))
        return
    print(f"{'':26}{'questions':>10}{'in the band':>13}{'band':>8}{'mean error':>12}{'simple rule':>13}")
    groups = {
        "all": figures["all"],
        **figures["kinds"],
        **{f"on day {day}": part for day, part in figures["days"].items()},
    }
    for name, part in groups.items():
        print(
            f"{name:26}{part['questions']:>10}{part['coverage']:>13.0%}{part['band']:>8.0%}{part['mean_error']:>12.1%}"
            f"{part['simple_coverage']:>13.0%}"
        )


if __name__ == "__main__":
    main()
