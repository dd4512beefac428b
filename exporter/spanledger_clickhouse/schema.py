"""Applies the schema: numbered tables of `schema/`, then the views of `views/`, each an `.sql` file.

Every file is idempotent. What was applied is recorded in `schema_migrations` with the file's checksum;
a view whose text changed is replaced.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from spanledger_clickhouse.database import DatabaseError, Target, reason

SINGLE_NODE: Final = {"on_cluster": "", "engine": "", "engine_args": ""}

LEDGER: Final = (
    "CREATE TABLE IF NOT EXISTS {db}.schema_migrations (name String, checksum String, "
    "applied_at DateTime64(3, 'UTC') DEFAULT now64(3)) ENGINE = ReplacingMergeTree(applied_at) ORDER BY name"
)


@dataclass(frozen=True)
class Migration:
    name: str
    """Path below the package, e.g. "schema/010_llm_calls.sql"."""
    statement: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.statement.encode()).hexdigest()[:16]


def migrations(database: str) -> list[Migration]:
    """Every object of the schema as a statement for `database`, in the order of creation."""
    found: list[Migration] = []
    for folder in ("schema", "views"):
        files = sorted((resources.files("spanledger_clickhouse") / folder).iterdir(), key=lambda file: file.name)
        for file in files:
            if file.name.endswith(".sql"):
                statement = file.read_text(encoding="utf-8")
                for name, value in {**SINGLE_NODE, "db": _identifier(database)}.items():
                    statement = statement.replace("{" + name + "}", value)
                found.append(Migration(f"{folder}/{file.name}", statement))
    return found


def _identifier(name: str) -> str:
    if not name or "`" in name or "\\" in name:
        raise DatabaseError(f"{name!r} is no name for a database")
    return f"`{name}`"


def applied(client: Any, where: Target) -> dict[str, str]:
    """Name -> checksum of what the database has."""
    quoted = _identifier(where.database)
    client.command(f"CREATE DATABASE IF NOT EXISTS {quoted}")
    client.command(LEDGER.replace("{db}", quoted))
    result = client.query(f"SELECT name, checksum FROM {quoted}.schema_migrations FINAL")
    return {str(name): str(checksum) for name, checksum in result.result_rows}


def pending(client: Any, where: Target) -> list[Migration]:
    """What `migrate` would apply."""
    have = applied(client, where)
    return [m for m in migrations(where.database) if have.get(m.name) != m.checksum]


def migrate(client: Any, where: Target) -> list[Migration]:
    """Bring the schema up to date; returns what was applied.

    Raises:
        DatabaseError: a statement failed; those before it stay, and a second run continues.
    """
    from clickhouse_connect.driver.exceptions import Error

    name = "schema_migrations"
    done: list[Migration] = []
    try:
        for migration in pending(client, where):
            name = migration.name
            client.command(migration.statement)
            client.insert(
                f"{_identifier(where.database)}.schema_migrations",
                [[migration.name, migration.checksum]],
                column_names=["name", "checksum"],
                column_type_names=["String", "String"],
            )
            done.append(migration)
    except Error as error:
        raise DatabaseError(f"applying {name} to {where.shown} failed: {reason(error)}") from error
    return done
