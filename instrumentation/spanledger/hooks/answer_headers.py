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
        *(b"cache-status", b"x-cache", b"x-cache-status", b"cf-cache-status"),  # the first: RFC 9211
        b"cf-aig-cache-status",  # https://developers.cloudflare.com/ai-gateway/features/caching
        b"helicone-cache",  # https://docs.helicone.ai/features/advanced-usage/caching
        b"x-portkey-cache-status",  # https://portkey.ai/docs/product/ai-gateway/cache-simple-and-semantic
    }
)
"""Headers that say HIT, alone or among other words, where a cache answered."""
EXTENSIONS: Final = ("hishel_from_cache", "from_cache")
"""Extensions that hishel sets on a stored response (1.0, and before)."""


HIT: Final = re.compile(rb"(?<![\w=-])(?<!NOT )(?<!NO )(?:\w+_|REFRESH)?HIT(?![\w=-])")
"""HIT as a word, TCP_HIT or REFRESHHIT; not hit-for-miss, hit-for-pass, no-hit, or RFC 9211's `hit=?0`."""
MISS: Final = re.compile(rb"(?<!\w)MISS(?!\w)")
AGE: Final = re.compile(rb"\s*0*[1-9][0-9]{0,17}\s*")
"""Seconds above 0."""


class AnswerHeaders(NamedTuple):
    """What the headers of an answer say."""

    project: str | None = None
    request_id: str | None = None
    is_stored: bool = False
    """Whether a cache says that it answered, and not the provider."""


def answer_headers(response: Any) -> AnswerHeaders:
    """The headers, and the extensions, of an httpx or httpx2 response."""
    facts = read_headers((name.lower(), value) for name, value in response.headers.raw)
    if any(response.extensions.get(name) is True for name in EXTENSIONS):
        return facts._replace(is_stored=True)
    return facts


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> AnswerHeaders:
    """Headers as (lower-case name, value)."""
    project = request_id = None
    hit = miss = aged = False
    for name, value in headers:
        if name in REQUEST_IDS:
            request_id = label(value.decode("latin-1"))
        elif name == PROJECT:
            project = label(value.decode("latin-1"))
        elif name in CACHE_STATUS:
            words = value.upper()
            hit, miss = hit or HIT.search(words) is not None, miss or MISS.search(words) is not None
        elif name == b"age":
            aged = AGE.fullmatch(value) is not None
    return AnswerHeaders(project, request_id, hit or (aged and not miss))
