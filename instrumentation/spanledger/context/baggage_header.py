"""Reads and writes the header `baggage` by W3C's rules (https://www.w3.org/TR/baggage/).

A member is read whole or not at all: `id;region=eu` has a property, which is no part of the value; "+" is a plus; several headers
are one list; a value that is not ASCII, or no UTF-8 once decoded, is nobody's. Of a list beyond the limits nothing is read, as
nobody can say which half of it is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote, unquote_to_bytes

MAX_BYTES: Final = 8192
"""Of all members together (section 3.3.2)."""
TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
VALUE: Final = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")
"""baggage-octets: no space, quote, comma, semicolon or backslash."""


def read(headers: Iterable[str]) -> dict[str, str]:
    """The members of one or more headers, decoded; empty where they exceed the limits."""
    text = ",".join(headers)
    if len(text) > MAX_BYTES:
        return {}
    members: dict[str, str] = {}
    for member in text.split(","):
        key, separator, value = member.partition(";")[0].partition("=")
        key, value = key.strip(" \t"), value.strip(" \t")
        if not separator or not TOKEN.fullmatch(key):
            continue
        decoded = _decoded(value)
        if decoded is None:
            members.pop(key, None)
        else:
            members[key] = decoded
    return members


def _decoded(value: str) -> str | None:
    if not VALUE.fullmatch(value):
        return None
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        return None


def written(entries: Mapping[str, str]) -> str:
    """Entries as a header; a key that is no token (a label of a strange name) cannot be one's."""
    return ",".join(f"{key}={quote(value, safe='')}" for key, value in entries.items() if TOKEN.fullmatch(key))
