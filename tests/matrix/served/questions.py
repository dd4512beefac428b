"""What every program of this folder asks a model: a plain call or a stream, for a user whose name is in the prompt.

The programs know of Spanledger what the documentation tells their authors: a user in baggage, nothing else.
"""

from __future__ import annotations

from contextlib import contextmanager

import openai
from opentelemetry import baggage, context

MODEL = "gpt-4.1-mini"
_clients: list = []


def client() -> openai.OpenAI:
    if not _clients:
        _clients.append(openai.OpenAI(max_retries=0))
    return _clients[0]


@contextmanager
def on_behalf_of(user: str):
    current = baggage.set_baggage("user.id", user)
    current = baggage.set_baggage("spanledger.feature", "served", current)
    token = context.attach(baggage.set_baggage("spanledger.request.id", f"request of {user}", current))
    try:
        yield
    finally:
        context.detach(token)


def plain(user: str) -> str:
    messages: list = [{"role": "user", "content": f"plain {user}."}]
    return client().chat.completions.create(model=MODEL, messages=messages).choices[0].message.content or ""


def streamed(user: str) -> str:
    messages: list = [{"role": "user", "content": f"stream {user}."}]
    chunks = client().chat.completions.create(model=MODEL, messages=messages, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def answer(path: str, user: str) -> str:
    """The text that a web server sends for /plain, /stream, or / without a call."""
    with on_behalf_of(user):
        return {"plain": plain, "stream": streamed}[path](user) if path else "up"
