"""The cost of a run, step by step: workflow > agent > tool > call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    "trace_id": "String",
    "span_id": "String",
}
"""Columns of a run as a table; the last two are those of a call."""
MAX_STEPS: Final = 20_000
"""Steps and calls of a tree; more are left out, the deepest and cheapest first."""


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
    trace_id: str


def question(run_id: str) -> Query:
    """The steps of the runs in which a trace, a request, a session or a conversation of this id has made calls."""
    text = statement("report/run_tree", nodes=statement("calls/run_nodes"), steps=statement("calls/run_steps"))
    return Query(text, {"run": run_id, "limit": MAX_STEPS})


def total(steps: Sequence[Step]) -> Decimal | None:
    """The cost of all runs together, in USD; None if of no call the price is known."""
    costs = [step.total_cost_usd for step in steps if step.depth == 0 and step.total_cost_usd is not None]
    return sum(costs, Decimal(0)) if costs else None


def note(steps: Sequence[Step]) -> str:
    """What is missing in a tree; "" if it is whole."""
    return f"the first {MAX_STEPS:,} steps and calls; costs include all" if len(steps) == MAX_STEPS else ""


def table_of(steps: Sequence[Step]) -> Result:
    """Steps as a table, each below the one around it, the most expensive first; the names are indented."""
    whole = total(steps)
    rows = [
        (
            INDENT * depth + (step.name or "-"),
            step.kind,
            step.total_cost_usd,
            float((step.total_cost_usd or 0) / whole) if whole else None,
            step.calls,
            step.tokens,
            step.unpriced_calls,
            *((step.trace_id, step.node_id) if step.kind == "call" else ("", "")),
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

    shown: set[tuple[str, str]] = set()

    def below(parent: str, depth: int) -> Iterator[tuple[int, Step]]:
        for step in by_parent.get(parent, ()):
            if (step.trace_id, step.node_id) not in shown:  # a row may say anything
                shown.add((step.trace_id, step.node_id))
                yield depth, step
                yield from below(step.node_id, depth + 1)

    yield from below("", 0)


def steps_of(ledger: Ledger, run_id: str) -> list[Step]:
    """Raises DatabaseError."""
    query = question(run_id)
    rows: Sequence[Sequence[Any]] = ledger.query(query.text, query.parameters).rows
    return [Step(*row) for row in rows]
