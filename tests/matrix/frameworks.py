"""One call, or a few, through a framework that stands on an SDK.

opentelemetry-instrument python frameworks.py langchain-openai
"""

from __future__ import annotations

import asyncio
import os
import sys

QUESTION = "how much is it?"


def langchain_openai() -> None:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    model = ChatOpenAI(model="gpt-4.1-mini")
    model.invoke(f"{QUESTION} invoke")
    list(model.stream(f"{QUESTION} stream"))
    asyncio.run(model.ainvoke(f"{QUESTION} ainvoke"))
    OpenAIEmbeddings(model="text-embedding-3-small", check_embedding_ctx_length=False).embed_query(QUESTION)


def langchain_anthropic() -> None:
    from langchain_anthropic import ChatAnthropic

    model = ChatAnthropic(model="claude-sonnet-4-6", max_tokens=50)
    model.invoke(f"{QUESTION} invoke")
    list(model.stream(f"{QUESTION} stream"))


def langchain_google_genai() -> None:
    from langchain_google_genai import ChatGoogleGenerativeAI

    model = ChatGoogleGenerativeAI(model="gemini-3.5-flash", base_url=os.environ["PROVIDER"])
    model.invoke(f"{QUESTION} invoke")
    list(model.stream(f"{QUESTION} stream"))


def llama_index() -> None:
    from llama_index.llms.openai import OpenAI

    model = OpenAI(model="gpt-4.1-mini", api_base=os.environ["OPENAI_BASE_URL"])
    model.complete(f"{QUESTION} complete")
    list(model.stream_complete(f"{QUESTION} stream"))


def instructor() -> None:
    import instructor as library
    import openai

    client = library.from_openai(openai.OpenAI(), mode=library.Mode.JSON)
    client.chat.completions.create(
        model="gpt-4.1-mini", response_model=None, messages=[{"role": "user", "content": f"{QUESTION} instructor"}]
    )


def pydantic_ai() -> None:
    from pydantic_ai import Agent

    Agent("openai:gpt-4.1-mini").run_sync(f"{QUESTION} openai")
    Agent("openai-responses:gpt-5.4-mini").run_sync(f"{QUESTION} responses")


def openai_agents() -> None:
    from agents import Agent, Runner

    Runner.run_sync(Agent(name="a", model="gpt-5.4-mini"), f"{QUESTION} agent")


def litellm() -> None:
    import litellm as library

    messages = [{"role": "user", "content": f"{QUESTION} litellm"}]
    library.completion(model="openai/gpt-4.1-mini", messages=messages, api_base=os.environ["OPENAI_BASE_URL"])


globals()[sys.argv[1].replace("-", "_")]()
print(sys.argv[1])
