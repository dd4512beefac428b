"""Remembers who began a job (a batch, a video, a run, a background response) until its result is seen in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from opentelemetry import baggage
from opentelemetry.context import Context

from spanledger.capture.dedup import PendingJobs
from spanledger.context.baggage import is_attribution_key
from spanledger.providers import Request


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
    """The jobs that this process has begun or asked about, and the files in which their results are."""

    def __init__(self) -> None:
        self._pending: PendingJobs[PendingJob] = PendingJobs()
        self._job_of_file: PendingJobs[str] = PendingJobs()

    def after_fork(self) -> None:
        """In a forked child: no lock of the parent's threads, and no reservation of the parent's."""
        self._job_of_file.after_fork(lambda name: name)
        self._pending.after_fork(lambda job: job._replace(on_end=None))

    def find(self, space: str, name: str) -> tuple[str, PendingJob | None]:
        """The id under which a job was begun, and the job; `name` is that id, or of a file of its results.

        `space`: within what an id is not given twice, the provider or one server of its format.
        """
        begun = self._job_of_file.get((space, name)) or name
        return begun, self._pending.get((space, begun))

    def remember(self, space: str, name: str, job: PendingJob) -> PendingJob | None:
        """Remember a job; returns it, if it has to be announced. The first request knows most, a later answer perhaps the time.

        A job of that id which somebody else has begun before is nobody's: the server gives ids twice.
        """
        known = self._pending.put_if_absent((space, name), job)
        if known is None:
            return job if job.context is not None else None
        if known.context is not None and job.context is not None and known.context != job.context:
            disputed = job._replace(context=Context())
            self._pending.replace((space, name), disputed)
            return disputed
        if known.created is None and job.created is not None:
            self._pending.replace((space, name), known._replace(created=job.created))
        return None

    def remember_file(self, space: str, file: str, name: str) -> bool:
        """Remember in which file a job's results are; returns whether that is new. A file of two jobs is nobody's."""
        known = self._job_of_file.put_if_absent((space, file), name)
        if known not in (None, name):
            self._job_of_file.replace((space, file), "")
        return known is None

    def forget(self, space: str, name: str) -> PendingJob | None:
        """Its result was seen, or it was cancelled; returns the job."""
        return self._pending.pop((space, name))


def attribution_of(context: Context | None) -> Context:
    """What of a context says who acts in it, as baggage of a context of its own: spans are not kept alive."""
    kept = Context()
    for key, value in baggage.get_all(context).items():
        if is_attribution_key(key):
            kept = baggage.set_baggage(key, value, kept)
    return kept
