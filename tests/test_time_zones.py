"""Servers and processes with the embedded engine in time zones other than UTC.

The embedded engine uses the zone of the process, so the tests that depend on the time run again in other zones
(`make test-zones`). This file checks what one process can: column types, and each statement that uses a time.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from spanledger_clickhouse.database.connection import open_client, resolve_target

pytestmark = [pytest.mark.clock, pytest.mark.services]

NAIVE = re.compile(
    r"""\btoday\(\)|\byesterday\(\)
    | toStartOf\w+\(now(64)?\(\d?\)
    | toDate\(now(64)?\(\d?\)
    | :DateTime(64)?(\(\d\))?\}
    | =\s*now(64)?\(\d?\)
    | toDateTime\('[^']*'\)
    | toDateTime\(\$__\w+\)""",
    re.VERBOSE,
)
"""A time in SQL whose day, hour or text would depend on the time zone of the server."""


def sources() -> list[Path]:
    return [
        *(ROOT / "exporter").rglob("*.sql"),
        *(ROOT / "exporter").rglob("*.py"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "tools/grafana.py",
    ]


def test_no_statement_depends_on_the_time_zone_of_the_server():
    found = [(path.name, match[0]) for path in sources() for match in NAIVE.finditer(path.read_text())]
    assert found == []


def test_every_time_in_a_table_or_view_is_in_utc(embedded: Any):
    client, where = embedded
    found = client.query(
        "SELECT table, name, type FROM system.columns "
        "WHERE database = {db:String} AND type LIKE '%DateTime%' AND type NOT LIKE '%\\'UTC\\'%'",
        parameters={"db": where.database},
    ).result_rows
    assert found == []


MOMENT = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
"""In Europe: within the repeated hour."""


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Kiritimati"])
def test_a_server_in_any_time_zone_stores_and_returns_utc(zone: str, front_in: Any):
    where = resolve_target(front_in(zone))
    with open_client(where) as client:
        client.command("CREATE TABLE times (a DateTime('UTC'), b DateTime64(6, 'UTC'), c DateTime) ENGINE = Memory")
        client.insert("times", [[MOMENT] * 3], column_names=["a", "b", "c"])
        [row] = client.query("SELECT a, b, c, toStartOfHour(a), timezone() FROM times").result_rows
        assert row == (MOMENT, MOMENT, MOMENT, MOMENT.replace(minute=0), zone)
        assert {moment.tzinfo for moment in row[:4]} == {UTC}
        same = "SELECT count() FROM times WHERE a = {a:DateTime('UTC')} AND b = {b:DateTime64(6, 'UTC')}"
        assert client.query(same, parameters={"a": MOMENT, "b": MOMENT}).result_rows == [(1,)]
        [[tokyo]] = client.query("SELECT toTimeZone(b, 'Asia/Tokyo') FROM times").result_rows
        assert (tokyo, str(tokyo.tzinfo)) == (MOMENT, "Asia/Tokyo")
