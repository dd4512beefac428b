"""Observes the body of an HTTP response (httpx or httpx2): its bytes in passing, and the moment it ends.

A followed response gets a subclass of its own class: hooks on the instance would form a reference cycle
with it, and a dropped stream would no longer be freed, and closed, at once. A stream may end by
exhaustion, by `close()` after its last event (openai closes at `[DONE]` without reading on), by an
exception, or by being dropped: each of them ends the call, once. All of it may happen in a finalizer (an SDK's generator
closes its response when the collector finds it), where no lock may be taken: finalizers.py.
"""

from __future__ import annotations

import copyreg
import re
import weakref
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache, partial
from typing import Any, Final, Protocol, cast

from spanledger.capture.call import Call
from spanledger.capture.result_files import ResultFile
from spanledger.capture.stream_limit import LimitedAsync, limited
from spanledger.hooks.sse import SseTap
from spanledger.runtime import finalizers
from spanledger.runtime.guard import quietly
from spanledger.runtime.untrusted_json import parse_json

MAX_JSON: Final = 64 << 20
"""A JSON answer larger than this is not read for its usage; one with ten images has forty megabytes."""


EVENTS: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:data|event|id|retry)?:")
"""The beginning of server-sent events."""


class BodyTap(Protocol):
    """Observer of a response body; see `sse.py`."""

    @property
    def hides(self) -> bool: ...
    def feed(self, chunk: bytes) -> bytes: ...
    def remainder(self) -> bytes: ...
    def end(self, *, complete: bool) -> None:
        """Nothing more comes; `complete`: because the body is over."""
        ...


class Followed:
    """What is known of a response, kept on it as `_spanledger`. A pickled or copied response has None in its place."""

    __slots__ = ("call", "is_advancing", "is_closed", "is_decoded", "on_close", "tap", "whole")

    def __init__(self, call: Call, *, whole: bool) -> None:
        self.call = call
        self.is_advancing = False
        """Whether the next bytes are being read at this moment: httpx closes an exhausted response before it hands out the last."""
        self.is_closed = False
        self.whole = whole
        """Whether the body is in memory."""
        self.tap: BodyTap | None = None
        self.on_close: Callable[[], object] = call.finish
        """What ends the call once the response is closed and nothing more of it comes."""
        self.is_decoded = False
        """Whether the body is read through its content encoding: then the raw bytes are not the caller's."""

    def before_close(self) -> None:
        """The response is about to be closed: its connection serves others then."""
        if self.call.limit is not None:
            self.call.limit.release()

    def close(self) -> None:
        """The response is closed."""
        self.is_closed = True
        if not self.is_advancing:
            finalizers.run_outside_gc(self.on_close)

    def end(self, *, complete: bool) -> None:
        """Its reader has had all of it, or reads no more."""
        if self.tap is not None:
            finalizers.run_outside_gc(partial(_end, self.tap, complete=complete))
        if self.is_closed:
            finalizers.run_outside_gc(self.on_close)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def followed(response: Any) -> Followed | None:
    """What is known of a response, if a call of ours has it."""
    return getattr(response, "_spanledger", None)


def observe(response: Any, call: Call, *, sse: bool, scan: bool) -> None:
    """Finish `call` when the body of `response` is over.

    Args:
        response: a successful response whose body is not in memory, or a stream.
        call: what it answers.
        sse: whether the body is a stream of events; otherwise it is one document that the caller reads.
        scan: whether usage must be read from the bytes, because the SDK may not parse the events.
    """
    tap: BodyTap | None = None
    if call.request.is_json_lines:
        tap = JsonLinesBody(call)
    elif not sse:
        tap = DocumentBody(call)
    elif scan or call.hides_usage:
        tap = SseTap(
            call.read,
            scan=scan,
            hide=call.hides_usage,
            on_first=call.note_first_chunk,
            every=call.limit is not None,
        )
    follow(response, call, tap)


def follow(response: Any, call: Call, tap: BodyTap | None) -> None:
    """Finish `call` when the body of `response` is over; `tap` sees its bytes."""
    state = response._spanledger = Followed(call, whole=False)
    state.tap = tap
    if isinstance(tap, DocumentBody):
        state.on_close = tap.on_close
    elif tap is not None and not tap.hides:
        state.on_close = partial(_finish_after, tap, call)
    response.__class__ = _observed_class(cast("Any", type(response)))
    if call.limit is not None:
        call.limit.attach(response)
    finalizers.start_worker()
    weakref.finalize(response, finalizers.run_outside_gc, call.finish)


def read_whole(body: bytes, call: Call, tap: BodyTap) -> None:
    """Read a body that is in memory, and finish the call."""
    tap.feed(body)
    tap.remainder()
    tap.end(complete=True)
    call.finish()


@lru_cache(maxsize=16)
def _observed_class(cls: Any) -> Any:
    """A subclass of `cls` that differs only in reporting its body to the call."""

    class ObservedResponse(cls):
        def __reduce_ex__(self, protocol: Any) -> Any:
            parent: Any = super()
            _, _, *state = parent.__reduce_ex__(max(protocol, 2))
            return copyreg._reconstructor, (cls, object, None), *state  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownMemberType]

        def close(self) -> None:
            parent: Any = super()
            self._spanledger.before_close()
            try:
                parent.close()
            finally:
                self._spanledger.close()

        async def aclose(self) -> None:
            parent: Any = super()
            self._spanledger.before_close()
            try:
                await parent.aclose()
            finally:
                self._spanledger.close()

        def iter_bytes(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
            parent: Any = super()
            self._spanledger.is_decoded = True
            inner: Iterator[bytes] = parent.iter_bytes(*args, **kwargs)
            tap = self._spanledger.tap
            return _within_limit(inner if tap is None else _observed_bytes(inner, tap, self._spanledger), self)

        def aiter_bytes(self, *args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
            parent: Any = super()
            self._spanledger.is_decoded = True
            inner: AsyncIterator[bytes] = parent.aiter_bytes(*args, **kwargs)
            tap = self._spanledger.tap
            return _within_limit_async(inner if tap is None else _AsyncBytes(inner, tap, self._spanledger), self)

        def iter_raw(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
            parent: Any = super()
            inner: Iterator[bytes] = parent.iter_raw(*args, **kwargs)
            if self._spanledger.is_decoded:
                return inner
            tap = _raw_tap(self)
            return _within_limit(inner if tap is None else _observed_bytes(inner, tap, self._spanledger), self)

        def aiter_raw(self, *args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
            parent: Any = super()
            inner: AsyncIterator[bytes] = parent.aiter_raw(*args, **kwargs)
            if self._spanledger.is_decoded:
                return inner
            tap = _raw_tap(self)
            return _within_limit_async(inner if tap is None else _AsyncBytes(inner, tap, self._spanledger), self)

    ObservedResponse.__name__, ObservedResponse.__qualname__, ObservedResponse.__module__ = (
        cls.__name__,
        cls.__qualname__,
        cls.__module__,
    )
    return ObservedResponse


def _within_limit(stream: Iterator[bytes], response: Any) -> Iterator[bytes]:
    limit = response._spanledger.call.limit
    return stream if limit is None else limited(stream, limit, response)


def _within_limit_async(stream: AsyncIterator[bytes], response: Any) -> AsyncIterator[bytes]:
    limit = response._spanledger.call.limit
    return stream if limit is None else LimitedAsync(stream, limit, response)


def _raw_tap(response: Any) -> BodyTap | None:
    """Observer of a body whose bytes the caller reads as they came; None where nothing is to be read from them."""
    state: Followed = response._spanledger
    if state.tap is None:
        return None
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return state.tap
    if state.tap.hides and encoding in ("gzip", "x-gzip"):
        return _GzipTap(state.tap)
    _begin_reading(state.tap)
    decoder = response._get_content_decoder()
    return EncodedTap(state.tap, decoder.decode, decoder.flush)


class EncodedTap:
    """Reads a copy of the body, decoded; the caller's bytes stay as they are."""

    hides = False

    def __init__(self, tap: BodyTap, decode: Callable[[bytes], bytes], flush: Callable[[], bytes]) -> None:
        self._tap = tap
        self._decode = decode
        self._flush = flush
        self.end = tap.end

    def feed(self, chunk: bytes) -> bytes:
        with quietly("decoding a response"):
            self._tap.feed(self._decode(chunk))
        return chunk

    def remainder(self) -> bytes:
        with quietly("decoding a response"):
            self._tap.feed(self._flush())
            self._tap.remainder()
        return b""


def content_decoder(encoding: str) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]] | None:
    """(decode, flush) of a content encoding that needs no library; None for none, and for any other."""
    windows = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
    bits = windows.get(encoding.strip().lower())
    if bits is None:
        return None
    decoder = zlib.decompressobj(bits)
    return decoder.decompress, decoder.flush


class _GzipTap:
    """Takes out of a gzip body what its caller did not ask for, and compresses the rest again."""

    hides = True

    def __init__(self, tap: BodyTap) -> None:
        self._tap = tap
        self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._encoder = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
        self._is_over = False
        self.end = tap.end

    def feed(self, chunk: bytes) -> bytes:
        passed = self._tap.feed(self._decoder.decompress(chunk))
        return self._encoder.compress(passed) + self._encoder.flush(zlib.Z_SYNC_FLUSH) if passed else b""

    def remainder(self) -> bytes:
        if self._is_over:
            return b""
        self._is_over = True
        rest = self._tap.feed(self._decoder.flush()) + self._tap.remainder()
        return self._encoder.compress(rest) + self._encoder.flush()


class DocumentBody:
    """An unstreamed answer that the caller reads by itself (`with_streaming_response`).

    Its response is closed by its own exhaustion, before the last decoded bytes have come: so a close
    while the body is being read does not end the call, the end of the reading does.
    """

    hides = False

    def __init__(self, call: Call) -> None:
        self._call = call
        self._chunks: list[bytes] = []
        self._size = 0
        self._reading = False
        self._is_over = False

    def begin(self) -> None:
        """The caller begins to read: the response may be closed before a first chunk is full."""
        if not self._is_over:
            self._reading = True

    def feed(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        if self._size <= MAX_JSON:
            self._chunks.append(chunk)
        return chunk

    def remainder(self) -> bytes:
        return b""

    def end(self, *, complete: bool) -> None:
        self._reading, self._is_over = False, True
        if self._size <= MAX_JSON and self._chunks:
            text = b"".join(self._chunks)
            body = parse_json(text)
            if body is None and self._call.request.stream and EVENTS.match(text):  # whatever its content type says
                events = SseTap(self._call.read, scan=True, hide=False)
                events.feed(text)
                events.remainder()
            self._call.body(body)
            if isinstance(body, list):  # Gemini's stream without server-sent events: an array of its chunks
                for chunk in cast("list[object]", body):
                    self._call.read(chunk)
        self._call.finish()

    def on_close(self) -> None:
        if not self._reading:
            self._call.finish()


class JsonLinesBody(DocumentBody):
    """An answer in JSON lines, each of which may be billed."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._file = ResultFile(call)

    def feed(self, chunk: bytes) -> bytes:
        self._file.feed(chunk)
        return chunk

    def end(self, *, complete: bool) -> None:
        self._reading, self._is_over = False, True
        self._file.end(complete=complete)
        self._call.finish()

    def on_close(self) -> None:
        if not self._reading:
            self._file.end(complete=False)
            self._call.finish()


def _observed_bytes(inner: Iterator[bytes], tap: BodyTap, state: Followed) -> Iterator[bytes]:
    """`iter_bytes` through a tap, however it is consumed (events, lines, text)."""
    _begin_reading(tap)
    complete = False
    try:
        while True:
            state.is_advancing = True
            try:
                chunk = next(inner)
            except StopIteration:
                break
            except Exception:
                rest = _remainder(tap)  # what had come is the caller's, before the error is
                if rest:
                    yield rest
                raise
            finally:
                state.is_advancing = False
            passed = _fed(tap, chunk)
            if passed:
                yield passed
        complete = True
        rest = _remainder(tap)
        if rest:
            yield rest
    finally:
        state.end(complete=complete)


class _AsyncBytes:
    """`aiter_bytes` through a tap. No generator: one more asynchronous generator in the chain would make
    `loop.shutdown_asyncgens()` complain about streams left open."""

    def __init__(self, inner: AsyncIterator[bytes], tap: BodyTap, state: Followed) -> None:
        self._inner = inner
        self._tap = tap
        self._state = state
        self._error: BaseException | None = None

    def __aiter__(self) -> _AsyncBytes:
        return self

    async def __anext__(self) -> bytes:
        _begin_reading(self._tap)
        if self._error is not None:
            error, self._error = self._error, None
            self._state.end(complete=False)
            raise error
        while True:
            self._state.is_advancing = True
            try:
                chunk = await self._inner.__anext__()
            except StopAsyncIteration:
                self._state.is_advancing = False
                rest = _remainder(self._tap)
                if rest:
                    return rest
                self._state.end(complete=True)
                raise
            except BaseException as error:
                self._state.is_advancing = False
                rest = _remainder(self._tap)
                if rest and isinstance(error, Exception):  # what had come is the caller's, before the error is
                    self._error = error
                    return rest
                self._state.end(complete=False)
                raise
            self._state.is_advancing = False
            passed = _fed(self._tap, chunk)
            if passed:
                return passed

    async def aclose(self) -> None:
        self._state.end(complete=False)
        close = getattr(self._inner, "aclose", None)
        if close is not None:
            await close()


def _finish_after(tap: BodyTap, call: Call) -> None:
    """Finish a call whose response is closed: by its exhaustion, before the tap has been asked for the rest."""
    _remainder(tap)
    call.finish()


def _begin_reading(tap: BodyTap) -> None:
    if isinstance(tap, DocumentBody):
        tap.begin()


def _fed(tap: BodyTap, chunk: bytes) -> bytes:
    with quietly("reading a stream"):
        return tap.feed(chunk)
    return chunk


def _remainder(tap: BodyTap) -> bytes:
    with quietly("reading a stream's end"):
        return tap.remainder()
    return b""


def _end(tap: BodyTap, *, complete: bool) -> None:
    with quietly("ending a stream"):
        tap.end(complete=complete)
