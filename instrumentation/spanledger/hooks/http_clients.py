"""Observes HTTP clients: requests to hosts that serve models, which no SDK's hook has claimed, are calls as well.

Patched: httpx and httpx2 (`Client._send_handling_auth`, one request with its redirections, whatever the transport), aiohttp
(`ClientSession._request`) and urllib3 (`HTTPConnectionPool.urlopen`, which requests and botocore use). What a hook of an SDK
sends is marked in the context (`context/llm_call.py`) and passes; so does every other host, after one look into a table.
The network functions below them say that a request left the process: an answer without that came from a cache.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from types import ModuleType, TracebackType
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urljoin, urlsplit

from opentelemetry import context as otel_context
from opentelemetry.trace import Tracer

from spanledger.capture import admission
from spanledger.capture.call import Call, Sending
from spanledger.context.llm_call import in_call, is_claimed, note_network, reached_network, watched_libraries
from spanledger.context.propagation import without_attribution
from spanledger.hooks.answer_headers import is_from_cache, read_headers
from spanledger.hooks.binary_streams import EventStreamTap, LineTap
from spanledger.hooks.patching import Hooks, Patches
from spanledger.hooks.response_body import (
    MAX_JSON,
    BodyTap,
    DocumentBody,
    EncodedTap,
    Followed,
    JsonLinesBody,
    content_decoder,
    follow,
    followed,
    read_whole,
)
from spanledger.hooks.sse import SseTap
from spanledger.providers import UNKNOWN_OPERATION, Provider, Request, bedrock, by_host
from spanledger.runtime import finalizers
from spanledger.runtime.guard import quietly
from spanledger.runtime.untrusted_json import label, parse_json

SEND: Final = "_send_handling_auth"
SEND_ONE: Final = "_send_single_request"
"""One of its requests: a redirection may lead to a host that serves models."""
SEE_OTHER: Final = 303
MAX_EXPECTED: Final = 1000
HTTPX: Final[Hooks] = {
    "HTTPTransport": {"handle_request": ("request",)},
    "AsyncHTTPTransport": {"handle_async_request": ("request",)},
    "WSGITransport": {"handle_request": ("request",)},
    "ASGITransport": {"handle_async_request": ("request",)},
    "Client": {SEND: ("request",), SEND_ONE: ("request",)},
    "AsyncClient": {SEND: ("request",), SEND_ONE: ("request",)},
}
HTTPCORE: Final[Hooks] = {
    "ConnectionPool": {"handle_request": ("request",)},
    "AsyncConnectionPool": {"handle_async_request": ("request",)},
}
HOOKS: Final[dict[str, Hooks]] = {
    "httpx": HTTPX,
    "httpx2": HTTPX,
    "httpcore": HTTPCORE,
    "httpcore2": HTTPCORE,
    "http.client": {"HTTPConnection": {"endheaders": ()}},
    "urllib3.connectionpool": {"HTTPConnectionPool": {"urlopen": ("method", "url", "body")}},
    "aiohttp": {"ClientSession": {"_request": ("method", "str_or_url")}},
}
"""Module -> the functions that are patched. A transport of the application's own may use httpcore or http.client by itself."""

Body = Callable[[], object]
"""Gives the body of a request, bytes or parsed, None where it is a stream; asked only for hosts that serve models."""


class AnsweredError(Exception):
    """An answer with a status of 300 or above."""


class _Expected(NamedTuple):
    """A request that follows a redirection, perhaps to a host that is not known to serve models."""

    provider: Provider
    request: Request
    name: str
    status: int


class HttpPatches(Patches):
    """Patches HTTP clients."""

    def __init__(self, tracer: Callable[[], Tracer], *, observe: bool) -> None:
        """`observe`: also record what no SDK's hook has claimed."""
        super().__init__()
        self._tracer = tracer
        self._observe = observe
        self._expected: dict[tuple[str, str], _Expected] = {}
        """(host, path) of where an answer has sent a client -> what he asks there."""

    def install(self, module: ModuleType) -> None:
        replacements = {
            ("Client", SEND): self._send,
            ("AsyncClient", SEND): self._send_async,
            ("Client", SEND_ONE): self._send,
            ("AsyncClient", SEND_ONE): self._send_async,
            ("ClientSession", "_request"): self._aiohttp_request,
            ("HTTPConnectionPool", "urlopen"): self._urlopen,
        }
        for owner, functions in HOOKS[module.__name__].items():
            for name in functions:
                if self._observe or name not in (SEND, SEND_ONE):
                    self.patch(getattr(module, owner), name, replacements.get((owner, name), _noting_network))
        if module.__name__ not in ("httpcore", "httpcore2", "http.client"):
            watched_libraries.add(module.__name__.partition(".")[0])

    def remove(self) -> None:
        super().remove()
        watched_libraries.clear()

    # --- beginning and end ---------------------------------------------------------------------------

    def _begin(
        self, method: str, host: str, port: int | None, path: str, body: Body, client: object = None
    ) -> Call | None:
        name = by_host.provider_at(host, port)
        expected = self._expected.pop((host, path.partition("?")[0]), None) if self._expected else None
        if (name is None and expected is None) or is_claimed(client, host, path):
            return None
        with quietly("beginning a call"):
            if expected is not None and (method.upper() == "GET" if expected.status == SEE_OTHER else name is None):
                return self._call(expected.provider, expected.request, expected.name, (host, port))
            if name is None:
                return None
            provider = by_host.reader(name, path)
            content = body() if provider is not None and method.upper() == "POST" else None
            parsed = parse_json(content) if isinstance(content, str | bytes) and len(content) <= MAX_JSON else content
            request = provider.request(method, path, parsed) if provider is not None else None
            if provider is None or request is None:
                return None
            if request.model is None and request.operation == UNKNOWN_OPERATION:
                request = request._replace(model=label(parsed, "model"))
            call = self._call(provider, request, name, (host, port))
            call.records_unread = request.model is not None or (parsed is None and bool(content))
            if request.operation == UNKNOWN_OPERATION:
                call.note("url.path", label(path.partition("?")[0]) or "")
                if port is not None:
                    call.note("url.port", str(port))
            return call
        return None

    def _call(self, provider: Provider, request: Request, name: str, server: tuple[str, int | None]) -> Call:
        call = Call(self._tracer(), provider, request, name, server, otel_context.get_current())
        admission.charge(call)
        return call

    def _fails_by_status(self, call: Call, status: int, headers: Any, url: object) -> bool:
        """End a call whose answer sells nothing: a refusal, or a redirection, after which another request may follow."""
        if 300 <= status < 400:
            call.abandon()
            location = headers.get("location")
            with quietly("following a redirection"):
                if not location:
                    return True
                target = urlsplit(urljoin(str(url), location))
                if len(self._expected) >= MAX_EXPECTED:
                    self._expected.clear()
                followed = _Expected(call.provider, call.request, call.provider_name, status)
                self._expected[target.hostname or "", target.path] = followed
        elif status >= 400:
            call.fail(AnsweredError(), status)
        return status >= 300

    # --- httpx, httpx2 ---------------------------------------------------------------------------------

    def _begin_httpx(self, client: Any, request: Any) -> Call | None:
        with quietly("beginning a call"):
            url = request.url
            raw_host, path = url.raw_host.decode("ascii", "replace"), url.raw_path.decode("ascii", "replace")
            if "baggage" in request.headers and (in_call() or by_host.provider_at(raw_host, url.port) is not None):
                request.headers = without_attribution(request.headers)  # the application has put it there by itself
            return self._begin(
                request.method, raw_host, url.port, path, lambda: getattr(request, "_content", None), client
            )
        return None

    def _send(self, original: Any) -> Any:
        def send(client: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            call = self._begin_httpx(client, request)
            if call is None:
                return original(client, request, *args, **kwargs)
            with _Sending(call):
                call.claim(client, request.url.path)
                response = original(client, request, *args, **kwargs)
                self._read_httpx(call, response)
            return response

        return send

    def _send_async(self, original: Any) -> Any:
        async def send(client: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            call = self._begin_httpx(client, request)
            if call is None:
                return await original(client, request, *args, **kwargs)
            with _Sending(call):
                call.claim(client, request.url.path)
                response = await original(client, request, *args, **kwargs)
                self._read_httpx(call, response)
            return response

        return send

    # --- aiohttp ---------------------------------------------------------------------------------------

    def _aiohttp_request(self, original: Any) -> Any:
        async def request(session: Any, method: str, url: Any, *args: Any, **kwargs: Any) -> Any:
            with quietly("beginning a call"):
                note_network(getattr(url, "host", None) or "")
            call = self._begin_aiohttp(session, method, url, kwargs) if self._observe else None
            if call is None:
                return await original(session, method, url, *args, **kwargs)
            with _Sending(call):
                response = await original(session, method, url, *args, **kwargs)
                self._read_aiohttp(call, response, is_decoded=getattr(session, "_auto_decompress", True))
            return response

        return request

    def _begin_aiohttp(self, session: Any, method: str, url: Any, kwargs: dict[str, Any]) -> Call | None:
        with quietly("beginning a call"):
            base = getattr(session, "_base_url", None)
            try:
                parts = urlsplit(str(url if base is None else base.join(type(base)(str(url)))))
                _ = parts.port
            except ValueError:
                return None  # aiohttp says so
            if kwargs.get("headers") and by_host.provider_at(parts.hostname or "", parts.port) is not None:
                kwargs["headers"] = without_attribution(kwargs["headers"])
            body = kwargs.get("json")
            content = kwargs.get("data") if body is None else body
            return self._begin(method, parts.hostname or "", parts.port, f"{parts.path}?{parts.query}", lambda: content)
        return None

    # --- urllib3: requests, botocore ----------------------------------------------------------------------

    def _urlopen(self, original: Any) -> Any:
        def urlopen(pool: Any, method: str, url: str, body: Any = None, *args: Any, **kwargs: Any) -> Any:
            call, host, port = None, "", None
            with quietly("beginning a call"):
                host, port, parts = pool.host, pool.port, urlsplit(url)
                if parts.hostname is not None:  # through a proxy, whose pool this is
                    host, port = parts.hostname, parts.port
                note_network(host)
                if self._observe:
                    call = self._begin(method, host, port, parts.path, lambda: body)
            if call is None:
                return original(pool, method, url, body, *args, **kwargs)
            with quietly("keeping baggage at home"):  # an instrumentation of requests has put it there before
                if args:
                    args = (without_attribution(args[0]), *args[1:])
                else:
                    kwargs["headers"] = without_attribution(kwargs.get("headers") or getattr(pool, "headers", None))
            with _Sending(call):
                response = original(pool, method, url, body, *args, **kwargs)
                self._read_urllib3(call, response, f"{pool.scheme}://{host}:{port or ''}{url}")
            return response

        return urlopen

    # --- answers ------------------------------------------------------------------------------------------

    def _read_httpx(self, call: Call, response: Any) -> None:
        with _Attaching(call):
            if (
                self._fails_by_status(call, response.status_code, response.headers, getattr(response, "url", ""))
                or followed(response) is not None
            ):
                return
            kind = _read_head(call, response.headers.multi_items())
            call.is_stored = call.is_stored or is_from_cache(response)
            call.is_local = not reached_network(response)
            if hasattr(response, "_content"):  # of a transport that has read it
                response._spanledger = Followed(call, whole=True)
                read_whole(response.content, call, _tap(call, kind))
            else:
                follow(response, call, _tap(call, kind))

    def _read_urllib3(self, call: Call, response: Any, url: str) -> None:
        with _Attaching(call):
            if self._fails_by_status(call, response.status, response.headers, url):
                return
            tap = _tap(call, _read_head(call, response.headers.items()))
            body = getattr(response, "_body", None)
            if isinstance(body, bytes) and body:  # preloaded
                read_whole(body, call, tap)
                return
            reading = response._spanledger_reading = _Reading(call, tap)
            response.__class__ = _observed_urllib3(cast("Any", type(response)))
            finalizers.start_worker()
            weakref.finalize(response, reading.end, complete=False)

    def _read_aiohttp(self, call: Call, response: Any, *, is_decoded: bool) -> None:
        with _Attaching(call):
            if self._fails_by_status(call, response.status, response.headers, getattr(response, "url", "")):
                return
            tap = _tap(call, _read_head(call, response.headers.items()))
            reading, content = _Reading(call, tap), response.content
            if not is_decoded:
                reading.encoded(response.headers.get("content-encoding", ""))
            for chunk in list(getattr(content, "_buffer", ())):
                reading.feed(bytes(chunk))
            if content.is_eof():
                reading.end(complete=True)
                return
            _readings[id(content)] = reading
            content.__class__ = _observed_reader(cast("Any", type(content)))
            finalizers.start_worker()
            weakref.finalize(response, finalizers.run_outside_gc, partial(_forget, id(content), reading))


class _Sending(Sending):
    """A request of a client that may raise for its answer's status by itself."""

    __slots__ = ()

    def status(self, error: BaseException) -> int | None:
        """Of aiohttp's ClientResponseError, or of httpx's HTTPStatusError that an event hook has raised."""
        with suppress(Exception):
            status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
            return status if isinstance(status, int) and status >= 300 else None
        return None


def _noting_network(original: Any) -> Any:
    def handle(transport: Any, *args: Any, **kwargs: Any) -> Any:
        with quietly("noting a request"):
            note_network(_host(args[0]) if args else getattr(transport, "host", ""))
        return original(transport, *args, **kwargs)

    return handle


def _host(request: Any) -> str:
    """Of a request of httpx or httpcore; of http.client's body, ""."""
    host = getattr(getattr(request, "url", None), "host", "")
    return host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)


# --- answers ---------------------------------------------------------------------------------------------------

COUNT: Final = re.compile(r"[0-9]{1,10}")


def _tap(call: Call, content_type: str) -> BodyTap:
    """Who reads a body of that type."""
    if call.request.is_json_lines:
        return JsonLinesBody(call)
    if "event-stream" in content_type and "amazon" not in content_type:
        return SseTap(call.feed, scan=True, hide=False, on_first=call.note_first_chunk)
    if "amazon.eventstream" in content_type:
        return EventStreamTap(call)
    if "ndjson" in content_type or "stream+json" in content_type or "jsonl" in content_type:
        return LineTap(call)
    return DocumentBody(call)


class _Attaching(quietly):
    """Read the head of an answer; where that fails, the call ends as one of which nothing was read."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        super().__init__("reading a response")
        self._call = call

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None:
            self._call.finish()
        return super().__exit__(kind, error, trace)


def _read_head(call: Call, headers: Any) -> str:
    """Read the headers of an answer; returns its content type."""
    pairs = [(name.lower(), value) for name, value in headers]
    facts = read_headers((name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in pairs)
    call.project, call.answer_id, call.is_stored, call.gateway_cost, call.is_gateways = facts
    metrics = {bedrock.HEADERS[name]: int(v) for name, v in pairs if name in bedrock.HEADERS and COUNT.fullmatch(v)}
    if metrics:
        call.state({"headers": metrics})
    return next((value.lower() for name, value in pairs if name == "content-type"), "")


class _Reading:
    """A body that is being read piece by piece."""

    __slots__ = ("_call", "_is_over", "_tap", "depth")

    def __init__(self, call: Call, tap: BodyTap) -> None:
        self._call = call
        self._tap = tap
        self._is_over = False
        self.depth = 0
        """How many of the library's reading functions are on the stack: each may use another."""

    def feed(self, data: bytes) -> None:
        with quietly("reading a stream"):
            self._tap.feed(data)

    def read(self, read: Callable[[], bytes], *, whole: bool) -> bytes:
        """Read by a function of the library; `whole`: all that is left."""
        self.depth += 1
        try:
            data = read()
        finally:
            self.depth -= 1
        if not self.depth:
            if data:
                self.feed(bytes(data))
            if whole:
                self.end(complete=True)
        return data

    def encoded(self, encoding: str) -> None:
        """What comes is as the server has sent it."""
        decoder = content_decoder(encoding)
        if decoder is not None and not isinstance(self._tap, EncodedTap):
            self._tap = EncodedTap(self._tap, *decoder)

    def stream(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        complete = False
        try:
            while True:
                self.depth += 1
                try:
                    chunk = next(chunks)
                except StopIteration:
                    complete = True
                    return
                finally:
                    self.depth -= 1
                if not self.depth:
                    self.feed(chunk)
                yield chunk
        finally:
            if not self.depth:
                self.end(complete=complete)

    def end(self, *, complete: bool) -> None:
        finalizers.run_outside_gc(partial(self._end, complete=complete))

    def _end(self, *, complete: bool) -> None:
        if self._is_over:
            return
        self._is_over = True
        with quietly("ending a stream"):
            self._tap.remainder()
            self._tap.end(complete=complete)
        self._call.finish()

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def _read_piece(
    response: Any,
    read: Callable[[], bytes],
    amt: int | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    whole: bool,
) -> bytes:
    """Read by a function of urllib3's response, and end the call if that was the end of the body."""
    reading: _Reading = response._spanledger_reading
    _note_encoding(response, args, kwargs)
    data = reading.read(read, whole=whole)
    if not whole and not reading.depth and amt != 0:
        is_all = response.length_remaining == 0 and not response.headers.get("content-encoding")
        if is_all or not data:
            reading.end(complete=True)
    return data


def _note_encoding(response: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Note where the caller reads encoded bytes; `args`, `kwargs`: what follows the size in a function of urllib3's."""
    reading: _Reading = response._spanledger_reading
    if not reading.depth:
        with quietly("reading a response"):
            decode = kwargs.get("decode_content", args[0] if args else None)
            if not (response.decode_content if decode is None else decode):
                reading.encoded(response.headers.get("content-encoding", ""))


@lru_cache(maxsize=8)
def _observed_urllib3(cls: Any) -> Any:
    """A subclass of urllib3's response that reports what is read of it."""

    class ObservedHTTPResponse(cls):
        def read(self, amt: int | None = None, *args: Any, **kwargs: Any) -> bytes:
            parent: Any = super()
            all_of_it = amt is None or amt < 0
            return _read_piece(self, partial(parent.read, amt, *args, **kwargs), amt, args, kwargs, whole=all_of_it)

        def read1(self, amt: int | None = None, *args: Any, **kwargs: Any) -> bytes:
            parent: Any = super()
            return _read_piece(self, partial(parent.read1, amt, *args, **kwargs), amt, args, kwargs, whole=False)

        def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
            parent: Any = super()
            _note_encoding(self, args[1:], kwargs)
            return self._spanledger_reading.stream(parent.stream(*args, **kwargs))

        def read_chunked(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
            parent: Any = super()
            _note_encoding(self, args[1:], kwargs)
            return self._spanledger_reading.stream(parent.read_chunked(*args, **kwargs))

        def close(self) -> None:
            parent: Any = super()
            try:
                parent.close()
            finally:
                if not self._spanledger_reading.depth:
                    self._spanledger_reading.end(complete=False)

    if not hasattr(cls, "read1"):  # of urllib3 1.26
        del ObservedHTTPResponse.read1
    ObservedHTTPResponse.__name__, ObservedHTTPResponse.__qualname__ = cls.__name__, cls.__qualname__
    ObservedHTTPResponse.__module__ = cls.__module__
    return ObservedHTTPResponse


# --- aiohttp: what its parser hands to the body's reader -----------------------------------------------------------

_readings: Final = dict[int, _Reading]()
"""id of a StreamReader -> its reading; the class has slots, so it can hold nothing more itself."""


def _forget(identity: int, expected: _Reading | None = None, *, complete: bool = False) -> None:
    """End the reading of a StreamReader; of the expected one, where the id may be another's by now."""
    reading = _readings.get(identity)
    if reading is not None and expected in (None, reading):
        del _readings[identity]
        reading.end(complete=complete)


@lru_cache(maxsize=8)
def _observed_reader(cls: Any) -> Any:
    """A subclass of aiohttp's StreamReader that reports what arrives."""

    class ObservedStreamReader(cls):
        __slots__ = ()

        def feed_data(self, data: bytes, *args: Any) -> Any:
            reading = _readings.get(id(self))
            if reading is not None:
                reading.feed(bytes(data))
            parent: Any = super()
            return parent.feed_data(data, *args)

        def feed_eof(self) -> None:
            _forget(id(self), complete=True)
            parent: Any = super()
            parent.feed_eof()

        def set_exception(self, *args: Any, **kwargs: Any) -> None:
            _forget(id(self))
            parent: Any = super()
            parent.set_exception(*args, **kwargs)

    ObservedStreamReader.__name__, ObservedStreamReader.__qualname__ = cls.__name__, cls.__qualname__
    ObservedStreamReader.__module__ = cls.__module__
    return ObservedStreamReader
