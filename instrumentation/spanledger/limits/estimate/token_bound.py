"""How large a request is, in tokens at most.

A text has one token a byte of UTF-8, which no byte-level tokenizer exceeds (each token stands for at least one byte), and
some for what stands around it; where that would be too much, as many as a tokenizer counts (`tokenizer.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

MESSAGE_TOKENS: Final = 16
"""Of a message's role and separators, generously (OpenAI's chat format takes 3 or 4)."""
MEDIA_TOKENS: Final = 6000
"""Of an image, a sound or a file in a request: above what providers count for an image of the largest size they take
(OpenAI 5,000 tokens, Anthropic some 4,800). Of longer sounds and documents it is too little."""
AROUND_TOKENS: Final = 4
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
WORDS: Final = frozenset({"args", "response", "arguments", "tool_use", "server_tool_use", "mcp_tool_use"})
"""Keys, and types of a table, below which all is words: what a model asked a tool, and what it was told."""
CUT: Final = frozenset({"input", "prompt"})
"""Keys whose texts a caller may have cut into tokens."""
NUMBER_TOKENS: Final = 24
"""Of a number, true, false or null: no more than the digits of the longest."""
SCALARS: Final = frozenset({int, float, bool, type(None)})
DEEPEST: Final = 100
"""What is nested deeper counts as media."""
ADDRESSES: Final = ("data:", "http://", "https://", "gs://")
"""What a text that names a file begins with."""


def text_tokens(*texts: str) -> int:
    """A bound of the tokens of messages' texts, by their bytes."""
    return sum(text_bytes(text) + MESSAGE_TOKENS for text in texts)


def text_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class Size:
    """A bound of the tokens of a request's body: its texts (names and schemas of tools included) by `counted`, media by
    MEDIA_TOKENS each. What the provider keeps from before (previous_response_id, files by id, a cache by name) is not in
    the body and not counted."""

    __slots__ = ("_counted", "media", "tokens")

    def __init__(self, body: Any, counted: Callable[[str], int] = text_bytes, media: int = 0) -> None:
        """`media`: pieces that go beside the body (files)."""
        self._counted = counted
        self.media = media
        self.tokens = self._of(body, "", 0, False)
        self.tokens += self.media * MEDIA_TOKENS

    def _of(self, body: Any, key: str, depth: int, words: bool) -> int:
        if isinstance(body, dict):
            table: dict[Any, Any] = body  # pyright: ignore[reportUnknownVariableType] - `cast` is a call
            return self._table(table, key, depth, words)
        if isinstance(body, list | tuple):
            parts: list[Any] | tuple[Any, ...] = body  # pyright: ignore[reportUnknownVariableType]
            if key in CUT and not words and _is_tokens(parts):
                return len(parts)
            total = AROUND_TOKENS * len(parts)
            for part in parts:
                total += self._of(part, key, depth + 1, words)
            return total
        if isinstance(body, str):
            return self._counted(body)
        if isinstance(body, bytes | bytearray | memoryview):
            self.media += 1
            return 0
        if type(body) in SCALARS:
            return NUMBER_TOKENS
        fields: Any = getattr(body, "__dict__", None)  # an answer's block, given back as part of the next prompt
        return self._of(fields, key, depth, words) if isinstance(fields, dict) else text_bytes(str(body))

    def _table(self, table: dict[Any, Any], key: str, depth: int, words: bool) -> int:
        if depth > DEEPEST:
            self.media += 1
            return 0
        kind = table.get("type")
        if type(kind) is not str:
            kind = ""
        words = words or kind in WORDS
        counted = self._counted
        total = MESSAGE_TOKENS + AROUND_TOKENS * len(table)
        for name, value in table.items():
            total += len(name) if type(name) is str and name.isascii() else text_bytes(str(name))
            sort: type[Any] = type(value)  # pyright: ignore[reportUnknownVariableType]
            if sort is str:
                if name in MEDIA_KEYS and not words and _is_media(table, kind, key, value):
                    self.media += 1
                elif counted is text_bytes and value.isascii():
                    total += len(value)
                else:
                    total += counted(value)
            elif sort in SCALARS:
                total += NUMBER_TOKENS
            else:
                total += self._of(value, name, depth + 1, words or name in WORDS)
        return total


def _is_tokens(body: list[Any] | tuple[Any, ...]) -> bool:
    """Whether a list is a text that has been cut into tokens by the caller."""
    return len(body) > 0 and type(body[0]) is int and all(type(token) is int for token in body)


def _is_media(table: dict[Any, Any], kind: str, key: str, value: str) -> bool:
    """Whether a text under a key of MEDIA_KEYS is media: a file's address or its bytes, in a table that is of media."""
    mime = table.get("media_type") or table.get("mimeType") or table.get("mime_type")
    if mime is not None:
        return not str(mime).startswith("text/") or value.startswith(ADDRESSES)
    return kind in MEDIA_TYPES or key in MEDIA_TABLES or value.startswith(ADDRESSES)


def body_tokens(body: Any, counted: Callable[[str], int] = text_bytes) -> int:
    """A bound of the tokens of a request's body (see `Size`)."""
    return Size(body, counted).tokens
