"""Embedded ledgers with their schema and without rows, copied from one that is migrated once per test process.

A migration takes about a second of CPU, a copy a twentieth. Tests of migrations make their ledgers themselves.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from spanledger_clickhouse.database.connection import Target

MIGRATE = """
import sys
from spanledger.pricing.price_table import prices
from spanledger_clickhouse.database import migrations
from spanledger_clickhouse.database.connection import Target, open_client
from spanledger_clickhouse.prices import price_table_sync
path, database, otel_traces = sys.argv[1:]
target = Target(f"chdb://{path}", database)
with open_client(target) as client:
    migrations.migrate(client, target)
    if otel_traces == "True":
        price_table_sync.sync(client, target, prices())
        migrations.apply(client, target, migrations.otel_traces(database))
"""


@functools.cache
def template(database: str, otel_traces: bool) -> Path:
    """Made by a process of its own: the embedded engine of this one may have another ledger open."""
    directory = tempfile.mkdtemp(prefix="spanledger-template-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    path = Path(directory) / "ledger"
    subprocess.run([sys.executable, "-c", MIGRATE, path, database, str(otel_traces)], check=True)
    return path


def empty_ledger(path: Path, database: str = "spanledger", *, otel_traces: bool = False) -> Target:
    """Make a ledger at `path`; `otel_traces` adds the current prices and the tables of `migrate --otel-traces`."""
    shutil.copytree(template(database, otel_traces), path, symlinks=True)
    return Target(f"chdb://{path}", database)
