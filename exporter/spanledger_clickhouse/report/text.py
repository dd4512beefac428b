"""A report as plain text, for a terminal or an email, and as Markdown."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from spanledger_clickhouse.report.queries import Report
from spanledger_clickhouse.report.sections import Section, sections, title

RULE = "-" * 78
LEAST_WIDTH = 12


def plain(report: Report) -> str:
    """The report in a fixed-width font."""
    lines = [title(report).upper(), f"{report.since:%Y-%m-%d %H:%M} to {report.until:%Y-%m-%d %H:%M} UTC"]  # fmt: skip
    for section in sections(report):
        lines += ["", section.title.upper(), RULE, *_table(section)]
        if section.note:
            lines.append(section.note)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _table(section: Section) -> list[str]:
    if not section.rows:
        return [] if section.note else ["none"]
    titled = any(section.head)
    rows = [section.head, *section.rows] if titled else list(section.rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(section.head))]
    if titled:
        room = len(RULE) - sum(widths[1:]) - 2 * len(widths[1:])
        widths[0] = min(widths[0], max(LEAST_WIDTH, room))
    lines: list[str] = []
    for row in rows:
        first, *others = textwrap.wrap(row[0], widths[0], break_on_hyphens=False) or [""] if titled else [row[0]]
        cells = [
            first.ljust(widths[0]),
            *(
                cell.rjust(width) if titled else cell.ljust(width)
                for cell, width in zip(row[1:], widths[1:], strict=True)
            ),
        ]
        lines += ["  ".join(cells), *others]
    return lines


def markdown(report: Report) -> str:
    """The report as Markdown with tables (GitHub's)."""
    lines = [
        f"# {title(report)}",
        "",
        f"{report.since:%Y-%m-%d %H:%M} to {report.until:%Y-%m-%d %H:%M} UTC",
    ]
    for section in sections(report):
        lines += ["", f"## {section.title}", ""]
        if section.rows:
            lines += markdown_table(section.head, section.rows)
        elif not section.note:
            lines.append("none")
        if section.note:
            lines += [*([""] if section.rows else []), escape_markdown(section.note)]
    return "\n".join(lines) + "\n"


def markdown_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A table with the first column aligned left and the others right."""
    cells = [" | ".join(escape_markdown(cell) for cell in row) for row in (head, *rows)]
    marks = " | ".join([":--", *["--:"] * (len(head) - 1)])
    return [f"| {line} |" for line in (cells[0], marks, *cells[1:])]


def escape_markdown(text: str) -> str:
    """Text that Markdown shows literally: the application chooses the names of features and users."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", text).replace("\n", " ")
