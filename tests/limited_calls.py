"""Calls of the SDKs under a budget of one user, and what of it is spent and reserved."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import anthropic
import openai
from google import genai

from spanledger.limits import api

BLOCK = 'action = "block"\n'
MESSAGES: Any = [{"role": "user", "content": "how much is it?"}]


def balance() -> tuple[Decimal, int]:
    """(USD spent, picodollars reserved) of the only account of this process."""
    limiter = api.limiter_from_settings()
    assert limiter is not None
    [key] = limiter._store._balances  # type: ignore[attr-defined]
    spent, reserved = limiter._store.balance(key)
    return Decimal(spent).scaleb(-12), reserved


def spend(usd: str) -> None:
    """Record a cost of the user ada."""
    decision = api.check_request_allowed(
        provider="openai", model="gpt-5.4-mini", input_tokens=1, max_output_tokens=1, user="ada"
    )
    assert api.record_actual_cost(decision["reservation"], usd)


def call_openai(url: str, **options: Any) -> Any:
    with openai.OpenAI(api_key="k", base_url=f"{url}/v1") as client:
        response = client.chat.completions.create(model="gpt-5.4-mini", messages=MESSAGES, max_tokens=100, **options)
        return list(response) if options.get("stream") else response


async def call_openai_async(url: str) -> None:
    async with openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1") as client:
        await client.chat.completions.create(model="gpt-5.4-mini", messages=MESSAGES, max_tokens=100)


def call_anthropic(url: str) -> None:
    with anthropic.Anthropic(api_key="k", base_url=url) as client:
        client.messages.create(model="claude-sonnet-4-6", max_tokens=100, messages=MESSAGES)


def call_google(url: str) -> None:
    client = genai.Client(api_key="k", http_options={"base_url": url})
    client.models.generate_content(model="gemini-3.5-flash", contents="how much is it?")


CALLS = {
    "openai": call_openai,
    "stream": lambda url: call_openai(url, stream=True),
    "async": lambda url: asyncio.run(call_openai_async(url)),
    "anthropic": call_anthropic,
    "google": call_google,
}


def background(name: str, status: str, **fields: Any) -> dict[str, Any]:
    """OpenAI's JSON of a background response."""
    response = {"id": name, "object": "response", "status": status, "model": "gpt-5.4-mini", "output": []}
    return {**response, "created_at": 1, "background": True, **fields}
