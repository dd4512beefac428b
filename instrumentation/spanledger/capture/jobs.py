"""Remembers who began a job (a batch, a video, a run, a background response) until its result is seen in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from opentelemetry import baggage
from opentelemetry.context import Context

from spanledger.capture.dedup import PendingJobs
from spanledger.context.baggage import budget_dimensions, is_attribution_key
from spanledger.context.open_scopes import current
from spanledger.providers import Request
from spanledger.semconv import attributes as a


class PendingJob(NamedTuple):
    """A request that started an asynchronous job, whose result is seen later."""

    request: Request
    created: int | None
    """When, in Unix seconds."""
    on_end: Callable[[int | None, bool, str], object] | None
    """`Call.on_end` of the call that created it; the cost is reported when the result is read."""
    notes: Mapping[str, str]
    """Of that call."""
    context: Context | None = None
    """The baggage of whoever began it; None where it was only asked about."""


class Jobs:
    """The jobs that this process has begun or asked about, and the files in which their results are.

    `space`: within what an id is not given twice, the provider or one server of its format. Even there two tenants may have
    begun a job of the same id; two users of one tenant cannot have: then the job is nobody's.
    """

    def __init__(self) -> None:
        self._pending: PendingJobs[Mapping[str, PendingJob]] = PendingJobs()
        """Tenant -> its job, by (space, id)."""
        self._job_of_file: PendingJobs[str] = PendingJobs()

    def after_fork(self) -> None:
        """In a forked child: no lock of the parent's threads, and no reservation of the parent's."""
        self._job_of_file.after_fork(lambda name: name)
        self._pending.after_fork(lambda jobs: {t: job._replace(on_end=None) for t, job in jobs.items()})

    def find(self, space: str, name: str, tenant: str) -> tuple[str, PendingJob | None]:
        """The id under which a job was begun, and the job, if it is this tenant's, or only one has begun it.

        `name` is that id, or of a file of its results.
        """
        begun = self._job_of_file.get((space, name)) or name
        jobs = self._pending.get((space, begun)) or {}
        only = next(iter(jobs.values())) if len(jobs) == 1 else None
        return begun, jobs.get(tenant, only)

    def remember(self, space: str, name: str, job: PendingJob) -> PendingJob | None:
        """Remember a job; returns it, if it has to be announced. The first request knows most, a later answer perhaps the time."""
        key = space, name
        tenant = tenant_of(job.context)
        jobs = self._pending.put_if_absent(key, {tenant: job})
        if jobs is None:
            return job if job.context is not None else None
        if job.context is None:
            if job.created is not None:
                dated = {t: j if j.created else j._replace(created=job.created) for t, j in jobs.items()}
                self._pending.replace(key, dated)
            return None
        begun = {t: j for t, j in jobs.items() if j.context is not None}
        earlier = begun.get(tenant)
        if earlier is not None and earlier.context == job.context:
            return None
        ours = job if earlier is None else job._replace(context=only_tenant(job.context))
        self._pending.replace(key, {**begun, tenant: ours})
        return ours

    def remember_file(self, space: str, file: str, name: str) -> bool:
        """Remember in which file a job's results are; returns whether that is new. A file of two jobs is nobody's."""
        earlier = self._job_of_file.put_if_absent((space, file), name)
        if earlier not in (None, name):
            self._job_of_file.replace((space, file), "")
        return earlier is None

    def forget(self, space: str, name: str) -> PendingJob | None:
        """Its result was seen, or it was cancelled; returns the job, if one has begun it."""
        jobs = self._pending.pop((space, name)) or {}
        return next(iter(jobs.values())) if len(jobs) == 1 else None


def attribution_of(context: Context | None) -> Context:
    """What of a context says who acts in it, as baggage of a context of its own: spans are not kept alive."""
    kept = Context()
    for key, value in current(context).entries.items():
        if is_attribution_key(key):
            kept = baggage.set_baggage(key, value, kept)
    return kept


def tenant_of(context: Context | None) -> str:
    """The tenant who acts in a context of `attribution_of`."""
    if context is None:
        return ""
    return budget_dimensions(context).get(a.TENANT_ID, "")


def only_tenant(context: Context) -> Context:
    """A context of which no more is known than its tenant."""
    tenant = tenant_of(context)
    return baggage.set_baggage(a.TENANT_ID, tenant, Context()) if tenant else Context()
