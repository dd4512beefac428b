"""Gives the results of batches and other jobs to whoever began them (`llm_jobs`), where another process saw the result.

A result is one row whoever asks for it and however often: its tenant and its time are those of the job. Where two tenants
have begun a job of the same id, it is that of the tenant who asks, or nobody's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, cast

from spanledger.semconv import attributes as a
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

JobKey = tuple[str, str, str]
"""(provider, job id, server; see `server_of_ids`)."""
JobsByKey = Mapping[JobKey, Sequence["Job"]]


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
    job_ids = {str(row[JOB_ID]) for row in rows if row[JOB_ID]}
    if not job_ids:
        return list(rows)
    jobs = _jobs(client, target, job_ids, tenant)
    parents = {job.parent_id for same in jobs.values() for job in same if job.parent_id} - job_ids
    jobs = {**jobs, **_jobs(client, target, parents, tenant)} if parents else jobs
    return [_of_job(row, jobs) for row in rows]


def _job(jobs: JobsByKey, key: JobKey, tenant: str) -> Job | None:
    """The job of a tenant, else the only one of that id."""
    same = jobs.get(key, ())
    own = [job for job in same if job.tenant_id == tenant]
    return own[0] if own else same[0] if len(same) == 1 else None


def _of_job(row: Row, jobs: JobsByKey) -> Row:
    attributes = cast("Mapping[str, str]", row[COLUMN_NUMBERS["attributes"]])
    provider, server, tenant = str(row[PROVIDER]), attributes.get(a.JOB_SERVER, ""), str(row[TENANT_ID])
    job = _job(jobs, (provider, str(row[JOB_ID]), server), tenant)
    if job is not None and job.parent_id:
        job = _job(jobs, (provider, job.parent_id, server), tenant)
    if job is None:
        return row
    values = list(row)
    for column, empty in ATTRIBUTION_COLUMNS.items():
        values[COLUMN_NUMBERS[column]] = job.attribution.get(column) or empty
    line = job.attribution.get("code_line", "")
    values[COLUMN_NUMBERS["code_line"]] = int(line) if line.isdecimal() else 0
    values[TENANT_ID] = job.tenant_id
    if UNDATED in attributes:
        values[START_TIME] = job.began_at.replace(tzinfo=UTC)
    return tuple(values)


def _jobs(client: Any, target: Target, job_ids: Iterable[str], tenant: str) -> JobsByKey:
    from clickhouse_connect.driver.exceptions import Error

    jobs_by_key: defaultdict[JobKey, list[Job]] = defaultdict(list)
    ids = sorted(job_ids)
    try:
        for start in range(0, len(ids), MAX_IDS):
            response = client.query(
                statement("ship/jobs", db=f"`{target.database}`"),
                parameters={"ids": ids[start : start + MAX_IDS], "tenant": tenant},
            )
            for provider, job_id, server, tenant_id, parent_id, began_at, attribution in response.result_rows:
                jobs_by_key[str(provider), str(job_id), str(server)].append(
                    Job(tenant_id, parent_id, began_at, dict(attribution))
                )
    except Error as error:
        if getattr(error, "code", None) not in UNREADABLE:
            raise DatabaseError(f"looking up jobs in {target.masked_dsn} failed: {reason(error)}") from error
    return jobs_by_key
