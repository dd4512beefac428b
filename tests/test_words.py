"""Prose is plain technical English: words of docs/style.md that have a standard term do not come back."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT

BANNED = re.compile(
    r"\b(tell|tells|telling|told|mend|mends|mended|mending|dearest|doors?|by way of|what becomes of|without a word|"
    r"makes? no sense|goes on)\b",
    re.IGNORECASE,
)
IN_LABELS = re.compile(
    BANNED.pattern
    + r"|\b(the time before|without an owner|a look|looks? at|looked at|can i trust|can it be trusted|cut off|"
    r"broken off|used up|rings?|unclaimed|nobody|whoever)\b",
    re.IGNORECASE,
)
"""Also banned where people read single phrases: the report, dashboards, alerts, test names."""
COMMENT = re.compile(r"#[^\n]*")
"""Comments in code blocks are prose."""
CODE = re.compile(r"```.*?```|`[^`]*`|<!--.*?-->", re.DOTALL)
PAGES = [
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
    if path.name != "style.md"  # it names them
]


def hits(text: str) -> Iterator[tuple[int, str]]:
    """(line, word) of each banned word outside code, comments in code blocks included."""
    prose = CODE.sub(lambda match: blank_code(match[0]), text)
    for match in BANNED.finditer(prose):
        yield text[: match.start()].count("\n") + 1, match[0]


def blank_code(code: str) -> str:
    """The code with everything but its comments replaced by spaces."""
    lines = []
    for line in code.split("\n"):
        comment = COMMENT.search(line) if code.startswith("```") else None
        start = comment.start() if comment else len(line)
        lines.append(" " * start + line[start:])
    return "\n".join(lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_no_word_that_a_standard_term_replaces(page: Path):
    assert list(hits(page.read_text())) == []


def test_help_has_no_word_that_a_standard_term_replaces():
    assert list(hits((ROOT / "docs/commands.md").read_text().replace("```", ""))) == []


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of the strings of a module that contain a space."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def messages() -> Iterator[tuple[str, int, str]]:
    """(file, line, word) of each banned word in a text that the packages print, log or raise."""
    for package in ("instrumentation", "exporter"):
        for path in (ROOT / package).rglob("*.py"):
            banned = IN_LABELS if "report" in path.parts else BANNED
            for line, text in strings(path):
                for match in banned.finditer(text):
                    yield str(path.relative_to(ROOT)), line, match[0]


def test_messages_and_docstrings_have_no_word_that_a_standard_term_replaces():
    assert sorted(messages()) == []


LABELS = [
    *(ROOT / "tools").glob("grafana*.py"),
    *(ROOT / "tests/data/report").iterdir(),
    *(path for path in (ROOT / "exporter/spanledger_clickhouse/grafana").rglob("*") if path.is_file()),
    *(ROOT / "collector-config").iterdir(),
    *(ROOT / "deploy").iterdir(),
    ROOT / "docker-compose.yml",
]


@pytest.mark.parametrize("file", LABELS, ids=lambda file: file.name)
def test_reports_dashboards_and_alerts_have_no_word_that_a_standard_term_replaces(file: Path):
    text = file.read_text()
    assert [(text[: match.start()].count("\n") + 1, match[0]) for match in IN_LABELS.finditer(text)] == []


UNCHECKED = {"test_words.py"}  # it names them
TESTS = [path for path in sorted((ROOT / "tests").glob("*.py")) if path.name not in UNCHECKED]


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_a_test_file_has_no_word_that_a_standard_term_replaces(file: Path):
    """Names of tests, and their strings and comments."""
    functions = (
        n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    names = [function.name.replace("_", " ") for function in functions if function.name.startswith("test_")]
    with tokenize.open(file) as source:
        comments = [
            token.string for token in tokenize.generate_tokens(source.readline) if token.type == tokenize.COMMENT
        ]
    texts = [*(text for _, text in strings(file)), *comments]
    words = [IN_LABELS.search(name) for name in names] + [BANNED.search(text) for text in texts]
    assert [match.string for match in words if match] == []
