"""Reads an HTTP answer's headers in one pass: who is billed, which request it answers, and whether a cache gave it.

A cache says that it answered in a header (RFC 9111 section 5.1 requires Age of every stored answer; gateways have names of their
own) or, where it is a transport in this process, in the response's extensions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from spanledger.runtime.untrusted_json import label

PROJECT: Final = b"openai-project"
"""In OpenAI's answers, beside openai-organization (https://platform.openai.com/docs/api-reference/debugging-requests)."""
REQUEST_IDS: Final = frozenset({b"x-request-id", b"request-id", b"x-amzn-requestid"})
"""OpenAI's, Anthropic's and Bedrock's id of a request; a stored answer repeats it."""
CACHE_STATUS: Final = frozenset(
    {
        *(b"x-cache", b"x-cache-status", b"cf-cache-status", b"x-vercel-cache"),
        b"cf-aig-cache-status",  # https://developers.cloudflare.com/ai-gateway/features/caching
        b"helicone-cache",  # https://docs.helicone.ai/features/advanced-usage/caching
        b"x-openrouter-cache-status",  # https://openrouter.ai/docs/guides/features/response-caching
        b"x-portkey-cache-status",  # https://portkey.ai/docs/product/ai-gateway/cache-simple-and-semantic
    }
)
"""Headers that say HIT, alone or among other words, where a cache answered."""
GATEWAY: Final = b"x-litellm-"
COST: Final = b"x-litellm-response-cost"
"""In the answers of a LiteLLM proxy (https://docs.litellm.ai/docs/proxy/response_headers)."""
AMOUNT: Final = re.compile(rb"\d{1,9}(?:\.\d{1,18})?(?:[eE]-?\d{1,2})?")
EXTENSIONS: Final = ("hishel_from_cache", "from_cache")
"""Extensions that hishel sets on a stored response (1.0, and before)."""


HIT: Final = re.compile(rb"(?:(?!NO_|NOT_|NON_)[A-Z]+_)*(?:REFRESH|CACHE-)?HIT|STALE|UPDATING|REVALIDATED")
"""The first word of a header, or of one of its members, where a cache answered: HIT, TCP_HIT, RefreshHit; nginx and Cloudflare
have words for an answer that was kept and is renewed. Not hit-for-miss, hit-for-pass, no-hit."""
MEMBER: Final = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
QUOTED: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?')
AGE: Final = re.compile(rb"\s*0*[1-9][0-9]{0,17}\s*(?:,|$)")
"""Seconds above 0."""


class AnswerHeaders(NamedTuple):
    """What the headers of an answer say."""

    project: str | None = None
    request_id: str | None = None
    is_stored: bool = False
    """Whether a cache says that it answered, and not the provider."""
    cost: str | None = None
    """What a gateway says that the answer costs, a decimal string in USD."""
    is_gateways: bool = False
    """Whether a LiteLLM proxy has answered."""


def answer_headers(response: Any) -> AnswerHeaders:
    """The headers, and the extensions, of an httpx or httpx2 response."""
    facts = read_headers((name.lower(), value) for name, value in response.headers.raw)
    return facts._replace(is_stored=True) if is_from_cache(response) else facts


def is_from_cache(response: Any) -> bool:
    """Whether the transport of an httpx or httpx2 response says that it has kept it."""
    return any(response.extensions.get(name) is True for name in EXTENSIONS)


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> AnswerHeaders:
    """Headers as (lower-case name, value)."""
    project = request_id = cost = None
    hit = miss = aged = gateway = False
    for name, value in headers:
        if name in REQUEST_IDS:
            request_id = label(value.decode("latin-1"))
        elif name.startswith(GATEWAY):
            gateway = True
            if name != COST:
                continue
            amount = value.decode("latin-1").strip()
            cost = amount if AMOUNT.fullmatch(value.strip()) and float(amount) else None  # 0: it has no price itself
        elif name == PROJECT:
            project = label(value.decode("latin-1"))
        elif name in CACHE_STATUS:
            words = [member.split()[0] for member in value.upper().split(b",") if member.strip()]
            hit = hit or any(HIT.fullmatch(word) for word in words)
            miss = miss or b"MISS" in words
        elif name == b"cache-status":
            parameters = [_parameters(member) for member in MEMBER.findall(value)]
            hit = hit or any({b"hit", b"hit=?1"} & member for member in parameters)
            miss = miss or any(name.startswith(b"fwd") for member in parameters for name in member)
        elif name == b"age":
            aged = AGE.match(value) is not None
    return AnswerHeaders(project, request_id, hit or (aged and not miss), cost, gateway)


def _parameters(member: bytes) -> set[bytes]:
    """The parameters of a member of Cache-Status (RFC 9211), after the name of its cache; text in quotes says nothing."""
    return {part.strip().lower() for part in QUOTED.sub(b"", member).split(b";")[1:]}
