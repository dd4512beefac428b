"""`spanledger gateway`: an OTLP/HTTP receiver that answers 200 when ClickHouse has committed, and not before.

Whoever sends (a Collector with a persistent queue, another language's SDK) keeps the spans until then: 429 and 503 with
Retry-After mean later, 400, 413 and 415 mean never, a partial success names what was refused for good
(opentelemetry.io/docs/specs/otlp). Spans that come without a price get one; what is no call is dropped.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from spanledger.runtime.guard import log
from spanledger_clickhouse.database.connection import DatabaseError
from spanledger_clickhouse.gateway.group_commit import Answer, FullError, Intake
from spanledger_clickhouse.gateway.request_body import JSON, PROTOBUF, RefusedError, spans, unpacked

ANY_TENANT: Final = "*"
RETRY_SECONDS: Final = 5


@dataclass(frozen=True)
class Limits:
    """What a gateway takes."""

    request_bytes: int = 64 << 20
    """Of a request when unpacked; a quarter of it as it comes."""
    waiting_bytes: int = 256 << 20
    """Of all requests that are not answered yet; beyond, 429."""
    answer_seconds: float = 60.0
    """How long a request may wait for its commit; beyond, 503 (what is committed later is the same row again)."""


def tokens(text: str) -> dict[str, str]:
    """Token -> tenant, of `tenant=token` pairs on lines or between commas; `*=token` is for spans of any tenant.

    Raises:
        ValueError: a pair that is none; the message holds no token.
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
    """The receiver's routes."""

    def __init__(self, intake: Intake, tokens: Mapping[str, str], limits: Limits) -> None:
        """`known`: token -> tenant; with none, everybody may send."""
        self._intake, self._tokens, self._limits = intake, tokens, limits
        self._draining = False
        self._answers: dict[int, int] = {}
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
        self._intake.start()
        yield
        self._draining = True  # uvicorn has let the requests that were under way end
        await run_in_threadpool(self._intake.stop)

    async def traces(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            tenant = self._tenant(request)
            if request.headers.get("content-length", "0").isdecimal():
                self._fits(int(request.headers.get("content-length", "0")))
            answer = await self._taken(request, tenant)
        except RefusedError as error:
            return self._said(kind, error.status, str(error))
        except FullError:
            return self._said(kind, 429, "too much is waiting for ClickHouse", retry=RETRY_SECONDS)
        except DatabaseError as error:
            return self._said(kind, 503, str(error), retry=RETRY_SECONDS)
        except TimeoutError:
            return self._said(kind, 503, "ClickHouse has not committed in time", retry=RETRY_SECONDS)
        except Exception as error:  # noqa: BLE001 - 500 would have a Collector drop the batch; 503 keeps it
            log.error("a request failed with %s", type(error).__name__)
            return self._said(kind, 503, "the gateway failed; it has logged how", retry=RETRY_SECONDS)
        return self._accepted(kind, answer)

    def _tenant(self, request: Request) -> str:
        if not self._tokens:
            return ""
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        matched_tenant: str | None = None
        for token, tenant in self._tokens.items():  # all of them: the time that this takes tells nothing
            if hmac.compare_digest(token.encode(), credentials.strip().encode()):
                matched_tenant = tenant
        if scheme.lower() != "bearer" or matched_tenant is None:
            raise RefusedError(401, "a bearer token is needed: Authorization: Bearer <token>")
        return matched_tenant

    def _fits(self, size: int) -> None:
        if size > self._limits.request_bytes // 4:
            raise RefusedError(
                413, f"the request is longer than {self._limits.request_bytes // 4:,} bytes: send smaller batches"
            )

    async def _taken(self, request: Request, tenant: str) -> Answer:
        reserved = 0

        def hold(size: int) -> None:
            nonlocal reserved
            self._intake.admit(size)
            reserved += size

        try:
            body = bytearray()
            async for chunk in request.stream():
                self._fits(len(body) + len(chunk))
                hold(len(chunk))
                body += chunk
            encoding = request.headers.get("content-encoding", "")
            data = await run_in_threadpool(unpacked, bytes(body), encoding, self._limits.request_bytes)
            hold(max(0, len(data) - len(body)))
            del body
            request_spans = await run_in_threadpool(spans, data, request.headers.get("content-type", ""))
            del data
            if not request_spans:
                return Answer(0, 0, "")
            committed = self._intake.submit(request_spans, tenant, reserved)
            reserved = 0  # the intake's to give back: what is not committed in time still waits there
            return await asyncio.wait_for(asyncio.wrap_future(committed), self._limits.answer_seconds)
        finally:
            self._intake.release(reserved)

    def _accepted(self, kind: str, answer: Answer) -> Response:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

        self._answers[200] = self._answers.get(200, 0) + 1
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

    def _said(self, kind: str, status: int, message: str, retry: int | None = None) -> Response:
        """An error as OTLP has it: a google.rpc.Status in the encoding of the request."""
        from google.rpc.status_pb2 import Status  # pyright: ignore[reportMissingTypeStubs]

        self._answers[status] = self._answers.get(status, 0) + 1
        headers = {"Retry-After": str(retry)} if retry else {}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if kind == PROTOBUF:
            rpc_status: Any = Status(message=message)
            return Response(rpc_status.SerializeToString(), status, headers, PROTOBUF)
        return Response(json.dumps({"message": message}), status, headers, JSON)

    async def healthy(self, _: Request) -> Response:
        """Whether the process lives."""
        return PlainTextResponse("ok\n")

    async def ready(self, _: Request) -> Response:
        """Whether it takes spans: ClickHouse is reached, and the end has not been asked for."""
        if self._draining or not self._intake.reached:
            return PlainTextResponse("draining\n" if self._draining else "ClickHouse is not reached\n", 503)
        return PlainTextResponse("ready\n")

    async def metrics(self, _: Request) -> Response:
        """What it has done, for Prometheus."""
        return Response(generate_latest(self._registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    class _Metrics(Collector):
        def __init__(self, gateway: Gateway) -> None:
            self._gateway = gateway

        def collect(self) -> Iterator[Metric]:
            intake, counts = self._gateway._intake, self._gateway._intake.counts
            spans = CounterMetricFamily("spanledger_gateway_spans", "Spans by what became of them", labels=["state"])
            for state, count in {"committed": counts.rows, "refused": counts.refused, **counts.dropped}.items():
                spans.add_metric([state], count)
            answers = CounterMetricFamily("spanledger_gateway_requests", "Requests by HTTP status", labels=["status"])
            for status, count in self._gateway._answers.items():
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
            yield GaugeMetricFamily("spanledger_gateway_waiting_bytes", "Bytes not committed yet", value=intake.waiting)
            yield GaugeMetricFamily(
                "spanledger_gateway_last_commit_timestamp_seconds",
                "When the last insert was committed",
                value=counts.last_commit or math.nan,
            )


def tokens_of(file: Path | None, text: str | None) -> dict[str, str]:
    """The tokens of a file and of a setting together; raises as `tokens` does, and OSError."""
    tenants = tokens(text or "")
    return tenants | (tokens(file.read_text(encoding="utf-8")) if file else {})
