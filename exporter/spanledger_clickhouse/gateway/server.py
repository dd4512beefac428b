"""`spanledger gateway`: an OTLP/HTTP receiver that answers 200 only after ClickHouse has committed.

The sender (a Collector with a persistent queue, another language's SDK) keeps the spans until then: 429 and 503 with
Retry-After are retryable, 400, 413 and 415 are permanent, a partial success counts the spans refused permanently
(opentelemetry.io/docs/specs/otlp). Spans without a price are priced; spans that are not LLM calls are dropped.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from spanledger.runtime.guard import log
from spanledger_clickhouse.database.connection import DatabaseError
from spanledger_clickhouse.gateway.group_commit import CommitResult, GroupCommitWriter, QueueFullError
from spanledger_clickhouse.gateway.request_body import JSON, PROTOBUF, RefusedError, decompressed, spans

ANY_TENANT: Final = "*"
RETRY_SECONDS: Final = 5
REFUSAL_FACTOR: Final = 10
"""So a sender of nothing but refused requests takes at most a tenth of the gateway's time."""


class SlowBodyError(Exception):
    """A body that did not arrive in time."""


@dataclass(frozen=True)
class Limits:
    """Limits of a gateway."""

    request_bytes: int = 64 << 20
    """Maximum size of a decompressed request; a quarter of it on the wire."""
    waiting_bytes: int = 256 << 20
    """Maximum size of all requests that are not answered yet; beyond it, 429."""
    body_seconds: float = 30.0
    """How long a sender may take for a request's body; then 503, and the connection is closed."""
    answer_seconds: float = 60.0
    """How long a request may wait for its commit; then 503 (a later commit is deduplicated)."""


def parse_tokens(text: str) -> dict[str, str]:
    """Parse `tenant=token` pairs, separated by lines or commas, to token -> tenant; `*=token` allows any tenant.

    Raises:
        ValueError: a pair is not valid; the message contains no token.
    """
    tenants: dict[str, str] = {}
    for number, line in enumerate(text.replace(",", "\n").splitlines(), 1):
        entry = line.partition("#")[0].strip() if line.lstrip().startswith("#") else line.strip()
        if not entry:
            continue
        tenant, separator, token = entry.partition("=")
        if not separator or not tenant.strip() or len(token.strip()) < 16:
            raise ValueError(f"token {number} is not of the form tenant=token with 16 characters or more")
        tenants[token.strip()] = "" if tenant.strip() == ANY_TENANT else tenant.strip()
    return tenants


class Gateway:
    """HTTP routes of the receiver."""

    def __init__(self, intake: GroupCommitWriter, tokens: Mapping[str, str], limits: Limits) -> None:
        """`tokens`: token -> tenant; if empty, no authentication is required."""
        self._writer, self._tokens, self._limits = intake, tokens, limits
        self._draining = False
        self._lanes: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._response_counts: dict[int, int] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self._Metrics(self))

    def app(self) -> Starlette:
        routes = [
            Route("/v1/traces", self.traces, methods=["POST"]),
            Route("/healthz", self.healthy),
            Route("/readyz", self.ready),
            Route("/metrics", self.metrics),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncGenerator[None]:
        self._writer.start()
        yield
        self._draining = True  # uvicorn has finished the running requests
        await run_in_threadpool(self._writer.stop)

    async def traces(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            tenant, sender = self._sender(request)
            if request.headers.get("content-length", "0").isdecimal():
                self._check_size(int(request.headers.get("content-length", "0")))
            answer = await self._commit(request, tenant, sender)
        except RefusedError as error:
            return self._error_response(kind, error.status, str(error))
        except SlowBodyError as error:  # not 408, upon which a Collector drops the spans
            return self._error_response(kind, 503, str(error), retry=RETRY_SECONDS, closes=True)
        except QueueFullError:
            message = "too many bytes of this sender are waiting for ClickHouse"
            return self._error_response(kind, 429, message, retry=RETRY_SECONDS)
        except DatabaseError:  # what it says names hosts, and is in the log
            return self._error_response(kind, 503, "ClickHouse does not take these spans now", retry=RETRY_SECONDS)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except TimeoutError:
            return self._error_response(kind, 503, "ClickHouse did not commit in time", retry=RETRY_SECONDS)
        except Exception as error:  # noqa: BLE001 - 500 would have a Collector drop the batch; 503 keeps it
            log.error("a request failed with %s", type(error).__name__)
            return self._error_response(kind, 503, "internal error of the gateway; see its log", retry=RETRY_SECONDS)
        return self._success_response(kind, answer)

    def _sender(self, request: Request) -> tuple[str, str]:
        """The tenant of the request's token, '' if the spans decide; and whose queue it goes into."""
        if not self._tokens:
            return "", request.client.host if request.client else ""
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        matched: tuple[str, str] | None = None
        for number, (token, tenant) in enumerate(self._tokens.items()):  # all: timing reveals nothing
            if hmac.compare_digest(token.encode(), credentials.strip().encode()):
                matched = tenant, tenant or f"{ANY_TENANT}{number}"
        if scheme.lower() != "bearer" or matched is None:
            raise RefusedError(401, "a bearer token is required: Authorization: Bearer <token>")
        return matched

    def _check_size(self, size: int) -> None:
        if size > self._limits.request_bytes // 4:
            raise RefusedError(
                413, f"the request is longer than {self._limits.request_bytes // 4:,} bytes: send smaller batches"
            )

    async def _commit(self, request: Request, tenant: str, sender: str) -> CommitResult:
        reserved = 0

        def reserve(size: int) -> None:
            nonlocal reserved
            self._writer.reserve(size, sender)
            reserved += size

        try:
            body = bytearray()
            try:
                async with asyncio.timeout(self._limits.body_seconds):
                    async for chunk in request.stream():
                        self._check_size(len(body) + len(chunk))
                        reserve(len(chunk))
                        body += chunk
            except TimeoutError:
                seconds = f"{self._limits.body_seconds:g} seconds"
                raise SlowBodyError(f"the body of the request did not arrive within {seconds}") from None
            encoding = request.headers.get("content-encoding", "")
            async with self._lane(sender), self._charged(sender):
                data = await run_in_threadpool(decompressed, bytes(body), encoding, self._limits.request_bytes)
                reserve(max(0, len(data) - len(body)))
                del body
                request_spans = await run_in_threadpool(spans, data, request.headers.get("content-type", ""))
            del data
            if not request_spans:
                return CommitResult(0, 0, "")
            committed = self._writer.submit(request_spans, tenant, reserved, sender)
            reserved = 0  # the writer releases it, with the spans
            return await asyncio.wait_for(asyncio.wrap_future(committed), self._limits.answer_seconds)
        finally:
            self._writer.release(reserved, sender)

    @asynccontextmanager
    async def _charged(self, sender: str) -> AsyncGenerator[None]:
        """A request that is refused costs its sender ten times the time that it took to see that."""
        began = time.monotonic()
        try:
            yield
        except RefusedError:
            self._writer.rest(REFUSAL_FACTOR * (time.monotonic() - began), sender)
            raise

    def _lane(self, sender: str) -> asyncio.Lock:
        """One request of a sender is decoded at a time: the others' are decoded meanwhile."""
        lane = self._lanes.get(sender)
        if lane is None:
            lane = self._lanes[sender] = asyncio.Lock()
        return lane

    def _success_response(self, kind: str, answer: CommitResult) -> Response:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

        self._response_counts[200] = self._response_counts.get(200, 0) + 1
        if kind == JSON:
            body: dict[str, Any] = {}
            if answer.refused:
                body = {"partialSuccess": {"rejectedSpans": str(answer.refused), "errorMessage": answer.reason}}
            return Response(json.dumps(body), media_type=JSON)
        response: Any = ExportTraceServiceResponse()
        if answer.refused:
            response.partial_success.rejected_spans = answer.refused
            response.partial_success.error_message = answer.reason
        return Response(response.SerializeToString(), media_type=PROTOBUF)

    def _error_response(
        self, kind: str, status: int, message: str, retry: int | None = None, *, closes: bool = False
    ) -> Response:
        """Error response as OTLP requires: a google.rpc.Status in the encoding of the request."""
        from google.rpc.status_pb2 import Status  # pyright: ignore[reportMissingTypeStubs]

        self._response_counts[status] = self._response_counts.get(status, 0) + 1
        headers = {"Retry-After": str(retry)} if retry else {}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if closes:
            headers["Connection"] = "close"
        if kind == PROTOBUF:
            rpc_status: Any = Status(message=message)
            return Response(rpc_status.SerializeToString(), status, headers, PROTOBUF)
        return Response(json.dumps({"message": message}), status, headers, JSON)

    async def healthy(self, _: Request) -> Response:
        """Liveness: the process runs."""
        return PlainTextResponse("ok\n")

    async def ready(self, _: Request) -> Response:
        """Readiness: ClickHouse is reachable, and no shutdown is in progress."""
        if self._draining or not self._writer.is_connected:
            return PlainTextResponse("draining\n" if self._draining else "ClickHouse is not reachable\n", 503)
        return PlainTextResponse("ready\n")

    async def metrics(self, _: Request) -> Response:
        """Metrics in the Prometheus format."""
        return Response(generate_latest(self._registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    class _Metrics(Collector):
        def __init__(self, gateway: Gateway) -> None:
            self._gateway = gateway

        def collect(self) -> Iterator[Metric]:
            intake, counts = self._gateway._writer, self._gateway._writer.counts
            spans = CounterMetricFamily("spanledger_gateway_spans", "Spans by outcome", labels=["state"])
            for state, count in {"committed": counts.rows, "refused": counts.refused, **counts.dropped}.items():
                spans.add_metric([state], count)
            answers = CounterMetricFamily("spanledger_gateway_requests", "Requests by HTTP status", labels=["status"])
            for status, count in self._gateway._response_counts.items():
                answers.add_metric([str(status)], count)
            yield spans
            yield answers
            yield CounterMetricFamily("spanledger_gateway_commits", "Inserts committed", value=counts.commits)
            yield CounterMetricFamily(
                "spanledger_gateway_commits_failed", "Inserts failed", value=counts.failed_commits
            )
            yield CounterMetricFamily(
                "spanledger_gateway_commit_seconds", "Seconds spent in inserts", value=counts.commit_seconds
            )
            yield GaugeMetricFamily(
                "spanledger_gateway_waiting_bytes", "Bytes not committed yet", value=intake.waiting_bytes
            )
            yield GaugeMetricFamily(
                "spanledger_gateway_last_commit_timestamp_seconds",
                "When the last insert was committed",
                value=counts.last_commit or math.nan,
            )


def load_tokens(file: Path | None, text: str | None) -> dict[str, str]:
    """Load the tokens of a file and of a setting; raises as `tokens` does, and OSError."""
    tenants = parse_tokens(text or "")
    return tenants | (parse_tokens(file.read_text(encoding="utf-8")) if file else {})
