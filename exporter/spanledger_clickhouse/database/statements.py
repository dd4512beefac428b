"""Loads the SQL statements of `queries/`, one per file."""

from __future__ import annotations

from functools import cache
from importlib import resources


def statement(name: str, /, **fragments: str) -> str:
    """The statement of `queries/<name>.sql`.

    Args:
        name: e.g. "cli/spend_by_dimension".
        fragments: SQL that replaces `{fragment}` in the file; values are bound as query parameters (`{id:String}`).
    """
    text = _text(name)
    for fragment, sql in fragments.items():
        text = text.replace(f"{{{fragment}}}", sql)
    return text


@cache
def _text(name: str) -> str:
    return (resources.files("spanledger_clickhouse") / "queries" / f"{name}.sql").read_text("utf-8")
