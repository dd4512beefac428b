"""Loads the SQL statements of `queries/`, one per file."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

from spanledger.semconv.usage import METERS


def statement(name: str, /, **fragments: str) -> str:
    """The statement of `queries/<name>.sql`.

    Args:
        name: e.g. "cli/spend_by_user".
        fragments: SQL that replaces `{fragment}` in the file; values are bound as query parameters (`{id:String}`).
    """
    text = _text(name)
    for fragment, sql in fragments.items():
        text = text.replace(f"{{{fragment}}}", sql)
    return with_fragments(text)


def with_fragments(text: str) -> str:
    """Replaces each `{fragment:NAME}` by the expression in `queries/<NAME>.sql`, which several statements use."""
    return re.sub(r"\{fragment:([\w/]+)\}", lambda match: statement(match[1]).rstrip("\n"), text)


def with_meter_sums(text: str) -> str:
    """Replaces each `{sum:GROUP}` by the sum of the columns of a cost group's meters, of the calls `c`."""
    return re.sub(r"\{sum:(\w+)\}", lambda match: _sum(match[1]), text)


def _sum(group: str) -> str:
    columns = [meter.column for meter in METERS.values() if meter.group == group and not meter.subset_of]
    return " + ".join(f"c.{column}" if number else f"toUInt64(c.{column})" for number, column in enumerate(columns))


@cache
def _text(name: str) -> str:
    return (resources.files("spanledger_clickhouse") / "queries" / f"{name}.sql").read_text("utf-8")
