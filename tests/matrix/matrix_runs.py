"""Runs of real frameworks: the root is the sum of its leaves, and agents stand in each other as they ran."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from empty_ledger import empty_ledger
from matrix.environments import agree, ledger, python, ran
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import open_client
from spanledger_clickhouse.demo.loopback_provider import Provider
from spanledger_clickhouse.report import run_trees
from spanledger_clickhouse.session import open_ledger

FRAMEWORKS = {
    "pydantic-ai": ("pydantic-ai-slim[openai]",),
    "openai-agents": ("openai-agents", "openinference-instrumentation-openai-agents"),
    "langgraph": ("langgraph", "langchain-openai", "openinference-instrumentation-langchain"),
    "crewai": ("crewai", "openinference-instrumentation-crewai"),
    "llama-index": ("llama-index-core", "llama-index-llms-openai", "openinference-instrumentation-llama-index"),
}
"""Framework -> what is installed: itself, and whose spans say what its steps are."""
TOPOLOGIES = {
    "nested": [("outer", 3), ("inner", 2), ("innermost", 1)],
    "parallel": [("outer", 5), *[(f"worker {n}", 1) for n in range(4)]],
    "retried": [("outer", 1)],
    "streamed": [("outer", 1)],
    "handed-off": [("outer", 1), ("inner", 1)],
    "over-processes": [("outer", 1), ("inner", 1)],
}
"""Topology -> agents, and the calls below each of them."""


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_each_dollar_of_a_run_stands_once(
    framework: str, topology: str, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    [trace_id] = ran(
        python(f"runs-{framework}", *FRAMEWORKS[framework]), "agent_runs.py", provider, tmp_path, framework, topology
    )
    agree(provider, tmp_path)
    rows = ledger(tmp_path)
    assert {row["trace_id"] for row in rows} == {trace_id}
    # the loopback host is nobody's: each call counts as a dollar
    rows = [{**row, "cost_usd": Decimal(1), "price_status": "priced"} for row in rows]
    monkeypatch.setenv("SPANLEDGER_SPOOL_DIR", str(tmp_path / "nothing"))
    where = empty_ledger(tmp_path / "ledger")
    with open_client(where) as client:
        insert.insert(client, where, [tuple(row.values()) for row in rows])
    with open_ledger(dsn=where.dsn, take_in=False) as opened:
        steps = run_trees.steps_of(opened, trace_id)
    assert run_trees.total(steps) == len(rows) == sum(step.total_cost_usd or 0 for step in steps if step.kind == "call")
    below: dict[str, Decimal] = {}
    for step in steps:
        below[step.parent_id] = below.get(step.parent_id, Decimal(0)) + (step.total_cost_usd or 0)
    assert {step.node_id: step.total_cost_usd for step in steps if step.kind != "call"} == {
        name: below[name] for name in below if name
    }
    factor = len(rows) // max(1, sum(TOPOLOGIES[topology][0][1:])) if topology == "retried" else 1
    named = {
        (step.name.partition(".")[0].replace("_", " "), step.calls // factor)
        for step in steps
        if step.kind in ("agent", "chain")
    }
    assert {(name, calls) for name, calls in TOPOLOGIES[topology]} <= named, named
