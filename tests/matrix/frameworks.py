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


def litellm_anthropic() -> None:
    import litellm as library

    def ask(way: str) -> dict[str, object]:
        return {
            "model": "anthropic/claude-sonnet-4-6",
            "messages": [{"role": "user", "content": f"{QUESTION} {way}"}],
            "api_base": os.environ["PROVIDER"],
        }

    async def asynchronous() -> None:
        await library.acompletion(**ask("async"))
        async for _ in await library.acompletion(**ask("async stream"), stream=True):
            pass

    library.completion(**ask("sync"))
    list(library.completion(**ask("stream"), stream=True))
    asyncio.run(asynchronous())


def litellm_gemini() -> None:
    import litellm as library

    model = "gemini/gemini-3.5-flash"
    base = f"{os.environ['PROVIDER']}/v1beta/models/gemini-3.5-flash"
    library.completion(model=model, messages=[{"role": "user", "content": f"{QUESTION} sync"}], api_base=base)
    messages = [{"role": "user", "content": f"{QUESTION} stream"}]
    list(library.completion(model=model, messages=messages, api_base=base, stream=True))


def dspy() -> None:
    import dspy as library

    model = library.LM("anthropic/claude-sonnet-4-6", api_base=os.environ["PROVIDER"], cache=False)
    model(f"{QUESTION} dspy")


def aiohttp_client() -> None:
    import aiohttp

    async def ask() -> None:
        url = f"{os.environ['PROVIDER']}/v1/messages"
        body = {"model": "claude-sonnet-4-6", "max_tokens": 5, "messages": [{"role": "user", "content": QUESTION}]}
        async with aiohttp.ClientSession() as session:
            async with session.post(url, json=body) as response:
                await response.json()
            async with session.post(url, json={**body, "stream": True}) as response:
                async for _ in response.content:
                    pass
            async with session.post(url, json={**body, "max_tokens": 6}) as response:
                await response.read()

    asyncio.run(ask())


def mistral() -> None:
    try:
        from mistralai.client import Mistral
    except ImportError:
        from mistralai import Mistral

    client = Mistral(api_key="k", server_url=os.environ["PROVIDER"])
    messages = [{"role": "user", "content": QUESTION}]
    client.chat.complete(model="gpt-4.1-mini", messages=messages)


def groq() -> None:
    import groq as library

    client = library.Groq(api_key="k", base_url=os.environ["PROVIDER"])
    messages = [{"role": "user", "content": QUESTION}]
    client.chat.completions.create(model="gpt-4.1-mini", messages=messages)
    client.embeddings.create(model="text-embedding-3-small", input=QUESTION)


def botocore() -> None:
    import boto3

    client = boto3.client(
        "bedrock-runtime", region_name="us-east-1", endpoint_url=os.environ["PROVIDER"],
        aws_access_key_id="k", aws_secret_access_key="k",
    )  # fmt: skip
    messages = [{"role": "user", "content": [{"text": QUESTION}]}]
    client.converse(modelId="claude-sonnet-4-6", messages=messages)


globals()[sys.argv[1].replace("-", "_")]()
print(sys.argv[1])
