"""Gives the results of batches and other jobs to whoever began them (`llm_jobs`), where another process saw the result.

A result is one row whoever asks for it and however often: its tenant and its time are those of the job.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, cast

from spanledger_clickhouse.database.connection import ACCESS_DENIED, DatabaseError, Target, reason
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.rows.rows import ATTRIBUTION_COLUMNS, COLUMNS, UNDATED, Row

COLUMN_NUMBERS: Final = {name: number for number, name in enumerate(COLUMNS)}
PROVIDER: Final = COLUMN_NUMBERS["provider"]
JOB_ID: Final = COLUMN_NUMBERS["job_id"]
TENANT_ID: Final = COLUMN_NUMBERS["tenant_id"]
START_TIME: Final = COLUMN_NUMBERS["start_time"]
UNREADABLE: Final = frozenset({60, 81, ACCESS_DENIED})
"""Codes of a table or database that is not there yet, and of a user that may only insert."""
MAX_IDS: Final = 500
"""Jobs in a query."""

JobKey = tuple[str, str]
"""(provider, job id)."""


class Job(NamedTuple):
    """Who began a job, and when."""

    tenant_id: str
    parent_id: str
    began_at: datetime
    attribution: dict[str, str]


def attributed(client: Any, target: Target, rows: Sequence[Row], tenant: str = "") -> list[Row]:
    """The rows, with those of jobs as whoever began the job.

    Args:
        client: an open connection; one that may not read `llm_jobs` leaves the rows as they are.
        target: the ledger.
        rows: in the order of `COLUMNS`.
        tenant: whose jobs count; "": anybody's.
    """
    wanted = {(str(row[PROVIDER]), str(row[JOB_ID])) for row in rows if row[JOB_ID]}
    if not wanted:
        return list(rows)
    jobs = _jobs(client, target, wanted, tenant)
    parents = {(key[0], job.parent_id) for key, job in jobs.items() if job.parent_id} - jobs.keys()
    jobs |= _jobs(client, target, parents, tenant) if parents else {}
    return [_of_job(row, jobs) for row in rows]


def _of_job(row: Row, jobs: dict[JobKey, Job]) -> Row:
    key = (str(row[PROVIDER]), str(row[JOB_ID]))
    job = jobs.get(key)
    if job is not None and job.parent_id:
        job = jobs.get((key[0], job.parent_id))
    if job is None:
        return row
    values = list(row)
    for column, empty in ATTRIBUTION_COLUMNS.items():
        values[COLUMN_NUMBERS[column]] = job.attribution.get(column) or empty
    line = job.attribution.get("code_line", "")
    values[COLUMN_NUMBERS["code_line"]] = int(line) if line.isdecimal() else 0
    values[TENANT_ID] = job.tenant_id
    if UNDATED in cast("Mapping[str, str]", row[COLUMN_NUMBERS["attributes"]]):
        values[START_TIME] = job.began_at.replace(tzinfo=UTC)
    return tuple(values)


def _jobs(client: Any, target: Target, keys: Iterable[JobKey], tenant: str) -> dict[JobKey, Job]:
    from clickhouse_connect.driver.exceptions import Error

    found: dict[JobKey, Job] = {}
    ids = sorted({job_id for _, job_id in keys})
    try:
        for start in range(0, len(ids), MAX_IDS):
            response = client.query(
                statement("ship/jobs", db=f"`{target.database}`"),
                parameters={"ids": ids[start : start + MAX_IDS], "tenant": tenant},
            )
            for provider, job_id, tenant_id, parent_id, began_at, attribution in response.result_rows:
                found[str(provider), str(job_id)] = Job(tenant_id, parent_id, began_at, dict(attribution))
    except Error as error:
        if getattr(error, "code", None) not in UNREADABLE:
            raise DatabaseError(f"looking up jobs in {target.masked_dsn} failed: {reason(error)}") from error
    return found
