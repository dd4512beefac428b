"""Groups of commands: imported when they are asked for, and listed by what they are for, each with its whole summary."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Final, NamedTuple

import click

UNCUT: Final = 10_000
"""A limit above every summary's length: click would end it with dots."""


class Lazy(NamedTuple):
    """A command that is imported when it is run, or when its own help is shown."""

    module: str
    """Which has it in COMMANDS."""
    summary: str
    """The first sentence of its help."""


class Commands(MutableMapping[str, click.Command]):
    """Name -> command, imported at its first use."""

    def __init__(self, lazy: Mapping[str, Lazy]) -> None:
        self._lazy = lazy
        self._commands: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._commands:
            module = importlib.import_module(self._lazy[name].module)
            self._commands |= {command.name: command for command in module.COMMANDS}
        return self._commands[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._commands[name] = command

    def __delitem__(self, name: str) -> None:
        del self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._lazy, *self._commands)))

    def __len__(self) -> int:
        return len(set(self))


class Group(click.Group):
    """A group whose help says each command's summary in whole."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, rows in self.summaries(ctx).items():
            with formatter.section(section):
                formatter.write_dl(rows)

    def summaries(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
        """Section -> (command, summary)."""
        names = self.list_commands(ctx)
        return {"Commands": [(name, self.commands[name].get_short_help_str(UNCUT)) for name in names]}


class LazyGroup(Group):
    """A group of commands that are not imported yet.

    Args:
        sections: what commands are for -> their names -> where they are.
    """

    def __init__(self, *, sections: Mapping[str, Mapping[str, Lazy]], **more: Any) -> None:
        lazy = {name: each for commands in sections.values() for name, each in commands.items()}
        super().__init__(commands=Commands(lazy), **more)
        self.sections = sections

    def summaries(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:  # noqa: ARG002 - without importing one
        return {
            section: [(name, lazy.summary) for name, lazy in commands.items()]
            for section, commands in self.sections.items()
        }


def commands_below(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, and its whole name: ("spanledger budget set", ...)."""
    for command_name in sorted(group.commands):
        command = group.commands[command_name]
        yield f"{name} {command_name}", command
        if isinstance(command, click.Group):
            yield from commands_below(command, f"{name} {command_name}")
