"""The steps of an agent's run around a call: workflow > agent > sub-agent > tool, from the spans that frameworks open.

A span knows the span around it, and a step is one that says so in the words of OpenTelemetry's GenAI conventions, of OpenInference or
of OpenLLMetry. The steps are read when the call ends, as frameworks name some of them late. A process sees its own spans only: what
another one does for the run hangs below the run itself, whose id is that of the trace.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

from opentelemetry import trace
from opentelemetry.context import Context

from spanledger.runtime.guard import quietly
from spanledger.semconv import attributes as a

LANGCHAIN: Final = "openinference.instrumentation.langchain"
"""OpenInference's instrumentor of LangChain and LangGraph: its spans are never current, so it is asked (`get_current_span`)."""
KINDLESS: Final = (LANGCHAIN, "openinference.instrumentation.llama_index")
"""Instrumentors whose spans have no kind before they end: until then they are chains."""
PARENT: Final = "_spanledger_parent"
"""On a span: the span that was current when it began."""
DEPTH: Final = "_spanledger_depth"
"""On a span: how many spans it keeps alive, at the most."""
KINDS: Final[dict[str, dict[str, str]]] = {
    a.OPERATION: {
        "invoke_workflow": "workflow", "invoke_agent": "agent", "create_agent": "agent", "execute_tool": "tool", "plan": "plan",
    },
    "openinference.span.kind": {"AGENT": "agent", "CHAIN": "chain", "TOOL": "tool"},
    "traceloop.span.kind": {"workflow": "workflow", "agent": "agent", "task": "task", "tool": "tool"},
}  # fmt: skip
"""Attribute -> its value -> the kind of step. Sources: semantic-conventions-genai registry (2026-11), OpenInference
spec/semantic_conventions.md, opentelemetry-semantic-conventions-ai 0.4."""
NAMES: Final = {
    "workflow": (a.WORKFLOW_NAME, "traceloop.entity.name"),
    "agent": (a.AGENT_NAME, "agent.name", "traceloop.entity.name"),
    "tool": ("gen_ai.tool.name", "tool.name", "traceloop.entity.name"),
}
"""Kind -> the attributes that may name it, before the span's own name does."""
MAX_NAME: Final = 60
MAX_CHAIN: Final = 256
"""Spans that one keeps alive: a task that starts itself again within its own span has no end."""
MAX_CHARACTERS: Final = 1000
"""Of the attribute: what is longer loses its innermost steps, so that each step has one parent in all calls."""


class Step(NamedTuple):
    """One step around a call."""

    kind: str
    name: str
    span_id: str


def remember_parent(span: Any, parent_context: Context | None, *, is_call: bool = False) -> None:
    """Let a span know the span around it. What is over and no step is not kept alive, and no chain is longer than `MAX_CHAIN`."""
    parent = trace.get_current_span(parent_context)
    if is_call and LANGCHAIN in sys.modules:
        parent = _langchain_span(parent)
    if not hasattr(parent, "attributes"):  # not recorded
        return
    depth = getattr(parent, DEPTH, 0) + 1
    if depth < MAX_CHAIN:
        _parent_of(parent)
        span.__dict__.update({PARENT: parent, DEPTH: depth})


def _langchain_span(current: Any) -> Any:
    """The span of the chain or graph that runs, of the same trace; `current` where there is none."""
    with quietly("asking for LangChain's span"):
        span: Any = sys.modules[LANGCHAIN].get_current_span()
        if span is not None and span.get_span_context().trace_id == current.get_span_context().trace_id:
            return span
    return current


def _parent_of(span: Any) -> Any:
    """The span around, without those that are over and no steps; the span forgets them."""
    parent = getattr(span, PARENT, None)
    around = parent
    while around is not None and not around.is_recording() and _kind(around) is None:
        around = getattr(around, PARENT, None)
    if around is not parent:
        setattr(span, PARENT, around)
        setattr(span, DEPTH, getattr(around, DEPTH, 0) + 1)
    return around


def _kind(span: Any) -> str | None:
    """The kind of step that a span is; None if it is none."""
    attributes: object = span.attributes
    if not isinstance(attributes, Mapping):  # a span of somebody else's making
        return None
    for name, kinds in KINDS.items():
        value = cast("Mapping[str, Any]", attributes).get(name)
        if isinstance(value, str) and value in kinds:
            return kinds[value]
    name = getattr(getattr(span, "instrumentation_scope", None), "name", "")
    return "chain" if name.startswith(KINDLESS) and "openinference.span.kind" not in attributes else None


def steps_around(span: Any) -> list[Step]:
    """The steps that a span is in, the outermost first."""
    steps: list[Step] = []
    around = _parent_of(span)
    while around is not None:
        kind = _kind(around)
        if kind is not None:
            steps.append(
                Step(kind, _name(around, around.attributes, kind), f"{around.get_span_context().span_id:016x}")
            )
        around = _parent_of(around)
    return steps[::-1]


def _name(span: Any, attributes: Mapping[str, Any], kind: str) -> str:
    names = (attributes.get(name) for name in NAMES.get(kind, ()))
    name = next((name for name in names if isinstance(name, str) and name), span.name)
    return "".join(filter(str.isprintable, str(name or kind)))[:MAX_NAME]


def step_attributes(span: Any) -> dict[str, str]:
    """What a call's row says of the run that it is in; nothing outside of one."""
    steps = steps_around(span)
    if not steps:
        return {}
    outermost = steps.copy()
    while len(path := json.dumps(outermost, ensure_ascii=False, separators=(",", ":"))) > MAX_CHARACTERS:
        outermost.pop()
    attributes = {a.RUN_PATH: path}
    for name, kind in ((a.AGENT_NAME, "agent"), (a.WORKFLOW_NAME, "workflow")):
        nearest = next((step.name for step in reversed(steps) if step.kind == kind), None)
        if nearest is not None:
            attributes[name] = nearest
    return attributes
