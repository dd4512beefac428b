"""The README matches the code."""

from __future__ import annotations

import re
import subprocess
import sys

import click
from click.testing import CliRunner

from conftest import ROOT
from spanledger_clickhouse.cli import SECTIONS, main
from spanledger_clickhouse.cli.groups import UNCUT, commands_below

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
    commands = [command for _, command in commands_below(main, "") if not isinstance(command, click.Group)]
    assert [command.name for command in commands if "Example" not in (command.help or "")] == []


def test_the_summary_of_a_command_is_the_first_sentence_of_its_help():
    for commands in SECTIONS.values():
        for name, lazy in commands.items():
            assert main.commands[name].get_short_help_str(UNCUT) == lazy.summary
            assert len(name) + len(lazy.summary) < 78, "one line of 80 columns"
