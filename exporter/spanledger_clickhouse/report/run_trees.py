"""The cost of a run, step by step: workflow > agent > tool > call, from the view `run_tree`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

from spanledger_clickhouse.database.ledger import Ledger, Result
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.report.spending import Query

INDENT: Final = "  "
COLUMNS: Final = {
    "step": "String",
    "kind": "String",
    "total_cost_usd": "Decimal",
    "share": "Float64",
    "calls": "UInt64",
    "tokens": "UInt64",
    "unpriced_calls": "UInt64",
}


class Step(NamedTuple):
    """A step of a run, or a call. Its cost is that of all calls below it, in USD; None: of no call the price is known."""

    node_id: str
    parent_id: str
    depth: int
    kind: str
    name: str
    total_cost_usd: Decimal | None
    calls: int
    tokens: int
    unpriced_calls: int


def question(run_id: str) -> Query:
    """The steps of the runs that a trace, a request, a session or a conversation of this id has."""
    return Query(statement("report/run_tree"), {"run": run_id})


def table_of(steps: Sequence[Step]) -> Result:
    """Steps as a table, each below the one around it, the most expensive first; the names are indented."""
    whole = sum((step.total_cost_usd or Decimal(0) for step in steps if not step.parent_id), Decimal(0))
    rows = [
        (
            INDENT * depth + (step.name or "-"),
            step.kind,
            step.total_cost_usd,
            float((step.total_cost_usd or 0) / whole) if whole else None,
            step.calls,
            step.tokens,
            step.unpriced_calls,
        )
        for depth, step in in_order(steps)
    ]
    return Result(tuple(COLUMNS), tuple(COLUMNS.values()), rows)


def in_order(steps: Sequence[Step]) -> Iterator[tuple[int, Step]]:
    """(depth, step), each below its own parent, the most expensive first. A step whose parent is not there stands at the top."""
    by_parent: dict[str, list[Step]] = {}
    known = {step.node_id for step in steps}
    for step in sorted(steps, key=lambda step: -(step.total_cost_usd or 0)):
        by_parent.setdefault(step.parent_id if step.parent_id in known else "", []).append(step)

    def below(parent: str, depth: int) -> Iterator[tuple[int, Step]]:
        for step in by_parent.get(parent, ()):
            yield depth, step
            yield from below(step.node_id, depth + 1)

    yield from below("", 0)


def steps_of(ledger: Ledger, run_id: str) -> list[Step]:
    """Raises DatabaseError."""
    query = question(run_id)
    rows: Sequence[Sequence[Any]] = ledger.query(query.text, query.parameters).rows
    return [Step(*row) for row in rows]


def sums(steps: Sequence[Step]) -> Mapping[str, Decimal]:
    """What each step's own children cost together, by the step's id: equal to its cost, but for a call, which has none."""
    totals: dict[str, Decimal] = {}
    for step in steps:
        totals[step.parent_id] = totals.get(step.parent_id, Decimal(0)) + (step.total_cost_usd or 0)
    return totals
