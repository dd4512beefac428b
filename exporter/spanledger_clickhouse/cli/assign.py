"""`spanledger assign`: which team and project a service or a feature belongs to, for calls that do not say so themselves."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from spanledger.runtime.untrusted_json import Json, label, mapping
from spanledger_clickhouse.budgets.table import insert
from spanledger_clickhouse.cli.output import as_table, console, ledger, report_user_errors, show
from spanledger_clickhouse.database.connection import DatabaseError
from spanledger_clickhouse.database.ledger import Ledger

DIMENSIONS: Final = ("team", "project")
BY: Final = ("feature", "service")
COLUMNS: Final = ["dimension", "by_dimension", "value", "assigned", "is_deleted"]
ALL: Final = (
    "SELECT dimension, by_dimension, value, assigned FROM assignments FINAL ORDER BY dimension, by_dimension, value"
)
LIST: Final = f"SELECT dimension AS assigns, by_dimension AS by, value AS name, assigned AS `to` FROM ({ALL})"


class Assignment(NamedTuple):
    """What belongs to whom: the feature "summarize" to the team "docs"."""

    dimension: str
    by_dimension: str
    value: str
    assigned: str


@click.command()
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@as_table
@report_user_errors
def assign(file: Path | None, as_json: bool) -> None:
    """Assign services and features to teams and projects. It takes a TOML FILE; without one, it lists what is assigned.

    The FILE replaces all that was assigned before, for the past as well: assignments count when costs are read
    (`spanledger spend --by team`). What a call says itself goes first, then its feature, then its service. A cost centre is a
    team here.

    \b
    Example:
      [team.feature]
      summarize = "docs"
      [team.service]
      checkout = "payments"
      [project.service]
      checkout = "apollo"
    """
    with ledger() as database:
        if file is None:
            show(database.query(LIST), "Assigned", json_output=as_json)
            return
        assignments = read(file)
        removed = _replace(database, assignments)
        unmatched = _without_calls(database, assignments)
    if as_json:
        document = {"set": len(assignments), "removed": removed, "without_calls": unmatched}
        click.echo(json.dumps(document, ensure_ascii=False))
        return
    are_set = "1 assignment is set" if len(assignments) == 1 else f"{len(assignments)} assignments are set"
    console().print(f"{are_set}, {removed} removed" if removed else are_set, markup=False)
    if unmatched:
        console().print(f"No call so far has: {', '.join(unmatched)}. Is each spelt as on the calls?", markup=False)


def read(file: Path) -> list[Assignment]:
    """The assignments of a file.

    Raises:
        DatabaseError: it is not valid; the message says why.
    """
    try:
        document: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DatabaseError(f"{file} cannot be read: {error}") from error
    if unknown := document.keys() - set(DIMENSIONS):
        raise DatabaseError(
            f"{file}: [{min(unknown)}] is none of {', '.join(DIMENSIONS)} (a cost centre is a team: write [team.feature])"
        )
    assignments: list[Assignment] = []
    for dimension in DIMENSIONS:
        tables = _table(document, dimension, f"{file}: [{dimension}]")
        if unknown := tables.keys() - set(BY):
            first = min(unknown)
            raise DatabaseError(
                f"{file}: [{dimension}.{first}] is none of {', '.join(f'{dimension}.{by}' for by in BY)}: write one of these in "
                f'brackets, and below it {first} = "..."'
            )
        for by in BY:
            for value, assigned in _table(tables, by, f"{file}: [{dimension}.{by}]").items():
                name = (label(assigned) or "").strip()
                key = label(value) or ""
                if not key.strip():
                    raise DatabaseError(f'{file}: [{dimension}.{by}] "" is no {by}')
                if not name:
                    raise DatabaseError(
                        f"{file}: [{dimension}.{by}] {value} must be the name of a {dimension}, in quotes"
                    )
                assignments.append(Assignment(dimension, by, key, name))
    return assignments


def _table(document: Json, name: str, place: str) -> Json:
    if not isinstance(document.get(name, {}), dict):
        raise DatabaseError(f"{place} must be a table of names")
    return mapping(document, name)


def _without_calls(database: Ledger, assignments: list[Assignment]) -> list[str]:
    """The features and services of assignments that no call has."""
    unmatched: list[str] = []
    for by, column in zip(BY, ("feature", "service"), strict=True):
        values = {assignment.value for assignment in assignments if assignment.by_dimension == by}
        if values:
            query = f"SELECT DISTINCT toString({column}) FROM llm_calls WHERE {column} IN {{values: Array(String)}}"
            rows = database.query(query, {"values": sorted(values)}).rows
            unmatched += [f"{by} {value}" for value in sorted(values - {row[0] for row in rows})]
    return unmatched


def _replace(database: Ledger, assignments: list[Assignment]) -> int:
    """Set these, and delete all others; returns how many those were."""
    keys = {assignment[:3] for assignment in assignments}
    removed_rows = [[*row, 1] for row in database.query(ALL).rows if tuple(row[:3]) not in keys]
    rows: list[list[Any]] = [[*assignment, 0] for assignment in assignments]
    if removed_rows or rows:
        insert(database, "assignments", COLUMNS, [*removed_rows, *rows])
    return len(removed_rows)


COMMANDS: Final = (assign,)
