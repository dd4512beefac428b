"""A run of agents in one topology, through a framework and what opens its spans.

opentelemetry-instrument python agent_runs.py pydantic-ai nested

An agent makes one call, and what is within it runs inside of its span. Prints the trace's id.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

MODEL = "gpt-4.1-mini"
Within = Sequence[Callable[[], Awaitable[Any]]]


async def run_within(within: Within) -> None:
    await asyncio.gather(*(run() for run in within))


async def pydantic_ai(name: str, question: str, within: Within, *, stream: bool) -> None:
    from pydantic_ai import Agent

    Agent.instrument_all()
    agent = Agent(f"openai:{MODEL}", name=name)

    @agent.output_validator
    async def validate(output: str) -> str:
        await run_within(within)
        return output

    if stream:
        async with agent.run_stream(question) as result:
            async for _ in result.stream_text():
                pass
    else:
        await agent.run(question)


async def openai_agents(name: str, question: str, within: Within, *, stream: bool) -> None:
    from agents import Agent, AgentHooks, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
    from openai import AsyncOpenAI

    set_tracing_disabled(False)  # the tests' environment switches it off: its spans go nowhere but to the instrumentor

    class Hooks(AgentHooks):  # pyright: ignore
        async def on_end(self, context: Any, agent: Any, output: Any) -> None:
            await run_within(within)

    model = OpenAIChatCompletionsModel(MODEL, AsyncOpenAI())
    agent = Agent(name=name, model=model, hooks=Hooks())
    if stream:
        async for _ in Runner.run_streamed(agent, question).stream_events():
            pass
    else:
        await Runner.run(agent, question)


async def langgraph(name: str, question: str, within: Within, *, stream: bool) -> None:
    from langchain_openai import ChatOpenAI
    from langgraph.graph import END, START, StateGraph

    model = ChatOpenAI(model=MODEL)

    async def node(state: dict[str, Any]) -> dict[str, Any]:
        if stream:
            async for _ in model.astream(question):
                pass
        else:
            await model.ainvoke(question)
        await run_within(within)
        return state

    graph = StateGraph(dict)
    graph.add_node(name, node)
    graph.add_edge(START, name)
    graph.add_edge(name, END)
    await graph.compile(name=f"graph of {name}").ainvoke({})


async def llama_index(name: str, question: str, within: Within, *, stream: bool) -> None:
    from llama_index.core.agent.workflow import FunctionAgent
    from llama_index.llms.openai import OpenAI
    from openinference.instrumentation.llama_index import LlamaIndexInstrumentor

    if not LlamaIndexInstrumentor().is_instrumented_by_opentelemetry:
        LlamaIndexInstrumentor().instrument()

    class Asking(FunctionAgent):
        async def take_step(self, *arguments: Any, **more: Any) -> Any:
            step = await super().take_step(*arguments, **more)
            await run_within(within)
            return step

    model = OpenAI(model=MODEL, api_base=os.environ["OPENAI_BASE_URL"])
    named = type(name.replace(" ", "_"), (Asking,), {})  # its spans have the name of the class
    await named(name=name, llm=model, tools=[], streaming=stream).run(question)


async def crewai(name: str, question: str, within: Within, *, stream: bool) -> None:
    from crewai import LLM, Agent, Crew, Task

    loop = asyncio.get_running_loop()

    def done(_: Any) -> None:  # in the crew's thread
        asyncio.run_coroutine_threadsafe(run_within(within), loop).result()

    model = LLM(model=f"openai/{MODEL}", stream=stream)
    agent = Agent(role=name, goal="answer", backstory="short", llm=model)
    task = Task(description=question, expected_output="an answer", agent=agent, callback=done)
    await asyncio.to_thread(Crew(agents=[agent], tasks=[task]).kickoff)


FRAMEWORKS: dict[str, Any] = {
    "pydantic-ai": pydantic_ai, "openai-agents": openai_agents, "langgraph": langgraph, "llama-index": llama_index, "crewai": crewai,
}  # fmt: skip


async def main(framework: str, topology: str) -> None:
    run = FRAMEWORKS[framework]

    def agent(
        name: str, *within: Callable[[], Awaitable[Any]], question: str = "how much?", stream: bool = False
    ) -> Any:
        return lambda: run(name, f"{question} {name}", within, stream=stream)

    async def elsewhere() -> None:
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        command = ["opentelemetry-instrument", sys.executable, __file__, framework, "alone"]
        subprocess.run(  # noqa: ASYNC221 - the other process is what this one waits for
            command, check=True, env={**os.environ, "CARRIER": json.dumps(carrier)}, stdout=subprocess.DEVNULL
        )

    shapes: dict[str, Any] = {
        "nested": agent("outer", agent("inner", agent("innermost"))),
        "parallel": agent("outer", *(agent(f"worker {n}") for n in range(4))),
        "retried": agent("outer", question="[429] how much?"),
        "streamed": agent("outer", stream=True),
        "handed-off": None,
        "over-processes": agent("outer", elsewhere),
        "alone": agent("inner"),
    }
    tracer = trace.get_tracer("an.application")
    parent = TraceContextTextMapPropagator().extract(json.loads(os.environ.get("CARRIER", "{}")))
    token = otel_context.attach(parent)
    with tracer.start_as_current_span(
        "invoke_workflow trip", attributes={"gen_ai.operation.name": "invoke_workflow", "gen_ai.workflow.name": "trip"}
    ) as span:
        if topology == "handed-off":
            await agent("outer")()
            await agent("inner")()
        else:
            await shapes[topology]()
    otel_context.detach(token)
    print(f"{span.get_span_context().trace_id:032x}")


asyncio.run(main(*sys.argv[1:]))
