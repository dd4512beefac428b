"""Finds what a usage object counts and nobody reads: a new field there can be new money, so its call is no longer exact."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, cast

from spanledger.runtime.untrusted_json import Json, label

NO_MONEY: Final = re.compile(
    r"(?:.*\.)?(?:time_to_\w+|\w*per_sec(?:ond)?(?:_\w+)?|(?:\w+_)?latency(?:_m?s)?|created(?:_at)?|\w*modality"
    r"|(?:queue|prompt|completion|total|load|eval|prompt_eval|inference|processing|prefill|decode|generation|server)_?(?:time|duration)(?:_m?s)?)"
)
"""Numbers that say how fast an answer was, or when it came. A length of time that can be sold (audio, a container) is not among them."""
MAX_NAMES: Final = 8
MAX_ITEMS: Final = 64
MAX_DEPTH: Final = 5


def unread_names(usage_fields: Json, known: frozenset[str]) -> str | None:
    """The dotted names of numbers other than 0 that are not known, with commas; None where there are none.

    `known` names end in "*" for all that is below.
    """
    names: list[str] = []
    for name in _numbers(usage_fields, "", MAX_DEPTH):
        if name not in known and name not in names and not NO_MONEY.fullmatch(name) and not _is_below(name, known):
            names.append(name)
            if len(names) == MAX_NAMES:
                break
    return label(",".join(names)) if names else None


def _numbers(value: Json, prefix: str, depth: int) -> Iterator[str]:
    for key, part in value.items():
        if isinstance(part, int | float):
            if part and part is not True:
                yield prefix + key
        elif depth and isinstance(part, dict):
            yield from _numbers(cast("Json", part), f"{prefix}{key}.", depth - 1)
        elif depth and isinstance(part, list):
            for item in cast("list[object]", part)[:MAX_ITEMS]:
                if isinstance(item, dict):
                    yield from _numbers(cast("Json", item), f"{prefix}{key}.", depth - 1)


def _is_below(name: str, known: frozenset[str]) -> bool:
    while "." in name:
        name = name.rpartition(".")[0]
        if f"{name}.*" in known:
            return True
    return False
