"""Real SDKs against a server that gives one answer: how it is asked, and what its row costs."""

from __future__ import annotations

import itertools
import json
from typing import Any, NamedTuple

import httpx2
import openai
from google import genai

from conftest import Recorded

OPENROUTER = "https://openrouter.ai/api/v1"
OPENAI = "https://api.openai.com/v1"
PLAIN = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}

CITED = {
    "annotations": [
        {"type": "url_citation", "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 1}}
    ]
}
"""A message that cites a page."""

MESSAGES: list[Any] = [{"role": "user", "content": "x"}]


IDS = ("id", "responseId")
_numbers = itertools.count()


class Answer(NamedTuple):
    """What a server answers: a body, or the data of a stream's events."""

    body: Any = None
    events: list[Any] | None = None
    headers: dict[str, str] | None = None

    def transport(self) -> httpx2.MockTransport:
        if self.events is None:
            # An id of its own: an answer that was seen before comes from a cache.
            body = {**self.body, **{name: f"{self.body[name]}-{next(_numbers)}" for name in IDS if name in self.body}}
            return httpx2.MockTransport(lambda _: httpx2.Response(200, json=body, headers=self.headers))
        lines = (
            b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in self.events) + b"data: [DONE]\n\n"
        )
        kind = {"content-type": "text/event-stream"}
        return httpx2.MockTransport(lambda _: httpx2.Response(200, content=lines, headers=kind))


def chat(
    model: str, usage: dict[str, Any] | None, message: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi", **(message or {})}}
    return {
        "id": f"c-{model}",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [choice],
        "usage": usage,
        **more,
    }


def ask(url: str, answer: Answer, model: str, **more: Any) -> None:
    """A chat completion with OpenAI's SDK at `url`."""
    client = openai.OpenAI(
        api_key="x", base_url=url, http_client=httpx2.Client(transport=answer.transport()), max_retries=0
    )
    reply = client.chat.completions.create(model=model, messages=MESSAGES, **more)
    if answer.events is not None:
        list(reply)


def respond(answer: dict[str, Any]) -> None:
    """A response of OpenAI's."""
    client = openai.OpenAI(api_key="x", http_client=httpx2.Client(transport=Answer(answer).transport()), max_retries=0)
    client.responses.create(model="gpt-5.5", input="x")


def generate(answer: dict[str, Any], model: str = "gemini-2.5-flash") -> None:
    client = genai.Client(api_key="x", http_options={"client_args": {"transport": Answer(answer).transport()}})  # pyright: ignore[reportArgumentType]
    client.models.generate_content(model=model, contents="x")


def cost(ledger: Recorded) -> float | None:
    costs = [row["cost_usd"] for row in ledger.rows]
    return None if None in costs else float(sum(costs))


def response(output: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}
    return {
        "id": f"r-{len(output)}", "object": "response", "created_at": 1, "status": "completed", "model": "gpt-5.5", "output": output,
        "usage": usage, **more,
    }  # fmt: skip
