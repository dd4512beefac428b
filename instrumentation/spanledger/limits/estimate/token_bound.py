"""Upper bound of the prompt tokens of a request.

A text has one token a byte of UTF-8, which no byte-level tokenizer exceeds (each token stands for at least one byte), and
some for what stands around it; where that would be too much, as many as a tokenizer counts (`tokenizer.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

MESSAGE_TOKENS: Final = 16
"""For a message's role and separators, a generous bound (OpenAI's chat format takes 3 or 4)."""
MEDIA_TOKENS: Final = 6000
"""Of an image, a sound or a file in a request: above what providers count for an image of the largest size they take
(OpenAI 5,000 tokens, Anthropic some 4,800). Of longer sounds and documents it is too little."""
SEPARATOR_TOKENS: Final = 4
"""Of quotes, commas and colons around a name, or a text in a list, as they stand in a schema."""
MEDIA_KEYS: Final = frozenset({
    "data", "url", "file_data", "file_url", "image_url", "inline_data", "inlineData", "b64_json", "fileUri", "file_uri",
})  # fmt: skip
"""Keys whose texts are media, not words, where the table that they stand in is of media."""
MEDIA_TYPES: Final = frozenset({
    "base64", "url", "file", "image", "image_url", "input_image", "input_file", "input_audio", "input_video", "video_url",
    "document", "audio", "video",
})  # fmt: skip
"""Types of tables that are of media."""
MEDIA_TABLES: Final = frozenset({
    "image_url", "input_audio", "inline_data", "inlineData", "file_data", "fileData", "file", "source", "video_url", "audio",
})  # fmt: skip
"""Keys whose tables are of media."""
TEXT_KEYS: Final = frozenset({"args", "response", "arguments", "tool_use", "server_tool_use", "mcp_tool_use"})
"""Keys, and types of a table, below which everything is text: tool calls and tool results."""
TOKENIZED_KEYS: Final = frozenset({"input", "prompt"})
"""Keys whose texts a caller may have tokenized."""
NUMBER_TOKENS: Final = 24
"""Of a number, true, false or null: no more than the digits of the longest."""
SCALARS: Final = frozenset({int, float, bool, type(None)})
MAX_DEPTH: Final = 100
"""Deeper nesting counts as media."""
URL_PREFIXES: Final = ("data:", "http://", "https://", "gs://")
"""Prefixes of a text that refers to a file."""


def text_tokens(*texts: str) -> int:
    """Upper bound of the tokens of message texts, from their bytes."""
    return sum(text_bytes(text) + MESSAGE_TOKENS for text in texts)


def text_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class PromptTokenBound:
    """Upper bound of the tokens of a request body: texts (tool names and schemas included) by `count_text`, media by
    MEDIA_TOKENS each. State kept by the provider (previous_response_id, files by id, a named cache) is not in
    the body and not counted."""

    __slots__ = ("_count_text", "media", "tokens")

    def __init__(self, body: Any, count_text: Callable[[str], int] = text_bytes, media_count: int = 0) -> None:
        """`media`: number of files sent beside the body."""
        self._count_text = count_text
        self.media = media_count
        self.tokens = self._count(body, "", 0, False)
        self.tokens += self.media * MEDIA_TOKENS

    def _count(self, body: Any, key: str, depth: int, is_text: bool) -> int:
        if isinstance(body, dict):
            table: dict[Any, Any] = body  # pyright: ignore[reportUnknownVariableType] - `cast` is a call
            return self._count_table(table, key, depth, is_text)
        if isinstance(body, list | tuple):
            parts: list[Any] | tuple[Any, ...] = body  # pyright: ignore[reportUnknownVariableType]
            if key in TOKENIZED_KEYS and not is_text and _is_tokens(parts):
                return len(parts)
            total = SEPARATOR_TOKENS * len(parts)
            for part in parts:
                total += self._count(part, key, depth + 1, is_text)
            return total
        if isinstance(body, str):
            return self._count_text(body)
        if isinstance(body, bytes | bytearray | memoryview):
            self.media += 1
            return 0
        if type(body) in SCALARS:
            return NUMBER_TOKENS
        fields: Any = getattr(body, "__dict__", None)  # a block of a response, sent back as part of the next prompt
        return self._count(fields, key, depth, is_text) if isinstance(fields, dict) else text_bytes(str(body))

    def _count_table(self, table: dict[Any, Any], key: str, depth: int, is_text: bool) -> int:
        if depth > MAX_DEPTH:
            self.media += 1
            return 0
        kind = table.get("type")
        if type(kind) is not str:
            kind = ""
        is_text = is_text or kind in TEXT_KEYS
        count_text = self._count_text
        total = MESSAGE_TOKENS + SEPARATOR_TOKENS * len(table)
        for name, value in table.items():
            total += len(name) if type(name) is str and name.isascii() else text_bytes(str(name))
            sort: type[Any] = type(value)  # pyright: ignore[reportUnknownVariableType]
            if sort is str:
                if name in MEDIA_KEYS and not is_text and _is_media(table, kind, key, value):
                    self.media += 1
                elif count_text is text_bytes and value.isascii():
                    total += len(value)
                else:
                    total += count_text(value)
            elif sort in SCALARS:
                total += NUMBER_TOKENS
            else:
                total += self._count(value, name, depth + 1, is_text or name in TEXT_KEYS)
        return total


def _is_tokens(body: list[Any] | tuple[Any, ...]) -> bool:
    """Whether a list is a text that the caller has tokenized."""
    return len(body) > 0 and type(body[0]) is int and all(type(token) is int for token in body)


def _is_media(table: dict[Any, Any], kind: str, key: str, value: str) -> bool:
    """Whether a text under a key of MEDIA_KEYS is media: the URL or bytes of a file, in a media table."""
    mime = table.get("media_type") or table.get("mimeType") or table.get("mime_type")
    if mime is not None:
        return not str(mime).startswith("text/") or value.startswith(URL_PREFIXES)
    return kind in MEDIA_TYPES or key in MEDIA_TABLES or value.startswith(URL_PREFIXES)


def body_tokens(body: Any, count_text: Callable[[str], int] = text_bytes) -> int:
    """Upper bound of the tokens of a request body (see `PromptTokenBound`)."""
    return PromptTokenBound(body, count_text).tokens
