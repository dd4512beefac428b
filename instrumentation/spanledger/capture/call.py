"""Lifecycle of one call: a CLIENT span from the SDK request to the last byte of the response.

A `Call` belongs to one billed HTTP response. The hooks report what happens (an attempt failed, an
event arrived, the body ended); it knows no SDK, no sync and no async. Attribution and price are
added by `LedgerProcessor`, which sees the span start and end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, cast

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation import _SPAN_KEY

from spanledger.capture.chunk_times import ChunkTimes
from spanledger.capture.dedup import GrowingRecords, PendingJobs, SeenResponses, Sessions
from spanledger.capture.jobs import Jobs, PendingJob, attribution_of, tenant_of
from spanledger.capture.stream_limit import StreamLimit
from spanledger.capture.unsent import was_never_sent
from spanledger.context.call_site import Site, call_site, pinned
from spanledger.context.llm_call import CALL_KEY, Outbound
from spanledger.pricing import quote
from spanledger.pricing.span_costs import billed_call
from spanledger.providers import UNKNOWN_OPERATION, Provider, Request, Response, is_result
from spanledger.runtime import notices
from spanledger.runtime.guard import quietly
from spanledger.runtime.span_attributes import keep_whole, set_attributes_fast, set_whole, stash_usage, whole_attribute
from spanledger.runtime.untrusted_json import Json, mapping
from spanledger.semconv import attributes as a
from spanledger.semconv import result_lines
from spanledger.semconv.evidence import GATEWAY, USAGE_ESTIMATED, USAGE_UNREAD
from spanledger.semconv.provider_hosts import is_listed, server_of_id
from spanledger.semconv.usage import Usage, to_attributes

EMPTY_RESPONSE: Final = Response()
REFUSED: Final = frozenset(
    {"content_filter", "refusal", "SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "RECITATION", "SPII"}
)
"""Finish reasons of answers that hold nothing."""
SESSION_SECONDS: Final = {"openai": 20 * 60, "azure.ai.openai": 60 * 60}
"""How long a container that code runs in is paid for at once (developers.openai.com/api/docs/pricing; Azure's page)."""
container_sessions: Final = Sessions()
"""The containers that are paid for now, as far as this process has seen."""

seen_responses: Final = SeenResponses()
"""The responses that this process has recorded, by provider and id, and the SDK objects parsed from them."""


growing_records: Final = GrowingRecords[tuple[int, int]]()
"""Milliseconds and searches of the sessions of hosted agents, as far as this process has seen."""

session_models: Final = PendingJobs[str]()
"""(space, session) -> the model that serves it."""

_jobs: Final = Jobs()
"""The jobs whose results this process may see."""


spans_are_private = False
"""Whether nobody but the ledger sees our spans, so that none of the application's may have one as its parent."""


def after_fork() -> None:
    """In a forked child: nothing is held by a thread that is not there."""
    seen_responses.after_fork()
    container_sessions.after_fork()
    growing_records.after_fork()
    session_models.after_fork(str)
    _jobs.after_fork()


def _is_uncounted(usage: Usage, response: Response) -> bool:
    """Whether all counts are 0 although something was answered: a server that does not count. What was refused costs nothing."""
    return not any(usage[:-1]) and not (response.finish_reasons and REFUSED.issuperset(response.finish_reasons))


def _doubts(response: Response, *, is_gateways: bool = False, was_cut: bool = False) -> str | None:
    """Flags of what an answer leaves open, as an attribute."""
    flags = (*response.doubts, USAGE_UNREAD) if response.unread else response.doubts
    flags = (*flags, GATEWAY) if is_gateways else flags
    flags = (*flags, USAGE_ESTIMATED) if was_cut else flags
    return ",".join(flags) if flags else None


class Sending:
    """Our span is current while a client sends; never across a yield. What runs later in that context is the application's."""

    __slots__ = ("_call", "_context")

    def __init__(self, call: Call) -> None:
        self._call = call

    def __enter__(self) -> None:
        self._context = otel_context.attach(self._call.current())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.end_send()
        otel_context.detach(self._context)
        if error is not None and not self._call.answered:
            self._call.fail(error, self.status(error))

    def status(self, error: BaseException) -> int | None:  # noqa: ARG002 - an SDK's errors may state it
        """Of the last HTTP answer, where the error states one."""
        return None


class Call:
    """One billed response in progress. It ends once, whoever says so first, and in whichever thread."""

    __slots__ = (
        "_attempt_began",
        "_attempts",
        "_began",
        "_body",
        "_chunk_times",
        "_counted_picousd",
        "_end_notified",
        "_finished",
        "_job_created",
        "_lines_picousd",
        "_notes",
        "_outbound",
        "_provider",
        "_server",
        "_site",
        "_span",
        "_stated",
        "_tracer",
        "answer_id",
        "answered",
        "asks_usage",
        "context",
        "gateway_cost",
        "hides_usage",
        "is_gateways",
        "is_local",
        "is_stored",
        "job_id",
        "limit",
        "on_end",
        "project",
        "provider_name",
        "records_unread",
        "request",
        "unasked_host",
    )

    def __init__(
        self,
        tracer: Tracer,
        provider: Provider,
        request: Request,
        provider_name: str,
        server: tuple[str, int | None],
        context: Context | None = None,
        *,
        job_id: str | None = None,
        ran_ms: int = 0,
    ) -> None:
        """Begin. An endpoint of unknown kind gets its span only when its answer turns out to carry usage."""
        self._tracer = tracer
        self._provider = provider
        self.provider_name = provider_name
        self._server = server
        self.context = context
        """The caller's; None: the current one."""
        self._body: Json = {}
        self._stated: Json = {}
        self._attempts: list[tuple[str, int, str]] = []
        self._chunk_times: ChunkTimes | None = None
        self._finished = False
        self._end_notified = False
        self._notes: Mapping[str, str] = {}
        self.request = request
        self.answered = False
        """Whether a response has been matched to this call."""
        self.job_id = job_id
        """The job whose result this is, by the id under which it was begun."""
        self._job_created: int | None = None
        self._lines_picousd = 0
        self._counted_picousd = 0
        self._site: Site = {}
        self.answer_id: str | None = None
        """The provider's id of the request, which names an answer that has no id of its own."""
        self.is_local = False
        """Whether the response came without a request over the network, as that of a cache does."""
        self.is_stored = False
        """Whether the answer is known to come from a cache: nothing was sold."""
        self.records_unread = False
        """Whether an answer of unknown kind is a row, although it states no usage."""
        self.gateway_cost: str | None = None
        """What a gateway says in a header that the answer costs, in USD."""
        self.is_gateways = False
        """Whether a gateway has answered, which serves no models itself."""
        self.project: str | None = None
        """The provider project that is billed, where provider and SDK report it."""
        self.on_end: Callable[[int | None, bool, str], object] | None = None
        """Called once the call is over, with (picodollars or None, whether anything may have been sold, a name if other processes
        may see the same)."""
        self.limit: StreamLimit | None = None
        """Of a stream that may be closed by a budget."""
        self.asks_usage = True
        """Whether usage may be asked for, where the caller does not."""
        self.hides_usage = False
        """Whether the stream has a usage event that we asked for and the caller did not."""
        self.unasked_host: str | None = None
        """The host of a stream for which no usage was asked, because it is not known to understand that."""
        self._began = time.time_ns() - ran_ms * 10**6
        self._attempt_began = self._began
        self._span = None if request.deferred else self._start()

    def _start(self) -> Span:
        """The span, with what a sampler may want to know; the rest is put on it at the end, at once."""
        request = self.request
        attributes = {a.OPERATION: request.operation, a.PROVIDER: self.provider_name}
        name = request.operation
        if self.job_id is not None:
            attributes[a.BEGUN_JOB_ID] = self.job_id
        if request.model is not None:
            attributes[a.REQUEST_MODEL] = request.model
            name = f"{name} {request.model}"
        span = self._tracer.start_span(name, self.context, SpanKind.CLIENT, attributes, start_time=self._began)
        keep_whole(span, attributes)
        return span

    def sibling(self, request: Request | None = None, ran_ms: int = 0) -> Call:
        """A separate call for one more billed response to the same request (a middleware's second hop).

        `ran_ms`: how long it has run, in milliseconds, where that is not the time of the request.
        """
        server = self._server
        call = Call(
            self._tracer,
            self._provider,
            request or self.request,
            self.provider_name,
            server,
            self.context,
            job_id=self.job_id,
            ran_ms=ran_ms,
        )
        call.project = self.project
        call.on_end = self.on_end
        call._notes = self._notes
        return call

    @property
    def is_billable(self) -> bool:
        """Whether the request itself is billed; a poll for an earlier response is not."""
        return self._span is not None

    def note(self, name: str, value: str) -> None:
        """A further attribute of the span."""
        self._notes = {**self._notes, name: value}

    def downgrade(self, model: str, reason: str) -> None:
        """Record that the request is sent to another model than the caller named."""
        self.note(a.REQUESTED_MODEL, self.request.model or "")
        self.note(a.DOWNGRADE_REASON, reason)
        self.request = self.request._replace(model=model)
        if self._span is not None:
            self._span.update_name(f"{self.request.operation} {model}")
            self._span.set_attribute(a.REQUEST_MODEL, model)

    def current(self) -> Context:
        """The context to send the request in: our span is the parent of what the HTTP client records."""
        self._outbound = Outbound()
        entries: dict[str, object] = {**(self.context or otel_context.get_current()), CALL_KEY: self._outbound}
        if self._span is not None and not spans_are_private:
            entries[_SPAN_KEY] = self._span  # one copy of the context instead of set_span_in_context's two
        return Context(entries)

    def claim(self, client: object, path: str) -> None:
        """Which HTTP client sends the request, after `current`: what another one sends meanwhile is no part of it."""
        sent = self._outbound
        sent.client, sent.host, sent.path = client, self._server[0], path

    def end_send(self) -> None:
        """The SDK has returned from sending the request: what still runs in its context is the application's."""
        self._outbound.open = False

    def start_attempt(self) -> None:
        """An HTTP attempt is being sent."""
        self._attempt_began = time.time_ns()

    def record_retry(self, status: int | None, error: BaseException | None = None) -> None:
        """An attempt failed and another follows; `status` is None where no answer came."""
        self._attempts.append(self._failed_attempt(status, error))

    def _failed_attempt(self, status: int | None, error: BaseException | None) -> tuple[str, int, str]:
        """Whether it was billed is unknown where it may have been served, and no answer came."""
        billed = "no" if status or was_never_sent(error) else "unknown"
        return self._attempt_facts(str(status) if status else "no_answer", billed)

    def _attempt_facts(self, status: str, billed: str) -> tuple[str, int, str]:
        return status, (time.time_ns() - self._attempt_began) // 1000, billed

    def note_first_chunk(self) -> None:
        """The first bytes of a stream have arrived."""
        if self._chunk_times is None:
            self._chunk_times = ChunkTimes()

    def feed(self, event: object) -> None:
        """One event of a stream, that its reader gets."""
        self.read(event)
        cast("ChunkTimes", self._chunk_times).add()

    def read(self, event: object) -> None:
        """One event of a stream, of which not all are read, or which its reader does not get."""
        self.note_first_chunk()
        if self.limit is not None:
            self.limit.see(event)
        if isinstance(event, dict):
            self._body = self._provider.fold(self._body, cast("Json", event))

    def body(self, body: object) -> None:
        """The whole body of an unstreamed answer, parsed."""
        if isinstance(body, dict):
            self._body = {**cast("Json", body), **self._stated} if self._stated else cast("Json", body)

    def state(self, facts: Json) -> None:
        """What the answer says beside its body."""
        self._stated = facts
        self._body.update(facts)

    @property
    def provider(self) -> Provider:
        """Who reads its answer."""
        return self._provider

    @property
    def has_body(self) -> bool:
        return bool(self._body)

    # --- an answer in lines (`result_files.py`) -----------------------------------------------------------

    def begin_lines(self, first: Json) -> bool:
        """Whether an answer in lines is a batch's results that this process has not read yet; called where it was asked for."""
        if not is_result(first) or (
            self.request.parent_id and seen_responses.contains(*self._file_key(self.request.parent_id))
        ):
            return False
        self._site = call_site()
        self._adopt_job(None)
        self._finished = True  # what comes is recorded, and charged, when it has been read
        return True

    def line_entries(self, body: object) -> list[str]:
        """What a line used, as text: an entry for each model that took part, none if nothing was used."""
        with quietly("reading what was used"):  # the other lines are rows all the same
            response = self._provider.response(mapping(body), self.request, self.provider_name)
            created = response.created if response.created is not None else self._job_created
            extras = (
                extra._replace(job_id=f"{response.job_id}#{number}")
                for number, extra in enumerate(response.extras, start=1)
            )
            return [
                self._line_entry(part, part.usage, created)
                for part in (response, *extras)
                if response.job_id is not None and part.usage is not None and not _is_uncounted(part.usage, part)
            ]
        return []

    def _line_entry(self, response: Response, usage: Usage, created: int | None) -> str:
        if usage.code_sessions and response.containers:
            usage = usage._replace(code_sessions=self._new_sessions(response.containers))
        labels = {
            a.JOB_ID: response.job_id,
            a.RESPONSE_ID: response.id,
            a.RESPONSE_MODEL: response.model,
            a.SERVICE_TIER: response.service_tier,
            a.INFERENCE_GEO: response.inference_geo,
            a.SPEED: response.speed,
            a.OPERATION: response.operation,
            a.MEDIA_SIZE: response.size,
            a.MEDIA_QUALITY: response.quality,
            a.USAGE_UNREAD: response.unread,
            a.USAGE_DOUBTS: _doubts(response),
        }
        return result_lines.entry(usage, labels, created)

    def record_lines(self, entries: list[str]) -> None:
        """Record some lines, as one span."""
        with quietly("recording lines"), pinned(self._site):
            request = self.request
            operation = "chat" if request.operation == UNKNOWN_OPERATION else request.operation
            call = self.sibling(request._replace(operation=operation, is_poll=False, is_json_lines=False))
            call._finished = call._end_notified = True
            span = call._span
            if span is not None:
                facts = call._facts(Response(batch=True), "ok", None, None)
                if not is_listed(self._server[0]):
                    facts[a.RESULT_FILE] = request.parent_id or ""
                set_attributes_fast(span, facts)
                set_whole(span, a.RESULT_LINES, result_lines.joined(entries))
                span.end()
            if self.on_end is not None:
                self._lines_picousd += sum(self._price(entry) for entry in entries)

    def _price(self, entry: str) -> int:
        [(attributes, usage)] = result_lines.attributes_of_lines(f"[{entry}]")
        facts = {**attributes, a.PROVIDER: self.provider_name, a.BATCH: True, a.SERVER_ADDRESS: self._server[0]}
        return billed_call(facts, usage).price().total_picousd or 0

    def finish_lines(self, *, complete: bool) -> None:
        """All that came was read; `complete`: all there is, so that the file is not read again in this process."""
        if self.request.parent_id and complete:
            seen_responses.add_if_new(*self._file_key(self.request.parent_id))
        name = ":".join(self._file_key(self.request.parent_id)) if self.request.parent_id else ""
        self._notify_end(self._lines_picousd, sold=True, name=name if complete else "")

    def _id_space(self, name: str) -> str:
        """Within what an id is not given twice."""
        server = server_of_id(*self._server, name)
        return f"{self.provider_name}@{server}" if server else self.provider_name

    def _file_key(self, file: str) -> tuple[str, str]:
        return self._id_space(file), f"file {file}"

    def _job_server(self, response: Response) -> str | None:
        name = self.job_id or response.job_id
        return (server_of_id(*self._server, name) or None) if name else None

    def _adopt_job(self, response: Response | None) -> PendingJob | None:
        """Belong to whoever began the job whose result this is, as far as this process knows; returns the job."""
        name = (response.begun_job_id or response.job_id) if response is not None else None
        name = name or self.request.parent_id
        if name is None:
            return None
        self.job_id, job = _jobs.find(self._id_space(name), name, tenant_of(attribution_of(self.context)))
        if job is not None:
            self.context = self.context if job.context is None else job.context
            self._job_created = job.created
        return job

    def _announce_job(self, name: str, job: PendingJob, parent: str | None = None) -> None:
        """Write down who began a job, for the process that will see its result; `parent`: of a file of results, its job."""
        facts: dict[str, Any] = {a.MARKER: "job", a.PROVIDER: self.provider_name, a.BEGUN_JOB_ID: name}
        if server := server_of_id(*self._server, name):
            facts[a.JOB_SERVER] = server
        if parent is not None:
            facts[a.JOB_PARENT] = parent
        elif job.created is not None:
            facts[a.JOB_CREATED] = job.created
        context = self.context if parent is not None else job.context
        self._tracer.start_span("spanledger.job", context, SpanKind.INTERNAL, facts, start_time=self._began).end()

    def _remember_job(self, name: str, response: Response) -> None:
        """A job that this request began, or asked about: its result comes later, maybe elsewhere."""
        begins = self.request.starts_job
        context = attribution_of(self.context) if begins else None
        job = PendingJob(self.request, response.created, self.on_end, self._notes, context)
        announced = _jobs.remember(self._id_space(name), name, job)
        if announced is not None:
            self._announce_job(name, announced)
        for file in response.result_names:
            if _jobs.remember_file(self._id_space(file), file, name):
                self._announce_job(file, job, name)

    def finish(self) -> None:
        """The response has ended, complete or not."""
        if self._finished:
            return
        self._finished = True
        self._release_limit()
        with quietly("recording a call"):
            request, response = self.request, EMPTY_RESPONSE
            if not request.is_json_lines:
                with quietly("reading what was used"):  # where that fails, the call is a row all the same
                    response = self._provider.response(self._body, request, self.provider_name)
            if response.pending_job_id is not None:
                self._remember_job(response.pending_job_id, response)
                self._end_notified = self._end_notified or (request.starts_job and not request.batch)  # the result does
            if response.cancelled_job_id is not None:
                job = _jobs.forget(self._id_space(response.cancelled_job_id), response.cancelled_job_id)
                if job is not None and job.on_end is not None:
                    job.on_end(0, False, "")
            if response.session_model is not None:
                session, model = response.session_model
                session_models.put((self._id_space(session), session), model)
            if self._span is not None or self._is_first_sight(response) or self._is_unread(response):
                self._record(response)
            for extra in response.extras:
                self._record_extra(extra)
        self._notify_end(None, sold=False)

    def _record(self, response: Response) -> None:
        """End the span, which an answer of unknown kind gets only now."""
        if self._span is None:
            self._resume_job(response)
            self._span = self._start()
        elif self._is_repeated(response) and self.is_local:  # a server may repeat ids, but not all figures
            self.is_stored = True
        self._attempts.append(self._attempt_facts("200", "no" if self.is_stored else "yes"))
        is_whole = response.complete and not self._was_cut(response)
        self._end(self._span, response, "ok" if is_whole else "aborted")

    def _is_unread(self, response: Response) -> bool:
        """Whether something was asked that may have been billed, and nobody knows what."""
        return self.records_unread and self.request.operation == UNKNOWN_OPERATION and not response.extras

    def _is_repeated(self, response: Response) -> bool:
        """Whether this process has seen the same answer before; an answer without an id is known by its request's."""
        name = response.id or (f"request {self.answer_id}" if self.answer_id else None)
        return name is not None and seen_responses.repeats(self.provider_name, name, hash(response.raw_usage))

    def _is_first_sight(self, response: Response) -> bool:
        """Whether the response to a poll is the first to report something billed."""
        if response.usage is None and (response.job_id is None or response.pending_job_id is not None):
            return False
        name = response.job_id or response.id
        if name is None or not self.request.is_poll:
            return True
        space = self._id_space(name)
        is_new = seen_responses.add_if_new(space, name)
        if space != self.provider_name:
            seen_responses.add_if_new(self.provider_name, name)  # as record() knows it, which knows no server
        return is_new

    def _resume_job(self, response: Response) -> None:
        """Resume the request that started a polled job: this process's own, else as the response describes it."""
        job = self._adopt_job(response)
        if response.job_id:
            _jobs.forget(self._id_space(response.job_id), response.job_id)
        request = job.request if job else self.request
        if job is not None:
            self._notes = {**job.notes, **self._notes}
            self.on_end = job.on_end or self.on_end
        self.request = request._replace(model=request.model or response.model, is_poll=False)

    def _record_extra(self, extra: Response) -> None:
        """Record a further billed response of the same HTTP response."""
        usage = extra.usage
        if usage is None or (
            extra.job_id
            and not extra.grows
            and not seen_responses.add_if_new(self._id_space(extra.job_id), extra.job_id)
        ):
            return
        request, counted = self.request, None
        if extra.job_id:
            job = self._adopt_job(extra)
            if extra.created is None and job is not None:
                extra = extra._replace(created=job.created)
            if extra.grows:
                created, counted = self._grown(extra, usage)
                if created is None:
                    return
                extra = extra._replace(created=created)
        operation = extra.operation or ("chat" if request.operation == UNKNOWN_OPERATION else request.operation)
        extra_request = request._replace(
            operation=operation,
            model=extra.model or self._session_model(extra),
            is_poll=False,
            is_json_lines=False,
            expected_usage=None,
        )
        call = self.sibling(extra_request, usage.session_ms)
        call._finished = True
        if counted is not None:
            call._counted_picousd = quote(self.provider_name, None, counted).total_picousd or 0
        if call._span is not None:
            call._attempts.append(call._attempt_facts("200", "yes"))
            call._end(call._span, extra, "ok")

    def _session_model(self, extra: Response) -> str | None:
        """The model that serves the session which one of its requests, that names none, belongs to."""
        session = self.request.parent_id
        return session_models.get((self._id_space(session), session)) if session and not extra.grows else None

    def _grown(self, extra: Response, usage: Usage) -> tuple[int | None, Usage | None]:
        """(the time that its first statement gave, what it had used by the last one); (None, None) if it has not grown since."""
        name = extra.job_id or ""
        figures = usage.session_ms, usage.web_searches
        key = self._id_space(name), name
        created, before = growing_records.replace(key, extra.created or int(time.time()), figures)
        if before is not None and before >= figures:
            return None, None
        return created, None if before is None else Usage(session_ms=before[0], web_searches=before[1])

    def abandon(self) -> None:
        """The answer sends the client elsewhere: no row, as the request that follows is a call by itself."""
        self._finished = True
        self._notify_end(None, sold=False)

    def fail(self, error: BaseException, status: int | None) -> None:
        """The call raised before any billable answer; `status` is that of the last HTTP answer, if any."""
        if self._finished:
            return
        self._finished = True
        self._release_limit()
        with quietly("recording a failed call"):
            if self._span is not None:
                self._attempts.append(self._failed_attempt(status, error))
                self._span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                self._span.set_attribute(a.ERROR_TYPE, str(status) if status else type(error).__qualname__)
                self._end(self._span, Response(), "error")
        self._notify_end(None, sold=False)

    def refuse(self, error: BaseException) -> None:
        """The call was refused before it was sent: a row without an attempt."""
        self._finished = True
        self.note(a.REFUSAL, str(error))
        with quietly("recording a refused call"):
            span = self._span = self._span or self._start()
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            span.set_attribute(a.ERROR_TYPE, type(error).__name__)
            self._end(span, Response(), "error")

    def _end(self, span: Span, response: Response, outcome: str) -> None:
        usage, source = self._usage(response, outcome)
        try:
            if span.is_recording():
                stated = (None, "cache") if self.is_stored else (usage, source)
                set_attributes_fast(span, self._facts(response, outcome, *stated))
                stash_usage(span, usage, self._chunk_times)
        finally:
            try:
                span.end()
            finally:
                cost = whole_attribute(span, a.COST_TOTAL)
                name = f"{self._id_space(response.job_id)}:{response.job_id}" if response.job_id else ""
                # What is asked about later, is over and has no usage was not sold.
                sold = outcome != "error" and (usage is not None or not name)
                self._notify_end(cost - self._counted_picousd if isinstance(cost, int) else None, sold=sold, name=name)

    def _notify_end(self, cost: int | None, *, sold: bool, name: str = "") -> None:
        if self.on_end is not None and not self._end_notified:
            self._end_notified = True
            self.on_end(cost, sold, name)

    def _usage(self, response: Response, outcome: str) -> tuple[Usage | None, str | None]:
        """(usage, where it is from)."""
        usage, expected = response.usage, self.request.expected_usage
        if usage is not None and _is_uncounted(usage, response):
            usage = None
        source = "exact" if response.complete else "partial"
        if self._was_cut(response, outcome):
            usage, source = cast("StreamLimit", self.limit).usage(usage), "estimated"
        if usage is None and outcome == "ok" and expected is not None:
            usage, source = Usage(*(n * response.quantity for n in expected[:-1])), "request"
        if usage is not None and usage.code_sessions and response.containers:
            usage = usage._replace(code_sessions=self._new_sessions(response.containers))
        if usage is not None:
            return usage, source
        if outcome == "ok" and self.unasked_host is not None:
            notices.add(
                f"chat streams of {self.unasked_host} state no usage, so their calls have no tokens and no price. If it "
                f"understands stream_options, set SPANLEDGER_INCLUDE_USAGE_HOSTS={self.unasked_host} to ask for it"
            )
        return None, None if outcome == "error" else "missing"

    def _release_limit(self) -> None:
        if self.limit is not None:
            self.limit.release()

    def _was_cut(self, response: Response, outcome: str = "ok") -> bool:
        """Whether a limit has closed the stream before the provider had stated what it used."""
        limit = self.limit
        is_cut = limit is not None and limit.is_cut and outcome != "error"
        return is_cut and not (response.complete and response.usage)

    def _new_sessions(self, containers: tuple[str, ...]) -> int:
        """How many of these containers begin a session that is billed; within one, a container is billed once."""
        seconds = SESSION_SECONDS.get(self.provider_name, SESSION_SECONDS["openai"])
        return sum(container_sessions.begins(f"{self.provider_name} {name}", seconds) for name in containers)

    def _facts(self, response: Response, outcome: str, usage: Usage | None, source: str | None) -> dict[str, Any]:
        request = self.request
        host, port = self._server
        was_cut = self._was_cut(response, outcome)
        facts: dict[str, Any] = {a.SERVER_ADDRESS: host, a.OUTCOME: outcome, a.ATTEMPTS: len(self._attempts)}
        if usage is not None:
            facts.update(to_attributes(usage))
        if self._chunk_times is not None:
            facts[a.RESPONSE_TIME_TO_FIRST_CHUNK] = (self._chunk_times.first_ns - self._began) / 1e9
        for name, value in (
            (a.USAGE_SOURCE, source),
            (a.SERVER_PORT, port),
            (a.REQUEST_STREAM, request.stream or None),
            (a.REQUEST_MAX_TOKENS, request.max_tokens),
            (a.REQUEST_TEMPERATURE, request.temperature),
            (a.REQUEST_TIER, request.service_tier),
            (a.REQUEST_REASONING_LEVEL, request.reasoning_level),
            (a.REQUEST_CHOICE_COUNT, request.choice_count),
            (a.REQUEST_PREVIOUS_RESPONSE_ID, request.previous_response_id),
            (a.PROMPT_HASH, request.prompt_hash),
            (a.RESPONSE_ID, response.id),
            (a.RESPONSE_MODEL, response.model),
            (a.RESPONSE_FINISH_REASONS, response.finish_reasons or None),
            (a.SERVICE_TIER, response.service_tier),
            (a.INFERENCE_GEO, response.inference_geo),
            (a.SPEED, response.speed),
            (a.PROVIDER_COST, response.provider_cost_usd or self.gateway_cost),
            (a.USAGE_RAW, response.raw_usage),
            (a.USAGE_UNREAD, response.unread),
            (a.USAGE_DOUBTS, _doubts(response, is_gateways=self.is_gateways, was_cut=was_cut)),
            (a.REFUSAL, self.limit.refusal.reason if was_cut and self.limit and self.limit.refusal else None),
            (a.BILLED_TO, request.billed_to),
            (a.COST_COUNTED, self._counted_picousd or None),
            (a.MEDIA_SIZE, response.size or request.size),
            (a.MEDIA_QUALITY, response.quality or request.quality),
            (a.BATCH, response.batch or None),
            (a.JOB_ID, response.job_id),
            (a.JOB_CREATED, response.created),
            (a.BEGUN_JOB_ID, self.job_id),
            (a.JOB_SERVER, self._job_server(response)),
            (a.PROVIDER_PROJECT, self.project),
            (a.CACHE_HIT, "true" if self.is_stored else None),
        ):
            if value is not None:
                facts[name] = value
        if len(self._attempts) > 1 or outcome == "error":
            facts[a.ATTEMPT_STATUS] = tuple(status for status, _, _ in self._attempts)
            facts[a.ATTEMPT_DURATION_US] = tuple(duration for _, duration, _ in self._attempts)
            facts[a.ATTEMPT_BILLED] = tuple(billed for _, _, billed in self._attempts)
        facts.update(self._notes)
        return facts
