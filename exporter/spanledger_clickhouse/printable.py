"""Text that the ledger holds, for people: names come from requests, and may hold anything."""

from __future__ import annotations

from typing import Final

LONGEST_NAME: Final = 100
"""Characters of a name within a message."""


def visible(text: str) -> str:
    """Text without control characters: a terminal runs them, and a line break forges a line. They are shown as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(name: str) -> str:
    """A name as one line of printable characters, truncated to 100."""
    printable = "".join(character if character.isprintable() else " " for character in name)
    return printable if len(printable) <= LONGEST_NAME else f"{printable[: LONGEST_NAME - 1]}…"


def without_middle(text: str, width: int) -> str:
    """A text of at most `width` characters: its begin and its end."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"
