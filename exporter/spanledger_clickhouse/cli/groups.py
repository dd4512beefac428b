"""Groups of commands: imported when they are asked for, and listed by what they are for, each with its whole summary."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Final, NamedTuple

import click

UNCUT: Final = 10_000
"""A limit above every summary's length: click would end it with dots."""


class Lazy(NamedTuple):
    """A command that is imported when it is run, or when its own help is shown."""

    module: str
    """Which has it in COMMANDS."""
    summary: str
    """The first sentence of its help."""


class Group(click.Group):
    """A group whose help says each command's summary in whole."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, rows in self.summaries(ctx).items():
            with formatter.section(section):
                formatter.write_dl(rows)

    def summaries(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
        """Section -> (command, summary)."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        return {
            "Commands": [(name, command.get_short_help_str(UNCUT)) for name, command in commands if command is not None]
        }


class LazyGroup(Group):
    """A group of commands that are not imported yet.

    Args:
        sections: what commands are for -> their names -> where they are.
    """

    def __init__(self, *, sections: dict[str, dict[str, Lazy]], **more: object) -> None:
        super().__init__(**more)  # type: ignore[arg-type]
        self.sections = sections
        self.lazy = {name: lazy for commands in sections.values() for name, lazy in commands.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        lazy = self.lazy.get(cmd_name)
        if lazy is None:
            return None
        module = importlib.import_module(lazy.module)
        return next(command for command in module.COMMANDS if command.name == cmd_name)

    def summaries(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:  # noqa: ARG002
        return {
            section: [(name, lazy.summary) for name, lazy in commands.items()]
            for section, commands in self.sections.items()
        }


def commands_below(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, and its whole name: ("spanledger budget set", ...)."""
    context = click.Context(group)
    for command_name in group.list_commands(context):
        command = group.get_command(context, command_name)
        if command is None:
            continue
        yield f"{name} {command_name}", command
        if isinstance(command, click.Group):
            yield from commands_below(command, f"{name} {command_name}")
