"""Applies the schema: numbered tables of `schema/`, then the views of `views/`, each an `.sql` file.

Every file is idempotent. What was applied is recorded in `schema_migrations` with the file's checksum;
a view whose text changed is replaced. The same files make the single-node, the replicated and the cluster form:

- `{db}`, `{on_cluster}`, `{engine}`, `{engine_args}`: database, `Replicated` or not; `{global_args}` for tables that
  every node has in full.
- `{rollup:NAME:WINDOW}` in a view: the SELECT of a rollup over the calls of WINDOW.
- `{fragment:NAME}` in a view: expressions of `queries/NAME.sql`, which other statements use too.
- `{sum:GROUP}` in a view or a rollup: the sum of the columns of a cost group's meters.
- `{budget_scopes}` in a view: (dimension, value) of each dimension that budgets can select by.
- `{window}` in a view: all calls; the same file also makes `<view>_between(since=..., until=...)`.
- `{now}` in a view: the present; the same file also makes `<view>_at(as_of=...)`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from spanledger.runtime import settings
from spanledger.semconv.dimensions import BUDGET_DIMENSIONS, DIMENSIONS
from spanledger.semconv.usage import METERS, TOOLS, TOTALS, Meter
from spanledger_clickhouse.database import rollups
from spanledger_clickhouse.database.connection import DatabaseError, Target, connect, is_access_denied, reason
from spanledger_clickhouse.database.statements import statement, with_fragments, with_meter_sums
from spanledger_clickhouse.rows import rows

UNSHARDED_REPLICA: Final = "'/clickhouse/tables/{uuid}/all', '{replica}'"
"""ZooKeeper path and replica of a table without shards: every node is a replica."""

SHARDING_KEYS: Final = {"llm_calls": "cityHash64(trace_id)", "ledger_events": "cityHash64(process_id)"}
"""Sharded table -> its sharding key. A function of the sorting key, so that FINAL per shard is FINAL of all."""

COUNTS_IN_SQL: Final = re.compile(r"tokens\(\[([^]]*)\]\)|\[([^]]*)\] AS names_(?:in|out)")
"""Where the view of the Collector's table names attributes that are counts of tokens."""
OWN_TRACES: Final = "10_otel_traces.sql"
MATERIALIZED_VIEW: Final = re.compile(r"CREATE MATERIALIZED VIEW IF NOT EXISTS (\S+) TO \S+ AS\n")

PARAMETERIZED_VIEWS: Final = {
    "between": ("{window}", "c.start_time >= {since:DateTime('UTC')} AND c.start_time < {until:DateTime('UTC')}"),
    "at": ("{now}", "{as_of:DateTime('UTC')}"),
}
"""Suffix of a parameterized view -> (placeholder, its replacement)."""
VIEW_DEFAULTS: Final = {"{window}": "1", "{now}": "now('UTC')"}

DDL_OBJECT: Final = re.compile(
    r"^(CREATE|ALTER) (?:OR REPLACE )?(?:TABLE|VIEW|DICTIONARY) (?:IF NOT EXISTS )?(?:`[^`]*`\.)(\w+)", re.MULTILINE
)


@dataclass(frozen=True)
class Topology:
    """Cluster and replication settings that DDL statements depend on."""

    cluster: str = ""
    """The name in remote_servers; '' for a single node."""
    replicated: bool = False
    """Replicated engines: always on a cluster; alone for a database of the Replicated engine."""

    @property
    def placeholders(self) -> dict[str, str]:
        """Placeholder -> its replacement."""
        return {
            "{on_cluster}": f" ON CLUSTER '{self.cluster}'" if self.cluster else "",
            "{engine}": "Replicated" if self.replicated else "",
            "{engine_args}": "",
            "{global_args}": UNSHARDED_REPLICA if self.replicated else "",
            "{global_args_comma}": f"{UNSHARDED_REPLICA}, " if self.replicated else "",
        }


def topology() -> Topology:
    """Topology from SPANLEDGER_CLUSTER and SPANLEDGER_REPLICATED.

    Raises:
        DatabaseError: the cluster's name is not valid.
    """
    cluster = settings.setting("cluster") or ""
    if not re.fullmatch(r"[\w.{}-]*", cluster):
        raise DatabaseError(f"SPANLEDGER_CLUSTER={cluster!r} is not a valid cluster name")
    return Topology(cluster, bool(cluster) or settings.enabled("replicated"))


@dataclass(frozen=True)
class Migration:
    name: str
    """Path below the package, e.g. "schema/010_llm_calls.sql"; further objects of the same file have a "#" suffix."""
    statement: str

    @property
    def object_name(self) -> str:
        """The table or view that the statement creates or alters."""
        match = DDL_OBJECT.search(self.statement)
        return match[2] if match else ""

    @property
    def created_object(self) -> str:
        """The table or view that the statement creates; "" if it alters one."""
        match = DDL_OBJECT.search(self.statement)
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
    shard = SHARDING_KEYS.get(table[1]) if table and servers.cluster else None
    if table is None or shard is None:
        return [Migration(name, _render(text, database, servers))]
    local = text.replace(f"{{db}}.{table[1]}", f"{{db}}.{table[1]}_local")
    names = {"table": table[1], "cluster": servers.cluster, "database": database}
    front = statement("migrations/distributed_table", **names, sharding_key=shard)
    if "ALTER TABLE" in text:  # the front fills its own defaults: it changes as the shards do
        front = re.sub(r" CODEC\([^\n]*\)(?=,?\n)", "", text)
    return [
        Migration(name, _render(local, database, servers)),
        Migration(f"{name}#distributed", _render(front, database, servers)),
    ]


def _views(name: str, text: str, database: str, servers: Topology) -> list[Migration]:
    text = re.sub(r"\{rollup:(\w+):([^}]*)\}", lambda m: rollups.select(m[1]).replace("{window}", m[2]), text)
    text = with_meter_sums(with_fragments(text))
    scopes = [f"('{name}', ifNull(toString(c.{d.column}), ''))" for name, d in BUDGET_DIMENSIONS.items()]
    text = text.replace("{budget_scopes}", ", ".join(scopes))
    text = re.sub(r"^(CREATE OR REPLACE VIEW \{db\}\.\w+) AS$", r"\1{on_cluster} AS", text, count=1, flags=re.MULTILINE)
    plain = text
    for place, expression in VIEW_DEFAULTS.items():
        plain = plain.replace(place, expression)
    views = [Migration(name, _render(plain, database, servers))]
    for suffix, (place, parameter) in PARAMETERIZED_VIEWS.items():
        if place in text:
            parameterized = re.sub(r"(VIEW \{db\}\.\w+)", rf"\1_{suffix}", text, count=1).replace(place, parameter)
            for other, expression in VIEW_DEFAULTS.items():
                parameterized = parameterized.replace(other, expression)
            views.append(Migration(f"{name}#{suffix}", _render(parameterized, database, servers)))
    return views


def _render(text: str, database: str, servers: Topology) -> str:
    text = text.replace("'{db}.", f"'{database}.")  # within a string: the name of a dictionary
    for place, value in {"{db}": _identifier(database), **servers.placeholders}.items():
        text = text.replace(place, value)
    if servers.replicated:
        text = text.replace(
            "non_replicated_deduplication_window =",
            "replicated_deduplication_window_seconds = 604800, replicated_deduplication_window =",
        )
    return text


def refreshable(database: str, servers: Topology | None = None) -> list[Migration]:
    """Refreshable views with which the server maintains the rollups by itself, without a Spanledger process: each
    replaces its whole rollup every five minutes, which suits ledgers of up to about 100 million calls."""
    views: list[Migration] = []
    for name in rollups.ROLLUP_NAMES:
        query = rollups.select(name).replace("{window}", "c.start_time < toStartOfHour(now('UTC'))")
        view = statement("migrations/refreshable_rollup", rollup=name, query=query)
        views.append(Migration(f"refreshable/{name}", _render(view, database, servers or Topology())))
    return views


def source_of_traces(client: Any, table: str, database: str) -> str:
    """SQL that reads a table of the Collector's ClickHouse exporter: its name, or what makes maps of its JSON.

    Args:
        table: "database.table", or a table of `database`.

    Raises:
        DatabaseError: there is no such table, or it is none of the exporter's.
    """
    owner, _, name = table.rpartition(".")
    owner = owner or database
    found = client.query(
        statement("migrations/type_of_attributes"), parameters={"db": owner, "table": name}
    ).result_rows
    if not found:
        raise DatabaseError(f"{owner}.{name} has no column SpanAttributes: name the table of the Collector's exporter")
    quoted = f"{_identifier(owner)}.{_identifier(name)}"
    is_json = str(found[0][0]).startswith("JSON")
    return statement("migrations/otel_traces_of_json", source=quoted) if is_json else quoted


def table_of_traces(client: Any, database: str) -> str:
    """The table that the views read now, as "database.table"; "" if there are none, or it is the one of `database`."""
    found = client.query(statement("migrations/source_of_view"), parameters={"db": database}).result_rows
    return f"{found[0][0]}.{found[0][1]}" if found and tuple(found[0]) != (database, "otel_traces") else ""


def otel_traces(database: str, servers: Topology | None = None, source: str = "") -> list[Migration]:
    """The table of the Collector's ClickHouse exporter, and the views that turn it into ledger rows.

    `source`: SQL that reads another table of the exporter (`source_of_traces`); then none is made.

    In the views `{dimensions}` stands for the columns of all dimensions, `{meters}` for those of the meters that the
    SQL does not know, `{names_of_counts}` for the attributes that it reads as counts, `{unknown:GROUP}` for the sum of such tokens in a group, and `{meters_not_in_sql}` for the
    attributes of fees and such tokens: a call that has some is not priced in SQL.
    """
    migrations: list[Migration] = []
    for file in sorted(
        (resources.files("spanledger_clickhouse") / "otel_traces").iterdir(), key=lambda file: file.name
    ):
        if file.name.endswith(".sql") and not (source and file.name == OWN_TRACES):
            text = _with_tables(file.read_text("utf-8"))
            text = text.replace("FROM {db}.otel_traces", f"FROM {source}") if source else text
            migrations.append(Migration(f"otel_traces/{file.name}", _render(text, database, servers or Topology())))
            view = MATERIALIZED_VIEW.search(text)
            if view:  # of an earlier release, or from before a dimension
                change = f"ALTER TABLE {view[1]} MODIFY QUERY {text[view.end() :]}"
                name = f"otel_traces/{file.name}#query"
                migrations.append(Migration(name, _render(change, database, servers or Topology())))
    return migrations


KAFKA_WORD: Final = re.compile(r"[A-Za-z0-9._:,\[\]-]{1,1000}")
"""A list of brokers, a topic, a group: nothing that could end a string of SQL."""


def kafka(database: str, brokers: str, topic: str, group: str, servers: Topology | None = None) -> list[Migration]:
    """The table that reads a topic of spans in OTLP JSON, and the view that puts them into otel_traces.

    Raises:
        DatabaseError: a name is none that Kafka has.
    """
    for name, value in (("brokers", brokers), ("topic", topic), ("group", group)):
        if not KAFKA_WORD.fullmatch(value):
            raise DatabaseError(f"{value[:80]!r} are no Kafka {name}: use letters, digits and . _ - :")
    values = {"{brokers}": brokers, "{topic}": topic, "{group}": group}
    statements: list[Migration] = []
    folder = resources.files("spanledger_clickhouse") / "otel_traces/kafka"
    # They hold no rows, and the broker has the offsets: made again, they have the settings of now.
    for table in ("refused_of_otel_kafka", "otel_traces_of_kafka", "otel_kafka"):
        text = f"DROP TABLE IF EXISTS {{db}}.{table}{{on_cluster}}"
        statements.append(Migration(f"otel_traces/kafka/{table}#drop", _render(text, database, servers or Topology())))
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            text = file.read_text("utf-8")
            for place, value in values.items():
                text = text.replace(place, value)
            statements.append(
                Migration(f"otel_traces/kafka/{file.name}", _render(text, database, servers or Topology()))
            )
    return statements


def _with_tables(text: str) -> str:
    """Replaces the placeholders of dimensions and meters."""
    dimensions = [f"maybe([{_names(d.attribute, *d.aliases)}]) AS {d.column}" for d in rows.NULLABLE_DIMENSIONS]
    dimensions += [
        f"ifNull(maybe([{_names(d.attribute, *d.aliases)}]), '') AS {d.column}" for d in DIMENSIONS.values() if d.is_key
    ]
    others = [meter for meter in METERS.values() if not meter.counts_tokens]
    unknown = [meter for meter in METERS.values() if meter.counts_tokens and meter.attribute not in text]
    not_in_sql = [*unknown, *(meter for meter in others if meter.group == TOOLS)]
    placeholders = {
        "dimensions": ",\n    ".join(dimensions),
        "meters": ",\n    ".join(
            f"counted({_names(meter.attribute)}) AS {meter.column}" for meter in (*others, *unknown)
        ),
        "names_of_counts": _names(
            *sorted(set(re.findall(r"'([\w.]+)'", " ".join(map("".join, COUNTS_IN_SQL.findall(text))))))
        ),
        "meters_not_in_sql": _names(*(meter.attribute for meter in not_in_sql)),
        **{f"unknown:{group}": _sum_of(meter for meter in unknown if meter.group == group) for group in TOTALS},
    }
    for place, sql in placeholders.items():
        text = text.replace(f"{{{place}}}", sql)
    return text


def _sum_of(meters: Iterable[Meter]) -> str:
    return " + ".join(f"counted({_names(meter.attribute)})" for meter in meters) or "0"


def _names(*names: str) -> str:
    return ", ".join(f"'{name}'" for name in names)


def has_ttl(client: Any, target: Target) -> bool:
    """Whether calls have a TTL."""
    response = client.query(
        statement("migrations/tables_with_retention"),
        parameters={"db": target.database},
    )
    return bool(response.result_rows[0][0])


def set_retention(client: Any, target: Target, days: int) -> Migration:
    """Set the retention of calls to `days` days, deleted month by month; 0 keeps them forever. Rollups are kept.

    Raises:
        DatabaseError: ClickHouse refused it.
    """
    servers = topology()
    table = "{db}.llm_calls_local{on_cluster}" if servers.cluster else "{db}.llm_calls"
    change = f"MODIFY TTL toDateTime(start_time) + INTERVAL {int(days)} DAY DELETE" if days else "REMOVE TTL"
    has_retention = has_ttl(client, target)
    refreshable_count = client.query(
        "SELECT count() FROM system.tables WHERE database = {db:String} AND name = 'llm_costs_1h_refresh'",
        parameters={"db": target.database},
    ).result_rows[0][0]
    if days and refreshable_count:
        raise DatabaseError(f"the rollups of {target.masked_dsn} are refreshable views, which lose deleted calls")
    migration = Migration(f"llm_calls: {change}", _render(f"ALTER TABLE {table} {change}", target.database, servers))
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
            raise DatabaseError(f"{migration.name} in {target.masked_dsn} failed: {reason(error)}") from error
    return list(statements)


def _identifier(name: str) -> str:
    if not name or "`" in name or "\\" in name:
        raise DatabaseError(f"{name!r} is not a valid database name")
    return f"`{name}`"


def applied(client: Any, target: Target, servers: Topology | None = None) -> dict[str, str]:
    """Name -> checksum of the applied migrations.

    Raises:
        DatabaseError: ClickHouse refused it.
    """
    from clickhouse_connect.driver.exceptions import Error

    servers = servers or Topology()
    query = f"SELECT name, checksum FROM {_identifier(target.database)}.schema_migrations FINAL"
    try:
        try:
            result = client.query(query)
        except Error:  # most likely a new ledger; with a read-only user the query succeeds and nothing is created
            client.command(_render("CREATE DATABASE IF NOT EXISTS {db}{on_cluster}", target.database, servers))
            client.command(_render(statement("migrations/schema_migrations"), target.database, servers))
            result = client.query(query)
    except Error as error:
        raise DatabaseError(f"querying {target.masked_dsn} for its schema failed: {reason(error)}") from error
    return {str(name): str(checksum) for name, checksum in result.result_rows}


def pending(client: Any, target: Target, servers: Topology | None = None, *, whole: bool = False) -> list[Migration]:
    """Migrations that `migrate` would apply; with `whole` also applied ones whose object was dropped.

    Raises:
        DatabaseError: a newer release has migrated this ledger.
    """
    applied_checksums = applied(client, target, servers)
    schema = migrations(target.database, servers)
    unknown = sorted(name for name in applied_checksums.keys() - {m.name for m in schema} if name.startswith("schema/"))
    if unknown:
        raise DatabaseError(
            f"{target.masked_dsn} was migrated by a newer release of Spanledger (it has {unknown[0]}): upgrade this one with "
            "pip install --upgrade spanledger"
        )
    existing = _existing_objects(client, target) if whole else None
    dropped = {m.created_object for m in schema} - existing if existing is not None else set[str]()
    return [m for m in schema if applied_checksums.get(m.name) != m.checksum or m.object_name in dropped]


def _existing_objects(client: Any, target: Target) -> set[str]:
    """Names of tables and views."""
    response = client.query(
        "SELECT name FROM system.tables WHERE database = {db:String}", parameters={"db": target.database}
    )
    return {"", *(name for (name,) in response.result_rows)}


def migrate(client: Any, target: Target, servers: Topology | None = None, *, whole: bool = False) -> list[Migration]:
    """Apply pending migrations, with `whole` also those of dropped objects; returns those applied.

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
        raise DatabaseError(f"applying {name} to {target.masked_dsn} failed: {reason(error)}") from error
    return applied_migrations


def connect_and_migrate(target: Target) -> Any:
    """Connect and migrate; the caller closes the client. A user with INSERT rights only takes the schema as it is:
    a privileged user has migrated it.

    Raises:
        DatabaseError: as `connect` and `migrate` do.
    """
    client = connect(target)
    try:
        migrate(client, target)
    except DatabaseError as error:
        if not is_access_denied(error):
            with contextlib.suppress(Exception):  # report the original error, not one from closing
                client.close()
            raise
    return client
