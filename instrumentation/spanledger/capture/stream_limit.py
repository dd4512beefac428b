"""Limits inside a stream: it is closed when its budgets have no room for more of it, or when its time is over.

A stream that sets no maximum may grow beyond what was reserved for it. Its text is counted as it comes (a token for four bytes, the
mean of English), and for each further part as much is reserved again; where a budget refuses that, the stream is closed, and what was
seen is booked. A stream that takes longer than `max_stream_seconds` is closed, too, also while its reader waits for the next bytes: in
asyncio by a timeout, else by a thread that shuts its connection down. In both cases the reader gets `BudgetExceeded`.

Nothing here takes a lock that is not reentrant: the garbage collector may close a stream within any line.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import socket
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar, cast

from spanledger.limits.errors import BudgetExceeded
from spanledger.limits.reservations import Decision
from spanledger.runtime import forks
from spanledger.runtime.guard import quietly
from spanledger.runtime.untrusted_json import count, mapping
from spanledger.semconv.usage import Usage

Item = TypeVar("Item")

BYTES_PER_TOKEN: Final = 4
"""Of English text, in the vocabularies of 2026 (4.2 to 4.8 of OpenAI's o200k for prose, 3 for code)."""
TEXT_KEYS: Final = (
    "choices", "candidates", "delta", "content", "parts", "text", "value", "tool_calls", "function", "function_call", "functionCall",
    "custom", "input", "args", "arguments", "partial_json", "thinking", "reasoning", "reasoning_content", "refusal", "audio", "transcript",
)  # fmt: skip
"""Keys of an event below which its text stands, in the wire formats of OpenAI, Anthropic and Google."""
STATED: Final = (
    ("usageMetadata", ("candidatesTokenCount", "thoughtsTokenCount")),
    ("usage", ("completion_tokens",)),
    ("usage", ("output_tokens",)),
)
"""Where an event states the output so far: (object, counts in it)."""
SILENT: Final = ("audio.delta", "partial_image")
"""Ends of the types of Responses events whose text is no text."""
MAX_DEPTH: Final = 8
HTTP_2: Final = b"HTTP/2"
TIMEOUT_AFTER_SECONDS: Final = 0.005


class Holder(Protocol):
    """Reserves more for a call that is not over; implemented by `limits.reservations.Reservation`."""

    def extend(self, amount_picousd: int) -> Decision: ...


class Refusal(NamedTuple):
    """Why a stream was closed: the arguments of its BudgetExceeded."""

    reason: str
    retry_after_seconds: int


class StreamLimit:
    """What one stream may still use, and until when."""

    def __init__(
        self,
        hold: Holder | None = None,
        input_tokens: int = 0,
        part_tokens: int = 0,
        part_picousd: int | None = None,
        seconds: float | None = None,
    ) -> None:
        """
        Args:
            hold: the reservation of the call, where it may grow.
            input_tokens: of its prompt, as far as they are known.
            part_tokens: of output that are reserved at the start, and again for each further part.
            part_picousd: what a part costs at most; 0 or None, if that is not known: then nothing more is reserved.
            seconds: how long the stream may take, from its first bytes; None: for ever.
        """
        self._hold = hold if part_tokens > 0 and part_picousd else None
        self._input_tokens = input_tokens
        self._part_tokens, self._part_picousd = part_tokens, part_picousd or 0
        self._allowed = part_tokens
        self._bytes = self._stated_tokens = 0
        self._seconds = seconds
        self._response: Callable[[], Any] = lambda: None
        self._lock = threading.RLock()
        self._is_over = False
        self.deadline: float | None = None
        """When its time is over, on the monotonic clock."""
        self.refusal: Refusal | None = None
        """Why no more of the stream is read."""
        self.is_cut = False
        """Whether it was closed before its end."""

    def attach(self, response: object) -> None:
        """The answer `response` has begun: its time runs from now."""
        if self._seconds is None:
            return
        self.deadline = time.monotonic() + self._seconds
        if not (_is_async(response) and in_asyncio()):  # there a timeout ends a read that waits
            self._response = weakref.ref(response)  # a stream that is let go is freed at once
            with quietly("watching a stream"):
                _watchdog.watch(self, self.deadline)

    def release(self) -> None:
        """The stream is over: its connection is no longer its own."""
        with self._lock:
            self._is_over = True

    @property
    def is_over(self) -> bool:
        return self._is_over

    @property
    def seen_tokens(self) -> int:
        """Tokens of output that have come, as far as one can see: those that were stated, and the text since."""
        return self._stated_tokens + -(-self._bytes // BYTES_PER_TOKEN)

    def see(self, event: object) -> None:
        """Count an event of the stream."""
        if isinstance(event, dict) and (stated := _stated_tokens(cast("dict[str, Any]", event))):
            self._stated_tokens, self._bytes = stated, 0
        else:
            self._bytes += text_size(cast("object", event))
        missing = self.seen_tokens - self._allowed
        if (
            missing <= 0
            or self._hold is None
            or self.refusal is not None
            or self._is_over
            or _ends(cast("object", event))
        ):
            return
        parts = -(-missing // self._part_tokens)
        decision = self._hold.extend(parts * self._part_picousd)
        if decision.allowed:
            self._allowed += parts * self._part_tokens
        else:
            self.refusal = Refusal(f"{decision.reason}; the stream was closed", decision.retry_after_seconds)

    def expire(self, *, at_any_rate: bool = False) -> None:
        """The time is over. `at_any_rate`: a read has been ended, even if the stream has been closed meanwhile."""
        reason = f"the stream took more than the {self._seconds or 0:g} seconds it may take; it was closed"
        refusal = Refusal(reason, 0)
        response = self._response()
        with self._lock:
            if self.refusal is not None or (self._is_over and not at_any_rate):
                return
            self.refusal, self.is_cut = refusal, True
            if response is not None:
                _shut_down(response, lambda: self._is_over)

    def raise_refusal(self, cause: BaseException | None = None) -> None:
        """Raises BudgetExceeded, if the stream is to be closed."""
        if self.refusal is not None:
            raise BudgetExceeded(*self.refusal) from cause

    def usage(self, stated: Usage | None) -> Usage:
        """What a stream that was closed has used: what the provider has stated until then, and the text since."""
        if stated is None:
            return Usage(input=self._input_tokens, output=self.seen_tokens)
        return stated._replace(output=max(stated.output, self.seen_tokens))


def _ends(event: object) -> bool:
    """Whether an event is of the end of a stream: then nothing is saved by closing it."""
    if not isinstance(event, dict):
        return False
    table = cast("dict[str, Any]", event)
    choices = table.get("choices")
    if isinstance(choices, list):
        return not choices or any(mapping(choice).get("finish_reason") for choice in cast("list[object]", choices))
    candidates = table.get("candidates")
    if isinstance(candidates, list):
        return any(mapping(candidate).get("finishReason") for candidate in cast("list[object]", candidates))
    return table.get("type") in ("message_delta", "message_stop")


def _stated_tokens(event: dict[str, Any]) -> int:
    """Tokens of output so far, where an event states them; else 0."""
    for name, keys in STATED:
        if name in event:
            fields = mapping(event, name)
            if tokens := sum(count(fields, key) or 0 for key in keys):
                return tokens
    return 0


def text_size(event: object, depth: int = 0) -> int:
    """Bytes of text in an event of a stream; 0 for one that repeats what has come."""
    if isinstance(event, str):
        return len(event) if event.isascii() else len(event.encode("utf-8", "surrogatepass"))
    if depth > MAX_DEPTH:
        return 0
    if isinstance(event, list):
        return sum(text_size(part, depth + 1) for part in cast("Sequence[object]", event))
    if not isinstance(event, dict):
        return 0
    table = cast("dict[str, object]", event)
    if not depth:
        kind = table.get("type")
        if isinstance(kind, str) and "." in kind and (not kind.endswith(".delta") or kind.endswith(SILENT)):
            return 0
        if isinstance(table.get("data"), dict):  # an event of the Assistants API
            return text_size(table["data"], 1)
    arguments = table.get("args") if depth else None
    if arguments is not None and not isinstance(arguments, str):  # Gemini's function call: an object, not its text
        return len(str(arguments))
    twice = "reasoning" if "reasoning_content" in table else ""  # some servers send both
    return sum(text_size(table[key], depth + 1) for key in TEXT_KEYS if key in table and key != twice)


def limited(inner: Iterator[Item], limit: StreamLimit, response: Any) -> Generator[Item, None, None]:
    """A stream's parts, until its limit is reached.

    Raises:
        BudgetExceeded: it is; the response is closed.
    """
    iterator = iter(inner)
    try:
        while limit.refusal is None:
            try:
                part = next(iterator)
            except StopIteration:
                if limit.is_cut:  # its connection was shut down, and its body has no length
                    limit.raise_refusal()
                return
            yield part
    except Exception as error:
        if limit.is_cut:
            limit.raise_refusal(error)
        raise
    limit.is_cut = True
    with suppress(Exception):
        response.close()
    with suppress(Exception):
        getattr(inner, "close", response.close)()
    limit.raise_refusal()


class LimitedAsync(Generic[Item]):
    """The asynchronous twin of `limited` (an iterator, to avoid one more generator)."""

    def __init__(self, inner: AsyncIterator[Item], limit: StreamLimit, response: Any) -> None:
        self._inner, self._limit, self._response = inner, limit, response

    def __aiter__(self) -> LimitedAsync[Item]:
        return self

    async def __anext__(self) -> Item:
        limit = self._limit
        if limit.deadline is not None and time.monotonic() >= limit.deadline:
            limit.expire(at_any_rate=True)  # also where the next part is there already
        if limit.refusal is not None:
            limit.is_cut = True
            await self._close()
            limit.raise_refusal()
        try:
            return await self._next(limit.deadline)
        except StopAsyncIteration:
            if limit.is_cut:
                limit.raise_refusal()
            raise
        except Exception as error:
            if limit.is_cut:
                limit.raise_refusal(error)
            raise

    async def _next(self, deadline: float | None) -> Item:
        if deadline is None or not in_asyncio():
            return await self._inner.__anext__()
        left = max(0.0, deadline - time.monotonic())
        begun = asyncio.get_running_loop().call_later(
            left, self._limit.expire
        )  # its row, which the end makes, says why
        own_timeout = asyncio.timeout(left + TIMEOUT_AFTER_SECONDS)
        try:
            async with own_timeout:
                return await self._inner.__anext__()
        except TimeoutError:
            if own_timeout.expired():
                self._limit.expire(at_any_rate=True)
                await self._close()
            raise
        finally:
            begun.cancel()

    async def _close(self) -> None:
        with suppress(Exception):
            closing = getattr(self._response, "aclose", None) or self._response.close
            result = closing()
            if result is not None:
                await result
        with suppress(Exception):
            await self.aclose()

    async def aclose(self) -> None:
        close = getattr(self._inner, "aclose", None)
        if close is not None:
            await close()


def _is_async(response: Any) -> bool:
    """Whether a response of httpx, aiohttp or requests is read asynchronously."""
    stream = getattr(response, "stream", None)
    return hasattr(stream, "__aiter__") if stream is not None else not hasattr(response, "iter_content")


def in_asyncio() -> bool:
    """Whether this code runs in a task of asyncio, and not of another library."""
    if "sniffio" in sys.modules or "trio" in sys.modules:
        with suppress(Exception):
            from sniffio import current_async_library

            return current_async_library() == "asyncio"
    with suppress(RuntimeError):
        return asyncio.current_task() is not None
    return False


def _shut_down(response: Any, is_over: Callable[[], bool]) -> None:
    """Shut down the connection of an httpx response, so that whoever reads from it gets an end or an error.

    On HTTP/2 a connection has other streams as well: there the stream ends at its next part.
    """
    with quietly("closing a stream"):
        extensions: Any = getattr(response, "extensions", None)
        if not isinstance(extensions, dict) or cast("dict[str, Any]", extensions).get("http_version") == HTTP_2:
            return
        stream: Any = cast("dict[str, Any]", extensions).get("network_stream")
        endpoint = None if stream is None else stream.get_extra_info("socket")
        if endpoint is not None and not is_over():
            # uvloop's sockets can do nothing by themselves: the same connection, by a number of its own
            with suppress(OSError), socket.socket(fileno=os.dup(endpoint.fileno())) as same:
                same.shutdown(socket.SHUT_RDWR)


MAX_WAIT_SECONDS: Final = 3600.0
SWEPT_AT: Final = 1000
"""Streams that are watched, beyond which those that are over are let go from time to time."""


class _Watchdog:
    """One thread that closes the streams whose time is over."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # its lock is reentrant
        self._due: list[tuple[float, int, weakref.ref[StreamLimit]]] = []
        self._numbers = itertools.count()
        self._sweep_at = SWEPT_AT
        self._is_running = False

    def watch(self, limit: StreamLimit, deadline: float) -> None:
        """Close `limit`'s stream at `deadline` (of the monotonic clock), if it is not over by then.

        Raises:
            RuntimeError: there can be no further thread; the next stream tries again.
        """
        with self._changed:
            if len(self._due) >= self._sweep_at:
                self._due = [entry for entry in self._due if (each := entry[2]()) is not None and not each.is_over]
                heapq.heapify(self._due)
                self._sweep_at = max(SWEPT_AT, 2 * len(self._due))
            heapq.heappush(self._due, (deadline, next(self._numbers), weakref.ref(limit)))
            if not self._is_running and forks.threads_allowed():
                threading.Thread(target=self._run, name="spanledger-stream-limits", daemon=True).start()
                self._is_running = True
            if self._due[0][0] == deadline:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with quietly("closing a stream"):
                self._close_next()

    def _close_next(self) -> None:
        with self._changed:
            left = self._due[0][0] - time.monotonic() if self._due else MAX_WAIT_SECONDS
            if left > 0:
                self._changed.wait(min(left, MAX_WAIT_SECONDS))
                return
            limit = heapq.heappop(self._due)[2]()
        if limit is not None:
            limit.expire()


_watchdog = _Watchdog()


def _after_fork() -> None:
    global _watchdog
    _watchdog = _Watchdog()


forks.in_child(_after_fork)
