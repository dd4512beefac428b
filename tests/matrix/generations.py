"""Calls in the styles that an SDK of any generation knows: prints the name of each style that this one has.

opentelemetry-instrument python generations.py openai | anthropic | google
"""

from __future__ import annotations

import asyncio
import sys


def openai_styles():
    import openai

    client, async_client = openai.OpenAI(), openai.AsyncOpenAI()
    completions = client.chat.completions

    def chat(style: str) -> dict:
        return {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": f"how much is {style}?"}]}

    def create():
        completions.create(**chat("create"))

    def stream():
        assert len(list(completions.create(**chat("stream"), stream=True))) > 5

    def stream_with_usage():
        chunks = list(
            completions.create(**chat("stream_with_usage"), stream=True, stream_options={"include_usage": True})
        )
        assert chunks[-1].usage is not None

    def raw():
        completions.with_raw_response.create(**chat("raw")).parse()

    def raw_unparsed():
        completions.with_raw_response.create(**chat("raw_unparsed"))

    def streaming_response():
        with completions.with_streaming_response.create(**chat("streaming_response")) as response:
            response.parse()

    def streamed_lines():
        with completions.with_streaming_response.create(**chat("streamed_lines"), stream=True) as response:
            list(response.iter_lines())

    def helper():
        api = completions if hasattr(completions, "stream") else client.beta.chat.completions
        with api.stream(**chat("helper")) as events:
            list(events)

    def post():
        client.post("/chat/completions", body=chat("post"), cast_to=object)

    def embeddings():
        client.embeddings.create(model="text-embedding-3-small", input="how much is embeddings?")

    def retried():
        completions.create(**chat("[429] retried"))

    def responses():
        client.responses.create(model="gpt-5.4-mini", input="how much is responses?")

    def responses_stream():
        list(client.responses.create(model="gpt-5.4-mini", input="how much is responses_stream?", stream=True))

    async def async_create():
        await async_client.chat.completions.create(**chat("async_create"))

    async def async_stream():
        async for _ in await async_client.chat.completions.create(**chat("async_stream"), stream=True):
            pass

    async def async_raw():
        await async_client.chat.completions.with_raw_response.create(**chat("async_raw"))

    async def async_embeddings():
        await async_client.embeddings.create(model="text-embedding-3-small", input="how much is async_embeddings?")

    return locals(), async_client.close


def anthropic_styles():
    import anthropic

    client, async_client = anthropic.Anthropic(), anthropic.AsyncAnthropic()

    def asked(style: str) -> dict:
        messages = [{"role": "user", "content": f"how much is {style}?"}]
        return {"model": "claude-sonnet-4-6", "max_tokens": 100, "messages": messages}

    def create():
        client.messages.create(**asked("create"))

    def stream():
        list(client.messages.create(**asked("stream"), stream=True))

    def helper():
        with client.messages.stream(**asked("helper")) as events:
            events.get_final_message()

    def raw():
        client.messages.with_raw_response.create(**asked("raw")).parse()

    def raw_unparsed():
        client.messages.with_raw_response.create(**asked("raw_unparsed"))

    def streaming_response():
        with client.messages.with_streaming_response.create(**asked("streaming_response")) as response:
            response.parse()

    def beta():
        client.beta.messages.create(**asked("beta"))

    def post():
        client.post("/v1/messages", body=asked("post"), cast_to=object)

    def retried():
        client.messages.create(**asked("[429] retried"))

    async def async_create():
        await async_client.messages.create(**asked("async_create"))

    async def async_stream():
        async for _ in await async_client.messages.create(**asked("async_stream"), stream=True):
            pass

    async def async_helper():
        async with async_client.messages.stream(**asked("async_helper")) as events:
            await events.get_final_message()

    return locals(), async_client.close


def google_styles():
    from google import genai

    client = genai.Client(http_options={"base_url": __import__("os").environ["PROVIDER"]})

    def asked(style: str) -> dict:
        return {"model": "gemini-3.5-flash", "contents": f"how much is {style}?"}

    def generate():
        client.models.generate_content(**asked("generate"))

    def stream():
        assert len(list(client.models.generate_content_stream(**asked("stream")))) > 5

    def chat():
        client.chats.create(model="gemini-3.5-flash").send_message("how much is chat?")

    def chat_stream():
        list(client.chats.create(model="gemini-3.5-flash").send_message_stream("how much is chat_stream?"))

    def embed():
        client.models.embed_content(model="gemini-embedding-001", contents="how much is embed?")

    async def async_generate():
        await client.aio.models.generate_content(**asked("async_generate"))

    async def async_stream():
        async for _ in await client.aio.models.generate_content_stream(**asked("async_stream")):
            pass

    async def close():
        if hasattr(client.aio, "aclose"):
            await client.aio.aclose()

    return {name: value for name, value in locals().items() if name not in ("close", "asked")}, close


LACKS = ("has no attribute", "unexpected keyword argument")


async def main() -> None:
    styles, close = {"openai": openai_styles, "anthropic": anthropic_styles, "google": google_styles}[sys.argv[1]]()
    for name, style in styles.items():
        if getattr(style, "__module__", "") != "__main__" or style.__code__.co_argcount:
            continue
        try:
            result = style()
            if asyncio.iscoroutine(result):
                await result
        except (AttributeError, TypeError) as error:
            if not any(words in str(error) for words in LACKS):
                raise
            continue
        print(name)
    await close()


asyncio.run(main())
