"""Patches google-genai: one call per successful HTTP response, whatever method caused it.

Patched: `BaseApiClient._request[_once]` and their asynchronous twins (one call per attempt inside the
SDK's retry loop; the `_once` pair exists from 1.40 on), `HttpResponse.segments` / `async_segments`
(every raw chunk of a stream), and the streaming methods of `Models` and `Chat`, which send nothing
before their first `next()`: there only the caller's context is kept for that moment. Automatic
function calling and continuation send further requests, each of which is a call of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator
from contextvars import ContextVar
from functools import lru_cache
from types import ModuleType, TracebackType
from typing import Any, Final, cast
from urllib.parse import urlsplit

import wrapt
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Tracer

from spanledger.capture import admission
from spanledger.capture.call import Call, Sending
from spanledger.capture.result_files import ResultFile
from spanledger.capture.stream_limit import LimitedAsync, limited
from spanledger.context.llm_call import outbound, reached_network
from spanledger.context.open_scopes import kept
from spanledger.hooks.patching import Hooks, Patches
from spanledger.providers import Provider
from spanledger.runtime import finalizers
from spanledger.runtime.guard import quietly
from spanledger.runtime.untrusted_json import mapping, parse_json
from spanledger.semconv import provider_hosts

HOOKS: Final[Hooks] = {
    "BaseApiClient": {"_request": ("http_request", "stream"), "_async_request": ("http_request", "stream")},
    "HttpResponse": {"segments": (), "async_segments": ()},
}
STREAMS: Final = {
    "google.genai.models": {"Models": "generate_content_stream", "AsyncModels": "generate_content_stream"},
    "google.genai.chats": {"Chat": "send_message_stream", "AsyncChat": "send_message_stream"},
}
"""Module -> class -> the method whose iterator sends the request."""

OWN_REQUESTS: Final = (
    *("_upload_fd", "_async_upload_fd", "download_file", "async_download_file"),
    *("_access_token", "_async_access_token"),
)
"""Methods of the client that send requests of their own, past `_request` (google-genai 3.6)."""
TOKEN_FUNCTIONS: Final = ("get_token_from_credentials", "async_get_token_from_credentials")
"""Functions of its module that do: `files.register_files` asks for a token of credentials that it is given."""

_caller_context: ContextVar[Context | None] = ContextVar("spanledger_origin", default=None)
"""The context in which the stream now being advanced was asked for."""


class InFlightCall:
    """A call whose request is being sent, and the attempt that failed last."""

    __slots__ = ("call", "failed")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.failed: tuple[int | None, BaseException] | None = None


_in_flight: ContextVar[InFlightCall | None] = ContextVar("spanledger_sent", default=None)


ObjectProxy: Any = wrapt.ObjectProxy


@lru_cache(maxsize=256)
def _server(origin: str) -> tuple[str, int | None]:
    parts = urlsplit(origin)
    return parts.hostname or "", parts.port


class GooglePatches(Patches):
    """Patches `google.genai`."""

    def __init__(self, provider: Provider, tracer: Callable[[], Tracer]) -> None:
        super().__init__()
        self._provider = provider
        self._tracer = tracer

    def install(self, api_client: ModuleType) -> None:
        client, response = api_client.BaseApiClient, api_client.HttpResponse
        self.patch(client, "_request", self._request)
        self.patch(client, "_async_request", self._request_async)
        if hasattr(client, "_request_once"):
            self.patch(client, "_request_once", self._request_once)
            self.patch(client, "_async_request_once", self._request_once_async)
        for owner, names in ((client, OWN_REQUESTS), (api_client, TOKEN_FUNCTIONS)):
            for name in names:
                if name in owner.__dict__:
                    self.patch(owner, name, _outbound)
        self.patch(response, "segments", self._segments)
        self.patch(response, "async_segments", self._async_segments)

    def keep_caller_context(self, module: ModuleType) -> None:
        for owner, method in STREAMS[module.__name__].items():
            cls = getattr(module, owner, None)
            if cls is not None and method in cls.__dict__:
                make = self._stream_async if owner.startswith("Async") else self._stream
                self.patch(cls, method, make)

    # --- one logical request: attempts, then one response or none ------------------------------------

    def _begin(self, client: Any, http_request: Any) -> InFlightCall | None:
        with quietly("beginning a call"):
            url = str(http_request.url)
            request = self._provider.request(http_request.method, url, http_request.data)
            if request is None:
                return None
            server = _server(url[: url.find("/", 8)])
            default = "gcp.vertex_ai" if getattr(client, "vertexai", False) else self._provider.NAME
            name = provider_hosts.provider_for_host(*server) or default
            context = _caller_context.get() or otel_context.get_current()
            call = Call(self._tracer(), self._provider, request, name, server, context)
            _, vertex, path = url.partition("/projects/")
            call.project = path.partition("/")[0] if vertex else None
            return InFlightCall(call)
        return None

    def _request(self, original: Any) -> Any:
        def request(client: Any, http_request: Any, *args: Any, **kwargs: Any) -> Any:
            sent = self._begin(client, http_request)
            if sent is None:
                with outbound():
                    return original(client, http_request, *args, **kwargs)
            _admit(sent.call, http_request)
            with GoogleSending(sent):
                response = original(client, http_request, *args, **kwargs)
                sent.call.is_local = not reached_network()
            _read_response(sent.call, response)
            return response

        return request

    def _request_async(self, original: Any) -> Any:
        async def request(client: Any, http_request: Any, *args: Any, **kwargs: Any) -> Any:
            sent = self._begin(client, http_request)
            if sent is None:
                with outbound():
                    return await original(client, http_request, *args, **kwargs)
            _admit(sent.call, http_request)
            with GoogleSending(sent):
                response = await original(client, http_request, *args, **kwargs)
                sent.call.is_local = not reached_network()
            _read_response(sent.call, response)
            return response

        return request

    def _request_once(self, original: Any) -> Any:
        def request_once(client: Any, *args: Any, **kwargs: Any) -> Any:
            with _Attempt(_in_flight.get()):
                return original(client, *args, **kwargs)

        return request_once

    def _request_once_async(self, original: Any) -> Any:
        async def request_once(client: Any, *args: Any, **kwargs: Any) -> Any:
            with _Attempt(_in_flight.get()):
                return await original(client, *args, **kwargs)

        return request_once

    # --- streams -----------------------------------------------------------------------------------------

    def _segments(self, original: Any) -> Any:
        def segments(response: Any) -> Any:
            call = getattr(response, "_spanledger", None)
            if call is None:
                return original(response)
            observed = _observed_segments(original(response), call)
            return observed if call.limit is None else limited(observed, call.limit, response.response_stream)

        return segments

    def _async_segments(self, original: Any) -> Any:
        def async_segments(response: Any) -> Any:
            call = getattr(response, "_spanledger", None)
            if call is None:
                return original(response)
            observed = _AsyncSegments(original(response), call)
            return observed if call.limit is None else LimitedAsync(observed, call.limit, response.response_stream)

        return async_segments

    def _stream(self, original: Any) -> Any:
        def stream(*args: Any, **kwargs: Any) -> Any:
            return _ContextBoundStream(original(*args, **kwargs))

        return stream

    def _stream_async(self, original: Any) -> Any:
        async def stream(*args: Any, **kwargs: Any) -> Any:
            return _AsyncContextBoundStream(await original(*args, **kwargs))

        return stream


def _outbound(original: Any) -> Any:
    """Keep baggage out of what a method sends; the net below reads what it answers (a batch's results)."""

    async def request(*args: Any, **kwargs: Any) -> Any:
        with outbound(claims=False):
            return await original(*args, **kwargs)

    return request if inspect.iscoroutinefunction(original) else outbound(claims=False)(original)


def _admit(call: Call, http_request: Any) -> None:
    """Run admission control for a request, which may replace its model. Raises BudgetExceeded."""

    if admission.enforcing_limiter() is None:
        return
    before, separator, after = str(http_request.url).rpartition(f"/{call.request.model}:")

    def replace_model(model: str) -> None:
        http_request.url = f"{before}/{model}:{after}"

    fixed = not separator or "cachedContent" in mapping(http_request.data)  # a cache is of one model
    admission.admit(call, http_request.data, None if fixed else replace_model)


class GoogleSending(Sending):
    """The call is visible to the hooks of its attempts, too, while the SDK sends."""

    __slots__ = ("_sent", "_token")

    def __init__(self, sent: InFlightCall) -> None:
        super().__init__(sent.call)
        self._sent = sent

    def __enter__(self) -> None:
        self._token = _in_flight.set(self._sent)
        super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        _in_flight.reset(self._token)

    def status(self, error: BaseException) -> int | None:
        return _status(error)


class _Attempt:
    """One HTTP attempt; a failed attempt is reported to the call when the next one begins."""

    __slots__ = ("_sent",)

    def __init__(self, sent: InFlightCall | None) -> None:
        self._sent = sent

    def __enter__(self) -> None:
        sent = self._sent
        if sent is not None:
            if sent.failed is not None:
                sent.call.record_retry(*sent.failed)
                sent.failed = None
            sent.call.start_attempt()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sent is not None and error is not None:
            self._sent.failed = _status(error), error


def _status(error: BaseException) -> int | None:
    code = getattr(error, "code", None)
    return code if isinstance(code, int) else None


def _read_response(call: Call, response: Any) -> None:
    with quietly("reading a response"):
        stream: Any = response.response_stream
        if isinstance(stream, list):
            body: Any = cast("list[Any]", stream)[:1]
            if body and body[0]:
                _read(body[0], call)
            call.finish()
        else:
            finalizers.start_worker()
            response._spanledger = call
            if call.limit is not None:
                if isinstance(getattr(stream, "extensions", None), dict):  # httpx
                    stream.__class__ = _releasing_class(cast("Any", type(stream)))
                    stream._spanledger_limit = call.limit
                call.limit.attach(stream)


@lru_cache(maxsize=16)
def _releasing_class(cls: Any) -> Any:
    """A subclass of a response that says that its connection is about to serve others."""

    class ReleasingResponse(cls):
        def close(self) -> None:
            self._spanledger_limit.release()
            parent: Any = super()
            parent.close()

        async def aclose(self) -> None:
            self._spanledger_limit.release()
            parent: Any = super()
            await parent.aclose()

    ReleasingResponse.__name__, ReleasingResponse.__qualname__, ReleasingResponse.__module__ = (
        cls.__name__,
        cls.__qualname__,
        cls.__module__,
    )
    return ReleasingResponse


def _read(body: str | bytes, call: Call) -> None:
    if call.request.is_json_lines:
        file = ResultFile(call)
        file.feed(body.encode() if isinstance(body, str) else body)
        file.end(complete=True)
    else:
        call.body(parse_json(body))


def _observed_segments(segments: Iterator[Any], call: Call) -> Generator[Any, None, None]:
    try:
        for chunk in segments:
            with quietly("reading an event"):
                call.feed(chunk)
            yield chunk
    finally:
        finalizers.run_outside_gc(call.finish)


class _AsyncSegments:
    """The chunks of an asynchronous stream, reported to the call (an iterator, to avoid one more generator)."""

    def __init__(self, segments: Any, call: Call) -> None:
        self._segments = segments
        self._call = call

    def __aiter__(self) -> _AsyncSegments:
        return self

    async def __anext__(self) -> Any:
        try:
            chunk = await self._segments.__anext__()
        except BaseException:
            self._call.finish()
            raise
        with quietly("reading an event"):
            self._call.feed(chunk)
        return chunk

    async def aclose(self) -> None:
        self._call.finish()
        await self._segments.aclose()

    def __del__(self) -> None:
        finalizers.run_outside_gc(self._call.finish)


class _ContextBoundStream(ObjectProxy):
    """A stream that sends its request in the context it was created in, not the one it is read in."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)  # pyright: ignore[reportUnknownMemberType]
        self._self_context = kept()

    def __iter__(self) -> _ContextBoundStream:
        return self

    def __next__(self) -> Any:
        token = _caller_context.set(self._self_context)
        try:
            return self.__wrapped__.__next__()
        finally:
            _caller_context.reset(token)


class _AsyncContextBoundStream(ObjectProxy):
    """The asynchronous twin of `_ContextBoundStream`."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)  # pyright: ignore[reportUnknownMemberType]
        self._self_context = kept()

    def __aiter__(self) -> _AsyncContextBoundStream:
        return self

    async def __anext__(self) -> Any:
        token = _caller_context.set(self._self_context)
        try:
            return await self.__wrapped__.__anext__()
        finally:
            _caller_context.reset(token)
