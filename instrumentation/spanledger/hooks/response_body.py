"""Observes the body of an HTTP response (httpx or httpx2): its bytes in passing, and the moment it ends.

A followed response gets a subclass of its own class: hooks on the instance would form a reference cycle
with it, and a dropped stream would no longer be freed, and closed, at once. A stream may end by
exhaustion, by `close()` after its last event (openai closes at `[DONE]` without reading on), by an
exception, or by being dropped: each of them ends the call, once. All of it may happen in a finalizer (an SDK's generator
closes its response when the collector finds it), where no lock may be taken: finalizers.py.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache, partial
from typing import Any, Final, Protocol, cast

from spanledger.capture.call import Call
from spanledger.hooks.sse import SseTap
from spanledger.runtime import finalizers
from spanledger.runtime.guard import quietly
from spanledger.runtime.untrusted_json import parse_json

MAX_JSON: Final = 8 << 20
"""A JSON answer larger than this is not read for its usage."""


class _BodyTap(Protocol):
    """Observer of a response body; see `sse.py`."""

    def feed(self, chunk: bytes) -> bytes: ...
    def remainder(self) -> bytes: ...
    def end(self) -> None: ...


def observe(response: Any, call: Call, *, sse: bool, scan: bool) -> None:
    """Finish `call` when the body of `response` is over.

    Args:
        response: a successful response whose body is not in memory, or a stream.
        call: what it answers.
        sse: whether the body is a stream of events; otherwise it is one document that the caller reads.
        scan: whether usage must be read from the bytes, because the SDK may not parse the events.
    """
    whole = _JsonLinesBody(call) if call.request.is_json_lines else None if sse else _DocumentBody(call)
    tap: _BodyTap | None = whole
    if whole is None and (scan or call.hides_usage):
        tap = SseTap(call.feed, scan=scan, hide=call.hides_usage)
    response._spanledger_closed = call.finish if whole is None else whole.on_close
    response._spanledger_tap = tap
    response.__class__ = _observed_class(cast("Any", type(response)))
    finalizers.start_worker()
    weakref.finalize(response, finalizers.run_outside_gc, call.finish)


@lru_cache(maxsize=16)
def _observed_class(cls: Any) -> Any:
    """A subclass of `cls` that differs only in reporting its body to the call."""

    class ObservedResponse(cls):
        def close(self) -> None:
            parent: Any = super()
            try:
                parent.close()
            finally:
                finalizers.run_outside_gc(self._spanledger_closed)

        async def aclose(self) -> None:
            parent: Any = super()
            try:
                await parent.aclose()
            finally:
                finalizers.run_outside_gc(self._spanledger_closed)

        def iter_bytes(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
            parent: Any = super()
            inner: Iterator[bytes] = parent.iter_bytes(*args, **kwargs)
            return inner if self._spanledger_tap is None else _observed_bytes(inner, self._spanledger_tap)

        def aiter_bytes(self, *args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
            parent: Any = super()
            inner: AsyncIterator[bytes] = parent.aiter_bytes(*args, **kwargs)
            return inner if self._spanledger_tap is None else _AsyncBytes(inner, self._spanledger_tap)

    ObservedResponse.__name__, ObservedResponse.__qualname__, ObservedResponse.__module__ = (
        cls.__name__,
        cls.__qualname__,
        cls.__module__,
    )
    return ObservedResponse


class _DocumentBody:
    """An unstreamed answer that the caller reads by itself (`with_streaming_response`).

    Its response is closed by its own exhaustion, before the last decoded bytes have come: so a close
    while the body is being read does not end the call, the end of the reading does.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._chunks: list[bytes] = []
        self._size = 0
        self._reading = False

    def feed(self, chunk: bytes) -> bytes:
        self._reading = True
        self._size += len(chunk)
        if self._size <= MAX_JSON:
            self._chunks.append(chunk)
        return chunk

    def remainder(self) -> bytes:
        return b""

    def end(self) -> None:
        self._reading = False
        if self._size <= MAX_JSON and self._chunks:
            self._call.body(parse_json(b"".join(self._chunks)))
        self._call.finish()

    def on_close(self) -> None:
        if not self._reading:
            self._call.finish()


class _JsonLinesBody(_DocumentBody):
    """An answer in JSON lines, each of which may be billed; only the unfinished line is kept."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._tail = b""

    def feed(self, chunk: bytes) -> bytes:
        self._reading = True
        *lines, tail = (self._tail + chunk).split(b"\n")
        self._tail = tail if len(tail) <= MAX_JSON else b""
        for line in lines:
            self._call.line(parse_json(line))
        return chunk

    def end(self) -> None:
        self._reading = False
        self._call.line(parse_json(self._tail))
        self._tail = b""
        self._call.finish()


def _observed_bytes(inner: Iterator[bytes], tap: _BodyTap) -> Iterator[bytes]:
    """`iter_bytes` through a tap, however it is consumed (events, lines, text)."""
    try:
        for chunk in inner:
            passed = _fed(tap, chunk)
            if passed:
                yield passed
        rest = _remainder(tap)
        if rest:
            yield rest
    finally:
        finalizers.run_outside_gc(partial(_end, tap))


class _AsyncBytes:
    """`aiter_bytes` through a tap. No generator: one more asynchronous generator in the chain would make
    `loop.shutdown_asyncgens()` complain about streams left open."""

    def __init__(self, inner: AsyncIterator[bytes], tap: _BodyTap) -> None:
        self._inner = inner
        self._tap = tap

    def __aiter__(self) -> _AsyncBytes:
        return self

    async def __anext__(self) -> bytes:
        while True:
            try:
                chunk = await self._inner.__anext__()
            except StopAsyncIteration:
                rest = _remainder(self._tap)
                if rest:
                    return rest
                _end(self._tap)
                raise
            except BaseException:
                _end(self._tap)
                raise
            passed = _fed(self._tap, chunk)
            if passed:
                return passed

    async def aclose(self) -> None:
        _end(self._tap)
        close = getattr(self._inner, "aclose", None)
        if close is not None:
            await close()


def _fed(tap: _BodyTap, chunk: bytes) -> bytes:
    with quietly("reading a stream"):
        return tap.feed(chunk)
    return chunk


def _remainder(tap: _BodyTap) -> bytes:
    with quietly("reading a stream's end"):
        return tap.remainder()
    return b""


def _end(tap: _BodyTap) -> None:
    with quietly("ending a stream"):
        tap.end()
