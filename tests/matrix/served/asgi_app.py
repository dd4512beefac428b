"""An ASGI application that asks a model with the asynchronous client: /plain, /stream, and / without a call."""

from __future__ import annotations

import openai

import questions

client = openai.AsyncOpenAI(max_retries=0)


async def ask(path: str, user: str) -> str:
    messages: list = [{"role": "user", "content": f"{path} {user}."}]
    if path == "plain":
        whole = await client.chat.completions.create(model=questions.MODEL, messages=messages)
        return whole.choices[0].message.content or ""
    text = ""
    async for chunk in await client.chat.completions.create(model=questions.MODEL, messages=messages, stream=True):
        text += chunk.choices[0].delta.content or "" if chunk.choices else ""
    return text


async def application(scope, receive, send):
    if scope["type"] != "http":
        return
    path = scope["path"].strip("/")
    with questions.on_behalf_of(dict(scope["headers"]).get(b"x-user", b"").decode()):
        text = await ask(path, dict(scope["headers"]).get(b"x-user", b"").decode()) if path else "up"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text.encode()})
