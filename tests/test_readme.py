"""The README matches the code."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import click
from click.testing import CliRunner

from conftest import ROOT
from spanledger_clickhouse.cli import main

README = (ROOT / "README.md").read_text()
REPOSITORY = "https://github.com/spanledger/spanledger/blob/main/"


def test_the_coverage_table_matches_the_tests():
    done = subprocess.run([sys.executable, ROOT / "tools/coverage_table.py", "--check"], check=False)
    assert done.returncode == 0, "run `python tools/coverage_table.py`"


def test_every_command_in_the_readme_exists():
    named = {match[1] for match in re.finditer(r"`spanledger ([a-z-]+)", README)}
    assert named
    assert named <= set(main.commands)
    assert set(main.commands) <= named, "the README's table lacks a command"
    for name in named:
        assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0


def test_every_link_has_a_target():
    """They are absolute, so that they work on the page of the package."""
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert target.startswith(REPOSITORY), target
        assert (ROOT / target.removeprefix(REPOSITORY)).exists(), target


def test_every_command_has_an_example_in_its_help():
    def leaves(group: click.Group) -> Iterator[click.Command]:
        for command in group.commands.values():
            if isinstance(command, click.Group):
                yield from leaves(command)
            else:
                yield command

    assert [command.name for command in leaves(main) if "Example" not in (command.help or "")] == []
