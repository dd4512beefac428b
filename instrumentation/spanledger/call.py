"""The life of one call: a CLIENT span from the moment the SDK is asked until the answer's last byte.

A `Call` belongs to one billed HTTP response. The doors tell it what happens (an attempt failed, an
event arrived, the body ended); it knows no SDK, no sync and no async. Attribution and price are
added by `LedgerProcessor`, which sees the span start and end.
"""

from __future__ import annotations

import time
from typing import cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from spanledger import attributes as a
from spanledger.guard import quietly
from spanledger.providers import UNKNOWN, Provider, Request, Response
from spanledger.reading import Json
from spanledger.usage import to_attributes

CALL_KEY = otel_context.create_key("spanledger-call")
"""Marks a context as being inside an LLM call."""


def in_call(context: Context | None = None) -> bool:
    """Whether `context` (by default the current one) is that of a request to an LLM provider."""
    return otel_context.get_value(CALL_KEY, context) is True


class Call:
    """One billed response in the making. Every method is safe to call twice and from any thread."""

    __slots__ = (
        "_attempt_began",
        "_attempts",
        "_began",
        "_body",
        "_context",
        "_finished",
        "_first_chunk_ns",
        "_provider",
        "_provider_name",
        "_server",
        "_span",
        "_tracer",
        "answered",
        "hides_usage",
        "request",
    )

    def __init__(
        self,
        tracer: Tracer,
        provider: Provider,
        request: Request,
        provider_name: str,
        server: tuple[str, int | None],
        context: Context | None = None,
    ) -> None:
        """Begin. An endpoint of unknown kind gets its span only when its answer turns out to carry usage."""
        self._tracer = tracer
        self._provider = provider
        self._provider_name = provider_name
        self._server = server
        self._context = context
        self._body: Json = {}
        self._attempts: list[tuple[str, int, str]] = []
        self._first_chunk_ns: int | None = None
        self._finished = False
        self.request = request
        self.answered = False
        """Whether a response has claimed this call."""
        self.hides_usage = False
        """Whether the stream has a usage event that we asked for and the caller did not."""
        self._began = time.time_ns()
        self._attempt_began = self._began
        self._span = None if request.operation == UNKNOWN else self._start()

    def _start(self) -> Span:
        request = self.request
        host, port = self._server
        attributes: dict[str, str | int | float | bool] = {
            a.OPERATION: request.operation,
            a.PROVIDER: self._provider_name,
            a.SERVER_ADDRESS: host,
        }
        for name, value in (
            (a.REQUEST_MODEL, request.model),
            (a.SERVER_PORT, port),
            (a.REQUEST_STREAM, request.stream or None),
            (a.REQUEST_MAX_TOKENS, request.max_tokens),
            (a.REQUEST_TEMPERATURE, request.temperature),
            (a.REQUEST_TIER, request.service_tier),
            (a.PROMPT_HASH, request.prompt_hash),
        ):
            if value is not None:
                attributes[name] = value
        name = f"{request.operation} {request.model}" if request.model else request.operation
        return self._tracer.start_span(name, self._context, SpanKind.CLIENT, attributes, start_time=self._began)

    def another(self) -> Call:
        """A call of its own for one more billed response to the same request (a middleware's second hop)."""
        server = self._server
        return Call(self._tracer, self._provider, self.request, self._provider_name, server, self._context)

    def current(self) -> Context:
        """The context to send the request in: our span is the parent of what the HTTP client records."""
        context = otel_context.set_value(CALL_KEY, True, self._context)
        return context if self._span is None else trace.set_span_in_context(self._span, context)

    def attempt(self) -> None:
        """An HTTP attempt is being sent."""
        self._attempt_began = time.time_ns()

    def retried(self, status: int | None) -> None:
        """An attempt failed and another follows; `status` is None where no answer came (billed: unknown)."""
        self._attempts.append(self._attempt(str(status) if status else "no_answer", "no" if status else "unknown"))

    def _attempt(self, status: str, billed: str) -> tuple[str, int, str]:
        return status, (time.time_ns() - self._attempt_began) // 1000, billed

    def feed(self, event: object) -> None:
        """One event of a stream."""
        if self._first_chunk_ns is None:
            self._first_chunk_ns = time.time_ns()
        if isinstance(event, dict):
            self._body = self._provider.fold(self._body, cast("Json", event))

    def body(self, body: object) -> None:
        """The whole body of an unstreamed answer, parsed."""
        if isinstance(body, dict):
            self._body = cast("Json", body)

    @property
    def has_body(self) -> bool:
        return bool(self._body)

    def finish(self) -> None:
        """The answer is over, complete or not."""
        if self._finished:
            return
        self._finished = True
        with quietly("recording a call"):
            response = self._provider.response(self._body)
            if self._span is None:
                if response.usage is None:
                    return
                self._span = self._start()
            self._attempts.append(self._attempt("200", "yes"))
            outcome = "ok" if response.complete else "aborted"
            self._end(self._span, response, outcome)

    def fail(self, error: BaseException, status: int | None) -> None:
        """The call raised before any billable answer; `status` is that of the last HTTP answer, if any."""
        if self._finished:
            return
        self._finished = True
        if self._span is None:
            return
        with quietly("recording a failed call"):
            self._attempts.append(self._attempt(str(status) if status else "no_answer", "no" if status else "unknown"))
            self._span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            self._span.set_attribute(a.ERROR_TYPE, str(status) if status else type(error).__qualname__)
            self._end(self._span, Response(), "error")

    def _end(self, span: Span, response: Response, outcome: str) -> None:
        attributes: dict[str, str | int | float | bool | list[str] | list[int]] = {
            a.OUTCOME: outcome,
            a.ATTEMPTS: len(self._attempts),
        }
        if response.usage is not None:
            attributes.update(to_attributes(response.usage))
            attributes[a.USAGE_SOURCE] = "exact" if response.complete else "partial"
        elif outcome != "error":
            attributes[a.USAGE_SOURCE] = "missing"
        if self._first_chunk_ns is not None:
            attributes[a.RESPONSE_TIME_TO_FIRST_CHUNK] = (self._first_chunk_ns - self._began) / 1e9
        for name, value in (
            (a.RESPONSE_ID, response.id),
            (a.RESPONSE_MODEL, response.model),
            (a.SERVICE_TIER, response.service_tier),
            (a.INFERENCE_GEO, response.inference_geo),
            (a.SPEED, response.speed),
            (a.PROVIDER_COST, response.provider_cost_usd),
            (a.USAGE_RAW, response.raw_usage),
        ):
            if value is not None:
                attributes[name] = value
        if response.finish_reasons:
            attributes[a.RESPONSE_FINISH_REASONS] = list(response.finish_reasons)
        if len(self._attempts) > 1 or outcome == "error":
            attributes[a.ATTEMPT_STATUS] = [status for status, _, _ in self._attempts]
            attributes[a.ATTEMPT_DURATION_US] = [duration for _, duration, _ in self._attempts]
            attributes[a.ATTEMPT_BILLED] = [billed for _, _, billed in self._attempts]
        try:
            span.set_attributes(attributes)
        finally:
            span.end()
