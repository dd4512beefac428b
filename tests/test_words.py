"""Prose is plain technical English: words of docs/style.md that have a standard term do not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT

BANNED = re.compile(
    r"\b(tell|tells|telling|told|mend|mends|mended|mending|dearest|doors?|by way of|what becomes of|without a word|"
    r"makes? no sense|goes on)\b",
    re.IGNORECASE,
)
CODE = re.compile(r"```.*?```|`[^`]*`|<!--.*?-->", re.DOTALL)
PAGES = [
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
    if path.name != "style.md"  # it names them
]


def hits(text: str) -> Iterator[tuple[int, str]]:
    """(line, word) of each banned word outside code."""
    prose = CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    for match in BANNED.finditer(prose):
        yield text[: match.start()].count("\n") + 1, match[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_no_word_that_a_standard_term_replaces(page: Path):
    assert list(hits(page.read_text())) == []


def test_help_has_no_word_that_a_standard_term_replaces():
    assert list(hits((ROOT / "docs/commands.md").read_text().replace("```", ""))) == []


def messages() -> Iterator[tuple[str, int, str]]:
    """(file, line, word) of each banned word in a text that the packages print, log or raise."""
    for package in ("instrumentation", "exporter"):
        for path in (ROOT / package).rglob("*.py"):
            if "report" in path.parts:  # its golden files change with it
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                    for match in BANNED.finditer(node.value):
                        yield str(path.relative_to(ROOT)), node.lineno, match[0]


def test_messages_and_docstrings_have_no_word_that_a_standard_term_replaces():
    assert sorted(messages()) == []
