"""Applies the schema: numbered tables of `schema/`, then the views of `views/`, each an `.sql` file.

Every file is idempotent. What was applied is recorded in `schema_migrations` with the file's checksum;
a view whose text changed is replaced. The same files make the single-node, the replicated and the cluster form:

- `{db}`, `{on_cluster}`, `{engine}`, `{engine_args}`: where, and `Replicated` or not; `{global_args}` for tables that
  every node has whole.
- `{rollup:NAME:WINDOW}` in a view: the SELECT of a rollup over the calls of WINDOW.
- `{window}` in a view: all calls; the same file also makes `<view>_between(since=..., until=...)`.
- `{now}` in a view: the present; the same file also makes `<view>_at(as_of=...)`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from spanledger.runtime import settings
from spanledger_clickhouse.database import rollups
from spanledger_clickhouse.database.connection import DatabaseError, Target, connect, denied, reason

EVERYWHERE: Final = "'/clickhouse/tables/{uuid}/all', '{replica}'"
"""ZooKeeper path and replica of a table that has no shards: every node is a replica of it."""

SHARDED: Final = {"llm_calls": "cityHash64(trace_id)", "ledger_events": "cityHash64(process_id)"}
"""Table that a cluster shards -> by what. A function of the sorting key, so that FINAL per shard is FINAL of all."""

WINDOWED: Final = {
    "between": ("{window}", "c.start_time >= {since:DateTime('UTC')} AND c.start_time < {until:DateTime('UTC')}"),
    "at": ("{now}", "{as_of:DateTime('UTC')}"),
}
"""Suffix of a second, parameterized view -> the place that makes it, what stands there."""
PLAIN: Final = {"{window}": "1", "{now}": "now('UTC')"}

ABOUT: Final = re.compile(
    r"^(CREATE|ALTER) (?:OR REPLACE )?(?:TABLE|VIEW|DICTIONARY) (?:IF NOT EXISTS )?(?:`[^`]*`\.)(\w+)", re.MULTILINE
)
LEDGER: Final = (
    "CREATE TABLE IF NOT EXISTS {db}.schema_migrations{on_cluster} (name String, checksum String, "
    "applied_at DateTime64(3, 'UTC') DEFAULT now64(3)) ENGINE = {engine}ReplacingMergeTree({global_args_comma}applied_at) "
    "ORDER BY name"
)


@dataclass(frozen=True)
class Topology:
    """How many servers there are, as far as statements have to know."""

    cluster: str = ""
    """The name in remote_servers; '' where there is one node."""
    replicated: bool = False
    """Replicated engines: always on a cluster; alone for a database of the Replicated engine."""

    @property
    def places(self) -> dict[str, str]:
        """Placeholder -> what stands there."""
        return {
            "{on_cluster}": f" ON CLUSTER '{self.cluster}'" if self.cluster else "",
            "{engine}": "Replicated" if self.replicated else "",
            "{engine_args}": "",
            "{global_args}": EVERYWHERE if self.replicated else "",
            "{global_args_comma}": f"{EVERYWHERE}, " if self.replicated else "",
        }


def topology() -> Topology:
    """What SPANLEDGER_CLUSTER and SPANLEDGER_REPLICATED say.

    Raises:
        DatabaseError: the cluster's name is none.
    """
    cluster = settings.setting("cluster") or ""
    if not re.fullmatch(r"[\w.{}-]*", cluster):
        raise DatabaseError(f"SPANLEDGER_CLUSTER={cluster!r} is no name of a cluster")
    return Topology(cluster, bool(cluster) or settings.enabled("replicated"))


@dataclass(frozen=True)
class Migration:
    name: str
    """Path below the package, e.g. "schema/010_llm_calls.sql"; what else its file makes after a "#"."""
    statement: str

    @property
    def about(self) -> str:
        """The table or view that it makes or changes."""
        match = ABOUT.search(self.statement)
        return match[2] if match else ""

    @property
    def makes(self) -> str:
        """The table or view that it makes; "" where it changes one."""
        match = ABOUT.search(self.statement)
        return match[2] if match and match[1] == "CREATE" else ""

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.statement.encode()).hexdigest()[:16]


def migrations(database: str, servers: Topology | None = None) -> list[Migration]:
    """Every object of the schema as a statement for `database`, in the order of creation."""
    servers = servers or Topology()
    statements: list[Migration] = []
    for folder, renderer in (("schema", _tables), ("views", _views)):
        files = sorted(
            (resources.files("spanledger_clickhouse") / folder).iterdir(),
            key=lambda file: (
                (not file.name.startswith("llm_costs"), file.name) if folder == "views" else (True, file.name)
            ),
        )  # other views stand on llm_costs*
        for file in files:
            if file.name.endswith(".sql"):
                statements += renderer(f"{folder}/{file.name}", file.read_text(encoding="utf-8"), database, servers)
    return statements


def _tables(name: str, text: str, database: str, servers: Topology) -> list[Migration]:
    table = re.search(r"\{db\}\.(\w+)", text)
    shard = SHARDED.get(table[1]) if table and servers.cluster else None
    if table is None or shard is None:
        return [Migration(name, _rendered(text, database, servers))]
    local = text.replace(f"{{db}}.{table[1]}", f"{{db}}.{table[1]}_local")
    front = (
        f"CREATE TABLE IF NOT EXISTS {{db}}.{table[1]}{{on_cluster}} AS {{db}}.{table[1]}_local "
        f"ENGINE = Distributed('{servers.cluster}', '{database}', '{table[1]}_local', {shard})"
    )
    if "ALTER TABLE" in text:  # the front fills its own defaults: it changes as the shards do
        front = re.sub(r" CODEC\([^\n]*\)(?=,?\n)", "", text)
    return [
        Migration(name, _rendered(local, database, servers)),
        Migration(f"{name}#distributed", _rendered(front, database, servers)),
    ]


def _views(name: str, text: str, database: str, servers: Topology) -> list[Migration]:
    text = re.sub(r"\{rollup:(\w+):([^}]*)\}", lambda m: rollups.select(m[1]).replace("{window}", m[2]), text)
    text = re.sub(r"^(CREATE OR REPLACE VIEW \{db\}\.\w+) AS$", r"\1{on_cluster} AS", text, count=1, flags=re.MULTILINE)
    plain = text
    for place, expression in PLAIN.items():
        plain = plain.replace(place, expression)
    views = [Migration(name, _rendered(plain, database, servers))]
    for suffix, (place, parameter) in WINDOWED.items():
        if place in text:
            parameterized = re.sub(r"(VIEW \{db\}\.\w+)", rf"\1_{suffix}", text, count=1).replace(place, parameter)
            for other, expression in PLAIN.items():
                parameterized = parameterized.replace(other, expression)
            views.append(Migration(f"{name}#{suffix}", _rendered(parameterized, database, servers)))
    return views


def _rendered(text: str, database: str, servers: Topology) -> str:
    text = text.replace("'{db}.", f"'{database}.")  # within a string: the name of a dictionary
    for place, value in {"{db}": _identifier(database), **servers.places}.items():
        text = text.replace(place, value)
    if servers.replicated:
        text = text.replace(
            "non_replicated_deduplication_window =",
            "replicated_deduplication_window_seconds = 604800, replicated_deduplication_window =",
        )
    return text


def refreshable(database: str, servers: Topology | None = None) -> list[Migration]:
    """Views with which a server keeps the rollups by itself, where nothing of ours runs beside it: each replaces its
    rollup as a whole every five minutes, which suits ledgers of up to some 100 million calls."""
    views: list[Migration] = []
    for name in rollups.NAMES:
        query = rollups.select(name).replace("{window}", "c.start_time < toStartOfHour(now('UTC'))")
        statement = (
            f"CREATE MATERIALIZED VIEW IF NOT EXISTS {{db}}.{name}_refresh{{on_cluster}} REFRESH EVERY 5 MINUTE "
            f"TO {{db}}.{name} AS SELECT *, toStartOfHour(now('UTC')) AS closed_until FROM ({query})"
        )
        views.append(Migration(f"refreshable/{name}", _rendered(statement, database, servers or Topology())))
    return views


def otel_traces(database: str, servers: Topology | None = None) -> list[Migration]:
    """The table of the Collector's own exporter, and the views that make rows of the ledger of it."""
    files = sorted((resources.files("spanledger_clickhouse") / "otel_traces").iterdir(), key=lambda file: file.name)
    return [
        Migration(f"otel_traces/{file.name}", _rendered(file.read_text("utf-8"), database, servers or Topology()))
        for file in files
        if file.name.endswith(".sql")
    ]


def expires(client: Any, target: Target) -> bool:
    """Whether calls are deleted after a time."""
    response = client.query(
        "SELECT count() FROM system.tables WHERE database = {db:String} AND name LIKE 'llm_calls%' "
        "AND create_table_query LIKE '%TTL toDateTime(start_time)%'",
        parameters={"db": target.database},
    )
    return bool(response.result_rows[0][0])


def retain(client: Any, target: Target, days: int) -> Migration:
    """Delete calls that are older than `days` days, month by month; 0: keep them for ever. Rollups stay either way.

    Raises:
        DatabaseError: ClickHouse refused it.
    """
    servers = topology()
    table = "{db}.llm_calls_local{on_cluster}" if servers.cluster else "{db}.llm_calls"
    change = f"MODIFY TTL toDateTime(start_time) + INTERVAL {int(days)} DAY DELETE" if days else "REMOVE TTL"
    has_retention = expires(client, target)
    refreshable_count = client.query(
        "SELECT count() FROM system.tables WHERE database = {db:String} AND name = 'llm_costs_1h_refresh'",
        parameters={"db": target.database},
    ).result_rows[0][0]
    if days and refreshable_count:
        raise DatabaseError(f"the rollups of {target.shown} are refreshable views, which forget calls that are deleted")
    migration = Migration(f"llm_calls: {change}", _rendered(f"ALTER TABLE {table} {change}", target.database, servers))
    return migration if not days and not has_retention else apply(client, target, [migration])[0]


def apply(client: Any, target: Target, statements: Sequence[Migration]) -> list[Migration]:
    """Run statements that are not part of the schema's own sequence.

    Raises:
        DatabaseError: ClickHouse refused one.
    """
    from clickhouse_connect.driver.exceptions import Error

    for migration in statements:
        try:
            client.command(migration.statement)
        except Error as error:
            raise DatabaseError(f"{migration.name} in {target.shown} failed: {reason(error)}") from error
    return list(statements)


def _identifier(name: str) -> str:
    if not name or "`" in name or "\\" in name:
        raise DatabaseError(f"{name!r} is no name for a database")
    return f"`{name}`"


def applied(client: Any, target: Target, servers: Topology | None = None) -> dict[str, str]:
    """Name -> checksum of what the database has.

    Raises:
        DatabaseError: ClickHouse refused it.
    """
    from clickhouse_connect.driver.exceptions import Error

    servers = servers or Topology()
    statement = f"SELECT name, checksum FROM {_identifier(target.database)}.schema_migrations FINAL"
    try:
        try:
            result = client.query(statement)
        except Error:  # a new ledger, most likely: one that may only read finds its own here, and creates nothing
            client.command(_rendered("CREATE DATABASE IF NOT EXISTS {db}{on_cluster}", target.database, servers))
            client.command(_rendered(LEDGER, target.database, servers))
            result = client.query(statement)
    except Error as error:
        raise DatabaseError(f"asking {target.shown} for its schema failed: {reason(error)}") from error
    return {str(name): str(checksum) for name, checksum in result.result_rows}


def pending(client: Any, target: Target, servers: Topology | None = None, *, whole: bool = False) -> list[Migration]:
    """What `migrate` would apply; with `whole` also what was applied and is gone (somebody has dropped it).

    Raises:
        DatabaseError: a newer release has made this ledger's tables.
    """
    applied_checksums = applied(client, target, servers)
    schema = migrations(target.database, servers)
    unknown = sorted(name for name in applied_checksums.keys() - {m.name for m in schema} if name.startswith("schema/"))
    if unknown:
        raise DatabaseError(
            f"{target.shown} was made by a newer release of Spanledger (it has {unknown[0]}): upgrade this one with "
            "pip install --upgrade spanledger"
        )
    existing = _objects(client, target) if whole else None
    dropped = {m.makes for m in schema} - existing if existing is not None else set[str]()
    return [m for m in schema if applied_checksums.get(m.name) != m.checksum or m.about in dropped]


def _objects(client: Any, target: Target) -> set[str]:
    """Names of tables and views."""
    response = client.query(
        "SELECT name FROM system.tables WHERE database = {db:String}", parameters={"db": target.database}
    )
    return {"", *(name for (name,) in response.result_rows)}


def migrate(client: Any, target: Target, servers: Topology | None = None, *, whole: bool = False) -> list[Migration]:
    """Bring the schema up to date, with `whole` also what is gone of it; returns what was applied.

    Raises:
        DatabaseError: a statement failed (those before it stay, and a second run continues), or a newer release has
            made this ledger's tables.
    """
    from clickhouse_connect.driver.exceptions import Error

    servers = servers or topology()
    name = "schema_migrations"
    applied_migrations: list[Migration] = []
    try:
        for migration in pending(client, target, servers, whole=whole):
            name = migration.name
            client.command(migration.statement)
            client.insert(
                f"{_identifier(target.database)}.schema_migrations",
                [[migration.name, migration.checksum]],
                column_names=["name", "checksum"],
                column_type_names=["String", "String"],
            )
            applied_migrations.append(migration)
    except Error as error:
        raise DatabaseError(f"applying {name} to {target.shown} failed: {reason(error)}") from error
    return applied_migrations


def ready(target: Target) -> Any:
    """A connection whose schema is up to date; the caller closes it. A user who may only insert finds it as it is:
    whoever may, has migrated.

    Raises:
        DatabaseError: as `connect` and `migrate` do.
    """
    client = connect(target)
    try:
        migrate(client, target)
    except DatabaseError as error:
        if not denied(error):
            with contextlib.suppress(Exception):  # whatever closing fails at, the error is the other one
                client.close()
            raise
    return client
