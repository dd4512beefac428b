"""Output of commands: tables for people, JSON for programs, one-line errors."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from math import isfinite
from pathlib import Path
from typing import Any, Final, Literal, ParamSpec, TypeVar, cast

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from spanledger.runtime import settings
from spanledger_clickhouse.database.connection import DatabaseError, resolve_target
from spanledger_clickhouse.database.ledger import Ledger, Result
from spanledger_clickhouse.report.sections import visible
from spanledger_clickhouse.session import open_ledger, spools_of
from spanledger_clickhouse.ship import shipper

P = ParamSpec("P")
R = TypeVar("R")

PROGRESS_BAR_BYTES = 1 << 20
"""Bytes to ship below which a progress bar would only flicker."""

_json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON, money as decimal strings.")


def _set_wide(context: click.Context, parameter: click.Parameter, value: bool) -> None:  # noqa: ARG001 - click's signature
    if value:
        _wide.set(True)


_wide_option: Final = click.option(
    "--wide",
    is_flag=True,
    expose_value=False,
    callback=_set_wide,
    help="Show all columns, however wide the terminal is.",
)


def as_json(command: Callable[P, R]) -> Callable[P, R]:
    """The options of a command that shows a table: --json and --wide."""
    return _json_option(_wide_option(command))


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
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200, soft_wrap=not sys.stdout.isatty())


def show(result: Result, title: str, *, json_output: bool) -> None:
    """Print a result; a single value (SHOW CREATE TABLE) keeps its line breaks."""
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
    fitted, left_out = fitting(result, shown.width if sys.stdout.isatty() and not _wide.get() else None)
    shown.print(table(fitted, title))
    if left_out:
        note = f"{len(left_out)} column{'s' * (len(left_out) != 1)} left out: {', '.join(left_out)} (--wide)"
        shown.print(Text(note, style="dim"))


_wide: Final[ContextVar[bool]] = ContextVar("spanledger_wide", default=False)
"""Whether all columns are wanted, however wide the terminal is."""


def fitting(result: Result, width: int | None) -> tuple[Result, list[str]]:
    """The columns of a result that fit into a terminal, and the names of the others.

    Numbers and times are never cut or folded. Long names lose their middle; then columns are left out, the last ones first: the
    first says what a row is about.

    Args:
        result: at least one row.
        width: characters of a line; None: no limit.
    """
    cells = [[format_cell(name, value) for name, value in zip(result.columns, row, strict=True)] for row in result.rows]
    names = [visible(name) for name in result.columns]
    widths = [max(len(names[n]), *(len(row[n]) for row in cells)) for n in range(len(names))]
    if width is None or sum(widths) + GAP * (len(widths) - 1) <= width:
        return Result(tuple(names), result.types, [tuple(row) for row in cells]), []
    is_text = [not _is_numeric(kind) and "Date" not in kind for kind in result.types]
    least = [
        min(w, max(LEAST_TEXT, len(name))) if text else w for w, name, text in zip(widths, names, is_text, strict=True)
    ]
    kept = len(names)
    while kept > 1 and sum(least[:kept]) + GAP * (kept - 1) > width:
        kept -= 1
    spare = width - sum(least[:kept]) - GAP * (kept - 1)
    for n in range(kept):  # what is left goes to the columns of text, the first one first
        more = min(spare, widths[n] - least[n])
        least[n] += max(0, more)
        spare -= max(0, more)
    rows = [
        tuple(_shortened(cell, least[n]) if is_text[n] else cell for n, cell in enumerate(row[:kept])) for row in cells
    ]
    return Result(tuple(names[:kept]), result.types[:kept], rows), names[kept:]


GAP: Final = 2
"""Characters between two columns."""
LEAST_TEXT: Final = 16
"""Characters that a name keeps: its begin and its end."""


def _shortened(text: str, width: int) -> str:
    """A text of at most `width` characters, without its middle."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def table(result: Result, title: str) -> Table:
    """A result as a table for people."""
    rich_table = Table(
        title=Text(title), title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False
    )
    for column, kind in zip(result.columns, result.types, strict=True):
        justify: Literal["left", "right"] = "right" if _is_numeric(kind) else "left"
        rich_table.add_column(Text(visible(column)), justify=justify, overflow="fold")
    for row in result.rows:
        rich_table.add_row(
            *(Text(format_cell(column, value)) for column, value in zip(result.columns, row, strict=True))
        )
    return rich_table


def _is_numeric(kind: str) -> bool:
    return any(word in kind for word in ("Int", "Float", "Decimal")) and "Array" not in kind


def format_cell(column: str, value: Any) -> str:
    """A value for people: money to six digits, shares as per cent, - for unknown."""
    if value is None:
        return "-"
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return _format_number(column, value)
    if isinstance(value, datetime) and value.utcoffset() == timedelta(0):
        value = value.replace(tzinfo=None)  # the zone of every table; only another, which a query asked for, is named
    if isinstance(value, dict):
        parts = cast("dict[Any, Any]", value).items()
        return ", ".join(f"{visible(str(name))} {format_cell('', part)}" for name, part in parts)
    if isinstance(value, list | tuple):
        return ", ".join(str(part) if part is None else format_cell("", part) for part in cast("list[Any]", value))
    return visible(str(value))


def _format_number(column: str, value: float | Decimal) -> str:
    if not isfinite(value):
        return str(value)
    if column.endswith("_usd"):
        return usd(value)
    if column.endswith("_share") or column == "utilisation":
        return f"{float(value):.1%}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Decimal):
        return format(value.normalize() if value else Decimal(0), ",f")
    return f"{value:,.1f}" if abs(value) >= 100 or value.is_integer() else format(Decimal(f"{value:.4g}"), "f")


def usd(value: Any) -> str:
    return f"{Decimal(str(value)):,.6f}"


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


def lines(values: Sequence[str]) -> None:
    for value in values:
        console().print(value)


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
