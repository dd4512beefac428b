"""Names and structure: a local variable is the noun of what it holds (docs/style.md); test files are short and independent."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from conftest import ROOT

VAGUE = frozenset(
    [
        "asked",
        "at",
        "done",
        "each",
        "found",
        "given",
        "gone",
        "had",
        "kept",
        "known",
        "made",
        "named",
        "said",
        "seen",
        "told",
        "wanted",
        "where",
    ]
)
"""Participles and pronouns that say nothing of what a variable holds."""
ALLOWED = 0.005
"""Share of all bindings; well-kept code bases of the field have 0 to 0.5 %."""


def bindings(path: Path) -> Iterator[tuple[str, int]]:
    """(name, line) of every variable and parameter that a module binds."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno


def test_variables_are_nouns_of_what_they_hold():
    count, vague = 0, Counter[str]()
    for package in ("instrumentation", "exporter"):
        for path in (ROOT / package).rglob("*.py"):
            for name, line in bindings(path):
                count += 1
                if name.strip("_") in VAGUE:
                    vague[f"{path.relative_to(ROOT)}:{line} {name}"] += 1
    assert count > 5000
    assert vague.total() / count < ALLOWED, sorted(vague)


def test_every_package_has_a_one_line_docstring():
    inits = [path for name in ("instrumentation", "exporter") for path in (ROOT / name).rglob("__init__.py")]
    assert [str(path) for path in inits if not ast.get_docstring(ast.parse(path.read_text()))] == []


TESTS = sorted((ROOT / "tests").glob("test_*.py"))
MAX_LINES = 600


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_file_imports_a_test_file():
    """What test files share is in conftest.py or in a module named for what it holds."""
    files = {path.stem for path in TESTS}
    importers = [(path.name, name) for path in (ROOT / "tests").rglob("*.py") for name in imported_modules(path)]
    assert [pair for pair in importers if pair[1] in files] == []


def test_no_test_file_is_long():
    assert [path.name for path in TESTS if len(path.read_text().splitlines()) > MAX_LINES] == []
