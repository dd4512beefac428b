"""Output of commands: tables for people, JSON for programs, one-line errors."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from math import isfinite
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, cast

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from spanledger.runtime import settings
from spanledger_clickhouse.cli.tables import columns_of, fitting, table
from spanledger_clickhouse.database.connection import DatabaseError, resolve_target
from spanledger_clickhouse.database.ledger import Ledger, Result
from spanledger_clickhouse.printable import visible
from spanledger_clickhouse.session import open_ledger, spools_of
from spanledger_clickhouse.ship import shipper

P = ParamSpec("P")
R = TypeVar("R")

PROGRESS_BAR_BYTES = 1 << 20
"""Bytes to ship below which a progress bar would only flicker."""

as_json: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON, money as decimal strings.")


_COLUMNS: Final = f"{__name__}.columns"
"""Where a command's context keeps which columns are wanted: ALL, or their names."""
ALL: Final = ("*",)


def _choose(context: click.Context, parameter: click.Parameter, value: Any) -> None:  # noqa: ARG001 - click's signature
    if value:
        names = tuple(name.strip() for name in str(value).split(","))
        context.meta[_COLUMNS] = ALL if value is True else names


_wide_option: Final = click.option(
    "--wide", is_flag=True, expose_value=False, callback=_choose, help="Show all columns, however wide the terminal is."
)
_columns_option: Final = click.option(
    "--columns", metavar="NAME,...", expose_value=False, callback=_choose, help="Show these columns, in this order."
)


def as_table(command: Callable[P, R]) -> Callable[P, R]:
    """The options of a command that shows a table: --json, --wide and --columns."""
    return as_json(_wide_option(_columns_option(command)))


class Usd(click.ParamType[Decimal]):
    """An amount of money above zero."""

    name = "USD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        try:
            amount = Decimal(str(value))
        except InvalidOperation:
            amount = Decimal(0)
        if not amount.is_finite() or not Decimal("0.000001") <= amount < Decimal(10**12):
            self.fail(f"{value!r} is not a valid amount: give dollars above zero", param, ctx)
        return amount


class PerCent(click.FloatRange):
    """A number of per cent, 0 or more."""

    name = "PER CENT"

    def __init__(self) -> None:
        super().__init__(0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


def report_user_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Reports errors that a user can fix as one line on standard error, with exit status 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (DatabaseError, shipper.BusyError) as error:
            raise click.ClickException("\n".join(map(visible, str(error).split("\n")))) from error
        except PermissionError as error:
            raise click.ClickException(
                f"{error.filename}: {error.strerror}; run the command as the user of the application, or set "
                "SPANLEDGER_SPOOL_DIR and XDG_STATE_HOME to directories of your own"
            ) from error

    return run


@contextmanager
def ledger() -> Generator[Ledger]:
    """Opens the ledger; shows a progress bar while a large spool is loaded."""
    directories = spools_of(resolve_target())
    for note in notes_on_other_rows(directories):
        click.echo(visible(note), err=True)
    with (
        byte_progress("loading rows from the spool", sum(map(shipper.waiting_bytes, directories))) as advance,
        open_ledger(advance) as database,
    ):
        yield database


def notes_on_other_rows(directories: Sequence[Path]) -> list[str]:
    """What waits on this machine and is not in the ledger that is asked; `directories` are the spools that are taken in."""
    collector = settings.setting("otlp_endpoint")
    if collector is not None:
        shown = settings.destination_name(collector)
        waits = any(map(shipper.waiting_bytes, directories))
        return [f"note: rows wait for {shown}; ask the ClickHouse behind it (SPANLEDGER_DSN)"] if waits else []
    return [
        f"note: rows for {destination} are not in this ledger (spanledger doctor)"
        if destination
        else f"note: rows in {directory} are not in this ledger (spanledger doctor)"
        for directory, destination in shipper.other_spools(directories)
    ]


@contextmanager
def spinner(what: str) -> Generator[Callable[[str], None]]:
    """Shows a spinner on a terminal during work of unknown length; yields a callback that adds how far it is."""
    shown = Console(stderr=True)
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with shown.status(what) as status:
        yield lambda progress: status.update(f"{what}: {progress}")


@contextmanager
def step_progress(what: str = "rebuilding days") -> Generator[Callable[[int, int], None]]:
    """Shows a progress bar on a terminal; yields its callback, which takes (steps completed, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda steps, total: bar.update(task, completed=steps, total=total)


@contextmanager
def byte_progress(what: str, size: int) -> Generator[Callable[[int], None]]:
    """Shows a progress bar on a terminal for many bytes; yields its callback, which takes the bytes of each step."""
    if size < PROGRESS_BAR_BYTES or not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=size)
        yield lambda byte_count: bar.advance(task, byte_count)


def console() -> Console:
    """A console of the terminal's width; piped output is never truncated."""
    is_terminal = sys.stdout.isatty()
    return Console(highlight=False, width=None if is_terminal else PIPED, soft_wrap=not is_terminal)


PIPED: Final = 1 << 20
"""Characters of a line that goes to a file or to a program: as many as it has."""


def show(result: Result, title: str, *, json_output: bool, important: Sequence[str] = ()) -> None:
    """Print a result; a single value (SHOW CREATE TABLE) keeps its line breaks.

    Args:
        result: the rows.
        title: above them.
        json_output: as JSON, with all columns.
        important: columns that a narrow terminal shows rather than others, the most important first.

    Raises:
        UsageError: a column that is wanted does not exist.
    """
    names = _wanted_columns()
    if names not in (None, ALL):
        result = chosen(result, names or ())
    if json_output:
        rows = [dict(zip(result.columns, map(json_value, row), strict=True)) for row in result.rows]
        click.echo(readable_json(rows))
        return
    if len(result.rows) == 1 and len(result.columns) == 1 and isinstance(result.rows[0][0], str):
        console().print(Text("\n".join([visible(result.columns[0]), *map(visible, result.rows[0][0].split("\n"))])))
        return
    if not result.rows:
        console().print(Text(f"{title}\nno rows"))
        return
    shown = console()
    if title:
        shown.print(Text(title, style="bold"))
    width = shown.width if sys.stdout.isatty() and names is None else None
    columns, left_out = fitting(columns_of(result), width, important)
    if width is None:  # the terminal wraps what is wider than it, and cuts nothing
        shown = Console(highlight=False, width=PIPED)
    shown.print(table(columns), crop=width is not None, soft_wrap=width is None)
    left_out = [name for name in left_out if name]
    if left_out:
        note = f"{len(left_out)} column{'s' * (len(left_out) != 1)} left out: {', '.join(left_out)} (--wide)"
        shown.print(Text(note, style="dim"))


def _wanted_columns() -> tuple[str, ...] | None:
    context = click.get_current_context(silent=True)
    return context.meta.get(_COLUMNS) if context is not None else None


def chosen(result: Result, names: Sequence[str]) -> Result:
    """The wanted columns of a result, in their order. Raises UsageError if one does not exist."""
    for name in names:
        if name not in result.columns:
            raise click.UsageError(f"no column {name!r}; there are: {', '.join(filter(None, result.columns))}")
    places = [result.columns.index(name) for name in names]
    rows = [tuple(row[n] for n in places) for row in result.rows]
    return Result(tuple(names), tuple(result.types[n] for n in places), rows)


def readable_json(document: Any) -> str:
    """JSON whose text is readable, but for control characters: a terminal would run those above ASCII, too."""
    text = json.dumps(document, indent=2, ensure_ascii=False, default=str)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def json_value(value: Any) -> Any:
    """A value for JSON: exact decimals and times as strings."""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [json_value(part) for part in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {str(key): json_value(part) for key, part in cast("dict[Any, Any]", value).items()}
    return value


def write(text: str | bytes, out: Path | None) -> None:
    """Writes a document to a file, atomically, or to standard output."""
    data = text.encode() if isinstance(text, str) else text
    if out is None or str(out) == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    out = out.resolve()  # the file that a link names, not the link
    new = out.with_name(f".{out.name}.new")
    try:
        if out.exists() and not out.is_file():  # a pipe or a device stays what it is
            out.write_bytes(data)
            return
        new.write_bytes(data)
        os.replace(new, out)
    except OSError as error:
        raise click.ClickException(f"{out} cannot be written: {error.strerror}") from error
    click.echo(f"{len(data):,} bytes written to {out}", err=True)
