"""Makes docs/commands.md from the commands' own help; `--check` says whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from spanledger_clickhouse.cli import main
from spanledger_clickhouse.cli.groups import commands_below

PAGE = Path(__file__).parent.parent / "docs/commands.md"
HEAD = """# Commands

What `spanledger COMMAND --help` prints. This page is made by `python tools/commands_page.py`; a test holds it up to date.
Commands that ask a question take `--json`, first take in the rows that wait in the spool, and ask the database of
`SPANLEDGER_DSN`, or the embedded one. Errors go to standard error, with exit status 1 (2 for a command line that makes
no sense). Colours and progress bars are for terminals; `NO_COLOR=1` switches colours off there too.
"""


def page() -> str:
    parts = [HEAD]
    for name, command in commands_below(main, "spanledger"):
        context = click.Context(command, info_name=name, max_content_width=100, terminal_width=100)
        parts.append(f"## {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    made = page()
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text() != made)
    PAGE.write_text(made)
