"""A report as Slack blocks, for an incoming webhook: `spanledger report --format slack | curl -d @- $WEBHOOK`.

Limits of Block Kit: 50 blocks per message, 3,000 characters per section, 150 per header (https://api.slack.com/reference/block-kit).
"""

from __future__ import annotations

from typing import Any, Final

from spanledger_clickhouse.report.queries import Report
from spanledger_clickhouse.report.sections import Section, headline, sections

SECTION_CHARACTERS: Final = 2900
ROWS: Final = 10
MARKUP: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "*": "\u2217", "`": "\u02cb"})
"""Slack's escapes; characters without one become similar ones (an asterisk operator, a modifier letter)."""
TITLES: Final = ("Summary", "Cost by feature", "Top cost users", "Anomalies", "Budgets", "Data quality")


def message(report: Report) -> dict[str, Any]:
    """A message of an incoming webhook."""
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": f"LLM cost, {report.since:%d %b} to {report.until:%d %b %Y}"}},
        *(_block(section) for section in sections(report) if section.title in TITLES),
    ]  # fmt: skip
    return {"text": escape_mrkdwn(headline(report)), "blocks": blocks}


def _block(section: Section) -> dict[str, Any]:
    shown = [f"• {escape_mrkdwn(row[0])}: {escape_mrkdwn(_row_text(section, row))}" for row in section.rows[:ROWS]]
    if len(section.rows) > ROWS:
        shown.append(f"and {len(section.rows) - ROWS} more")
    if section.note:
        shown.append(escape_mrkdwn(section.note))
    text = "\n".join([f"*{escape_mrkdwn(section.title)}*", *(shown or ["none"])])
    return {"type": "section", "text": {"type": "mrkdwn", "text": text[:SECTION_CHARACTERS]}}


def _row_text(section: Section, row: tuple[str, ...]) -> str:
    """The cells after the first; a figure that is unclear by itself is followed by the name of its column."""
    unit_columns = {"calls", "baseline"}
    return ", ".join(
        f"{cell} {name}" if name in unit_columns else cell
        for name, cell in zip(section.head[1:], row[1:], strict=True)
        if cell
    )


def escape_mrkdwn(text: str) -> str:
    """Text without characters that Slack reads as markup."""
    return text.translate(MARKUP)
