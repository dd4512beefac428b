"""Total readers of untrusted JSON: they return the typed value or None, and never raise.

A count is a non-negative integer below 2**32 (the ledger's column type); a bool is not a number; a
label is a printable string of at most 256 characters, cut and cleaned where it was not, so that different ones stay different. The readers that a call
uses most walk the path themselves: a call of `at` would double their price.
"""

from __future__ import annotations

import hashlib
import json
import math
from datetime import datetime
from typing import Final, cast

Json = dict[str, object]

MAX_COUNT: Final = 2**32 - 1
MAX_LABEL: Final = 256
DIGEST: Final = 32
"""Characters of the digest that ends a label which was cut."""


def parse_json(data: str | bytes) -> object:
    """`data` parsed as JSON; None if it is not valid JSON (audio, text, a truncated response)."""
    try:
        return cast("object", json.loads(data))
    except json.JSONDecodeError:
        return None
    except (ValueError, RecursionError):
        pass
    try:  # it has a number of more digits than Python reads, which spoils no other
        return cast("object", json.loads(data, parse_int=_whole_number))
    except (ValueError, RecursionError):
        return None


def _whole_number(digits: str) -> int | None:
    return int(digits) if len(digits) < 100 else None


def get_path(value: object, *path: str) -> object:
    """The value at `path` of nested objects, or None where the path leaves them."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = cast("Json", value).get(key)
    return value


def mapping(value: object, *path: str) -> Json:
    """The object at `path`, or an empty one."""
    for key in path:
        if not isinstance(value, dict):
            return {}
        value = cast("Json", value).get(key)
    return cast("Json", value) if isinstance(value, dict) else {}


def items(value: object, *path: str) -> list[object]:
    """The array at `path`, or an empty one."""
    for key in path:
        if not isinstance(value, dict):
            return []
        value = cast("Json", value).get(key)
    return cast("list[object]", value) if isinstance(value, list) else []


def count(value: object, *path: str) -> int | None:
    """The whole number at `path`, if it can be a count of something (12, 12.0; not -1, "12", true)."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = cast("Json", value).get(key)
    if type(value) is int:
        return value if 0 <= value <= MAX_COUNT else None
    if isinstance(value, float) and value.is_integer() and 0 <= value <= MAX_COUNT:
        return int(value)
    return None


def counts(value: object, depth: int = 3) -> dict[str, int]:
    """Every count in an object and the objects within it, by its dotted path: one pass for many questions."""
    counts_by_path: dict[str, int] = {}
    if isinstance(value, dict):
        _collect(cast("Json", value), "", counts_by_path, depth)
    return counts_by_path


def _collect(value: Json, prefix: str, counts_by_path: dict[str, int], depth: int) -> None:
    for key, part in value.items():
        if type(part) is int:
            if 0 <= part <= MAX_COUNT:
                counts_by_path[prefix + key] = part
        elif isinstance(part, dict):
            if depth:
                _collect(cast("Json", part), f"{prefix}{key}.", counts_by_path, depth - 1)
        elif isinstance(part, float) and part.is_integer() and 0 <= part <= MAX_COUNT:
            counts_by_path[prefix + key] = int(part)


def number(value: object, *path: str) -> float | None:
    """The finite number at `path`."""
    leaf = get_path(value, *path)
    if type(leaf) is int:
        return float(leaf) if abs(leaf) < 2**53 else None
    return leaf if isinstance(leaf, float) and math.isfinite(leaf) else None


def unix_seconds(value: object, *path: str) -> int | None:
    """The whole seconds since 1970 of the RFC 3339 time at `path`."""
    timestamp = get_path(value, *path)
    try:
        return int(datetime.fromisoformat(timestamp).timestamp()) if isinstance(timestamp, str) else None
    except (ValueError, OverflowError):
        return None


def flag(value: object, *path: str) -> bool | None:
    """The boolean at `path`."""
    leaf = get_path(value, *path)
    return leaf if isinstance(leaf, bool) else None


def label(value: object, *path: str) -> str | None:
    """The string at `path`, printable and at most 256 characters; None where there is none."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = cast("Json", value).get(key)
    if not isinstance(value, str) or not value:
        return None
    if len(value) <= MAX_LABEL and value.isprintable():
        return value
    cleaned = "".join(c for c in value[: 4 * MAX_LABEL] if c.isprintable())
    if len(value) <= MAX_LABEL:
        return cleaned or None
    digest = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()[:DIGEST]
    return f"{cleaned[: MAX_LABEL - DIGEST - 1]}~{digest}"
