"""The cost of a run: each dollar stands once, below the steps that its span is in, whatever opened the spans."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from mcp import Client
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace.propagation import _SPAN_KEY
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from conftest import Recorded
from empty_ledger import empty_ledger
from spanledger import attribution
from spanledger.capture import run_steps
from spanledger.capture.sampler import RecordCallsSampler
from spanledger.semconv import attributes as a
from spanledger_clickhouse.cli.mcp import server
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import Target, open_client
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.demo.loopback_provider import Provider
from spanledger_clickhouse.report import run_trees
from spanledger_clickhouse.report.run_trees import Step
from spanledger_clickhouse.session import open_ledger

CHAT: dict[str, Any] = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "how much?"}]}

CONVENTIONS: dict[str, Callable[[str, str], dict[str, str]]] = {
    "gen_ai": lambda kind, name: {
        "gen_ai.operation.name": {"workflow": "invoke_workflow", "agent": "invoke_agent", "tool": "execute_tool"}[kind],
        f"gen_ai.{kind}.name": name,
    },
    "openinference": lambda kind, name: {"openinference.span.kind": {"workflow": "CHAIN", "agent": "AGENT", "tool": "TOOL"}[kind], f"{kind}.name": name},
    "openllmetry": lambda kind, name: {"traceloop.span.kind": kind, "traceloop.entity.name": name},
}  # fmt: skip


class Framework:
    """Opens steps as one family of instrumentors does, and makes calls."""

    def __init__(self, convention: str, ledger: Recorded, client: openai.OpenAI) -> None:
        self.words, self.client = CONVENTIONS[convention], client
        self.tracer = ledger.tracing.get_tracer("a.framework")

    @contextmanager
    def step(self, kind: str, name: str) -> Iterator[None]:
        with self.tracer.start_as_current_span(f"{kind} {name}", attributes=self.words(kind, name)):
            yield

    def call(self, prompt: str = "x") -> None:
        self.client.chat.completions.create(**{**CHAT, "messages": [{"role": "user", "content": prompt}]})


def nested(run: Framework) -> None:
    with run.step("workflow", "trip"), run.step("agent", "planner"):
        run.call()
        with run.step("tool", "search"), run.step("agent", "reader"):
            run.call()


def parallel(run: Framework) -> None:
    with run.step("workflow", "trip"):
        around = otel_context.get_current()

        def one(number: int) -> None:
            token = otel_context.attach(around)
            with run.step("agent", f"worker {number}"):
                run.call()
            otel_context.detach(token)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(8)))


def retried(run: Framework) -> None:
    with run.step("workflow", "trip"), run.step("agent", "planner"):
        run.call("[429] again")


def streamed(run: Framework) -> None:
    with run.step("workflow", "trip"), run.step("agent", "writer"):
        stream = run.client.chat.completions.create(**CHAT, stream=True)
    list(stream)  # the agent's span is over


def handed_off(run: Framework) -> None:
    with run.step("workflow", "trip"):
        with run.step("agent", "first"):
            run.call()
        with run.step("agent", "second"):
            run.call()
            run.call()


def over_processes(run: Framework) -> None:
    with run.step("workflow", "trip"):
        run.call()
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
    token = otel_context.attach(TraceContextTextMapPropagator().extract(carrier, otel_context.Context()))
    with run.step("agent", "elsewhere"):
        run.call()
    otel_context.detach(token)


TOPOLOGIES = {
    nested: [("workflow", "trip", 2), ("agent", "planner", 2), ("tool", "search", 1), ("agent", "reader", 1)],
    parallel: [("workflow", "trip", 8), *[("agent", f"worker {number}", 1) for number in range(8)]],
    retried: [("workflow", "trip", 1), ("agent", "planner", 1)],
    streamed: [("workflow", "trip", 1), ("agent", "writer", 1)],
    handed_off: [("workflow", "trip", 3), ("agent", "first", 1), ("agent", "second", 2)],
    over_processes: [("workflow", "trip", 1), ("agent", "elsewhere", 1)],
}


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    monkeypatch.setenv("SPANLEDGER_SPOOL_DIR", str(tmp_path / "nothing"))
    return empty_ledger(tmp_path / "ledger")


@pytest.fixture
def client(provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1") as client:
        yield client


@contextmanager
def kept(ledger: Recorded, where: Target) -> Iterator[Ledger]:
    """The ledger with what was recorded."""
    with open_client(where) as database:
        insert.insert(database, where, [tuple(row.values()) for row in ledger.rows])
    with open_ledger(dsn=where.dsn, take_in=False) as opened:
        yield opened


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda topology: topology.__name__)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_root_of_a_run_is_the_sum_of_its_leaves(
    convention: str, topology: Callable[[Framework], None], ledger: Recorded, client: openai.OpenAI, where: Target, public_host: None
):  # fmt: skip
    topology(Framework(convention, ledger, client))
    rows = ledger.rows
    [trace_id] = {row["trace_id"] for row in rows}
    with kept(ledger, where) as opened:
        steps = run_trees.steps_of(opened, trace_id)
    [root] = [step for step in steps if step.kind == "run"]
    leaves = [step for step in steps if step.kind == "call"]
    spent = sum((row["cost_usd"] for row in rows), Decimal(0))
    assert root.total_cost_usd == sum((leaf.total_cost_usd or 0 for leaf in leaves), Decimal(0)) == spent
    assert spent > 0
    assert len(leaves) == len(rows)
    below: dict[str, Decimal] = {}
    for step in steps:
        below[step.parent_id] = below.get(step.parent_id, Decimal(0)) + (step.total_cost_usd or 0)
    assert {step.node_id: step.total_cost_usd for step in steps if step.kind != "call"} == {
        name: below[name] for name in below if name
    }
    between = [
        (step.kind.replace("chain", "workflow"), step.name, step.calls)
        for step in steps
        if step.kind not in ("run", "call")
    ]
    if convention == "openinference":  # a chain has the name of its span
        between = [(kind, name.removeprefix("workflow "), calls) for kind, name, calls in between]
    assert sorted(between) == sorted(TOPOLOGIES[topology])


def test_the_nearest_agent_is_on_the_call(ledger: Recorded, client: openai.OpenAI):
    run = Framework("gen_ai", ledger, client)
    nested(run)
    run.call()
    assert [row["attributes"].get(a.AGENT_NAME) for row in ledger.rows] == ["planner", "reader", None]
    assert [row["attributes"].get(a.WORKFLOW_NAME) for row in ledger.rows] == ["trip", "trip", None]


def test_a_deep_run_keeps_its_outermost_steps(ledger: Recorded, client: openai.OpenAI):
    run = Framework("gen_ai", ledger, client)
    with ExitStack() as stack:
        for number in range(50):
            stack.enter_context(run.step("agent", f"a rather long name of agent {number}"))
        run.call()
    path = ledger.row["attributes"][a.RUN_PATH]
    steps = json.loads(path)
    assert len(path) <= run_steps.MAX_CHARACTERS
    assert [step[1].rpartition(" ")[2] for step in steps] == [str(number) for number in range(len(steps))]
    assert len(steps) > 10
    assert ledger.row["attributes"][a.AGENT_NAME].endswith(" 49")  # the nearest, all the same


def test_a_hostile_name_stays_a_name(ledger: Recorded, client: openai.OpenAI, where: Target, public_host: None):
    run = Framework("gen_ai", ledger, client)
    name = "\x1b[2J','x']]; DROP TABLE llm_calls --\u202e" + "y" * 500
    with run.step("agent", name):
        run.call()
    with kept(ledger, where) as opened:
        [_, step, _] = run_trees.steps_of(opened, ledger.row["trace_id"])
    assert step.name == "[2J','x']]; DROP TABLE llm_calls --" + "y" * (len(step.name) - 35)
    assert len(step.name) <= run_steps.MAX_NAME


def test_a_span_that_is_not_recorded_is_no_step(ledger: Recorded, client: openai.OpenAI):
    ledger.tracing.sampler = RecordCallsSampler(ledger.tracing.sampler)
    with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=True))):
        Framework("gen_ai", ledger, client).call()
    assert a.RUN_PATH not in ledger.row["attributes"]


def test_spans_that_are_over_are_not_kept_alive(ledger: Recorded):
    tracer = ledger.tracing.get_tracer("a.loop")
    spans: list[weakref.ref[Any]] = []
    context = otel_context.Context()
    for number in range(2000):
        span = tracer.start_span(
            f"turn {number}", context, attributes=CONVENTIONS["gen_ai"]("agent", "a") if number % 100 == 0 else {}
        )
        context = trace.set_span_in_context(span, otel_context.Context())
        if number:
            previous.end()  # noqa: F821 - each turn begins within the one before
        previous = span  # noqa: F841
        spans.append(weakref.ref(span))
    del span
    gc.collect()
    assert sum(reference() is not None for reference in spans) <= run_steps.MAX_CHAIN + 2


class Wrapped(trace.NonRecordingSpan):
    """A span of a tool that wraps each of the SDK's in one of its own, as Logfire does."""

    def __init__(self, span: Any) -> None:
        super().__init__(span.get_span_context())
        self.span = span

    def is_recording(self) -> bool:
        return self.span.is_recording()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.span, name)


def test_steps_are_found_behind_the_spans_of_a_wrapper(ledger: Recorded, client: openai.OpenAI):
    run = Framework("gen_ai", ledger, client)
    context = otel_context.Context()
    for name in ("outer", "inner"):
        span = run.tracer.start_span(name, context, attributes=CONVENTIONS["gen_ai"]("agent", name))
        context = otel_context.set_value(_SPAN_KEY, Wrapped(span), context)
    token = otel_context.attach(context)
    run.call()
    otel_context.detach(token)
    assert [name for _, name, _ in json.loads(ledger.row["attributes"][a.RUN_PATH])] == ["outer", "inner"]


def test_a_request_has_only_its_own_calls_of_a_trace(
    ledger: Recorded, client: openai.OpenAI, where: Target, public_host: None
):
    run = Framework("gen_ai", ledger, client)
    with run.step("agent", "shared"):
        for request in ("r1", "r2", "r2"):
            with attribution(user="u", feature="f", request_id=request):
                run.call()
    with kept(ledger, where) as opened:
        steps = run_trees.steps_of(opened, "r2")
    assert {step.kind: step.calls for step in steps} == {"run": 2, "agent": 2, "call": 1}
    assert run_trees.total(steps) == sum(
        (row["cost_usd"] for row in ledger.rows if row["request_id"] == "r2"), Decimal(0)
    )


@pytest.mark.parametrize("path", ['[["agent","empty",""]]', "[[1,2],null]", "nonsense", '[["agent","itself","SPAN"]]'])
def test_a_path_that_is_none_makes_no_tree_without_end(
    path: str, ledger: Recorded, client: openai.OpenAI, where: Target, public_host: None
):
    Framework("gen_ai", ledger, client).call()
    row = ledger.row
    row["attributes"] = {**row["attributes"], a.RUN_PATH: path.replace("SPAN", row["span_id"])}
    with open_client(where) as database:
        insert.insert(database, where, [tuple(row.values())])
    with open_ledger(dsn=where.dsn, take_in=False) as opened:
        steps = run_trees.steps_of(opened, row["trace_id"])
    assert [step.kind for _, step in run_trees.in_order(steps)] == ["run", "call"]
    assert run_trees.total(steps) == row["cost_usd"]


@pytest.mark.parametrize(
    "odd", [{"name": None}, {"name": b"x"}, {"attributes": ["list"]}, {"attributes": "text"}, {"attributes": None}]
)
def test_an_odd_span_around_costs_the_row_nothing(
    odd: dict[str, Any], ledger: Recorded, client: openai.OpenAI, public_host: None
):
    class Odd(trace.NonRecordingSpan):
        name: Any = odd.get("name", "odd")
        attributes: Any = odd.get("attributes", {"gen_ai.operation.name": "invoke_agent"})

    with trace.use_span(Odd(trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1)))):
        Framework("gen_ai", ledger, client).call()
    assert (ledger.row["price_status"], ledger.row["sequence"]) == ("priced", 0)


def test_steps_without_their_parent_stand_at_the_top():
    step = Step("b", "gone", 2, "agent", "b", Decimal(1), 1, 1, 0, "t")
    assert [(depth, each.node_id) for depth, each in run_trees.in_order([step])] == [(0, "b")]


# --- over MCP -------------------------------------------------------------------------------------------------------------


def asked(where: Target, tool: str, **arguments: Any) -> Any:
    async def ask() -> Any:
        async with Client(server(where)) as assistant:
            return await assistant.call_tool(tool, arguments)

    return asyncio.run(ask())


def test_an_assistant_gets_what_the_page_shows(
    ledger: Recorded, client: openai.OpenAI, where: Target, public_host: None
):
    nested(Framework("gen_ai", ledger, client))
    with kept(ledger, where):
        pass
    row = ledger.rows[0]
    spend = asked(where, "spend", by="agent").structured_content
    [table] = [table for table in spend["tables"] if table["title"] == "Spend by agent"]
    assert {row["agent"] for row in table["rows"]} == {"planner", "reader"}
    assert "SELECT" in table["sql"]
    run = asked(where, "run", run_id=row["trace_id"]).structured_content
    assert [step["step"].strip() for step in run["tables"][0]["rows"]][:2] == ["tests", "trip"]
    leaf = next(step for step in run["tables"][0]["rows"] if step["kind"] == "call")
    explained = asked(where, "explain", trace_id=leaf["trace_id"], span_id=leaf["span_id"]).structured_content
    assert explained["tables"][0]["rows"]
    for tool in ("unattributed", "budgets"):
        assert asked(where, tool).structured_content["tables"]


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("spend", {"by": "colour"}, "is none of"),
        ("spend", {"first_day": "yesterday"}, "a day is written"),
        ("run", {"run_id": "nothing"}, "No call belongs to nothing"),
        ("explain", {"trace_id": "x", "span_id": "'; DROP TABLE llm_calls"}, "No call has this trace and span"),
    ],
)
def test_a_wrong_question_is_answered(tool: str, arguments: dict[str, Any], message: str, where: Target):
    answer = asked(where, tool, **arguments)
    assert answer.is_error
    assert message in answer.content[0].text


def test_every_tool_only_reads(where: Target):
    async def tools() -> Any:
        async with Client(server(where)) as assistant:
            return (await assistant.list_tools()).tools

    listed = asyncio.run(tools())
    assert {tool.name for tool in listed} == {"spend", "request", "run", "unattributed", "budgets", "explain"}
    assert all(tool.annotations.read_only_hint for tool in listed)
    assert all(tool.description for tool in listed)
