"""Limits inside a stream: it is closed when its budgets have no room for more of it, or when its time is over.

A stream that sets no maximum may grow beyond what was reserved for it. Its text is counted as it comes (a token for four bytes, the
mean of English), and for each further part as much is reserved again; where a budget refuses that, the stream is closed, and what was
seen is booked. A stream that takes longer than `max_stream_seconds` is closed by a thread, which shuts its connection down: a read that
waits for the next bytes ends at once. In both cases the reader gets `BudgetExceeded`.
"""

from __future__ import annotations

import heapq
import itertools
import os
import socket
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, Protocol, TypeVar, cast

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
    "choices", "candidates", "delta", "content", "parts", "text", "tool_calls", "function", "functionCall", "args",
    "arguments", "partial_json", "thinking", "reasoning", "reasoning_content", "refusal",
)  # fmt: skip
"""Keys of an event below which its text stands, in the wire formats of OpenAI, Anthropic and Google."""
MAX_DEPTH: Final = 8
HTTP_2: Final = b"HTTP/2"


class Holder(Protocol):
    """Reserves more for a call that is not over; implemented by `limits.reservations.Reservation`."""

    def extend(self, amount_picousd: int) -> Decision: ...


class StreamLimit:
    """What one stream may still use, and until when."""

    def __init__(
        self,
        note: Callable[[str], object],
        hold: Holder | None = None,
        input_tokens: int = 0,
        part_tokens: int = 0,
        part_picousd: int | None = None,
        seconds: float | None = None,
    ) -> None:
        """
        Args:
            note: keeps the reason of a stream that is closed, before it ends.
            hold: the reservation of the call, where it may grow.
            input_tokens: of its prompt, as far as they are known.
            part_tokens: of output that are reserved at the start, and again for each further part.
            part_picousd: what a part costs at most; None if that is not known: then nothing more is reserved.
            seconds: how long the stream may take, from now; None: for ever.
        """
        self._note, self._hold = note, hold
        self._input_tokens = input_tokens
        self._part_tokens, self._part_picousd = part_tokens, part_picousd
        self._allowed = part_tokens
        self._bytes = self._stated_tokens = 0
        self._seconds = seconds
        self._response: Callable[[], Any] = lambda: None
        self._lock = threading.Lock()
        self._is_over = False
        self.refusal: BudgetExceeded | None = None
        """Why the stream was closed."""
        if seconds is not None:
            _watchdog.watch(self, time.monotonic() + seconds)

    def attach(self, response: object) -> None:
        """The response whose connection is shut down when the time is over."""
        with self._lock:
            self._response = weakref.ref(response)  # a stream that is let go is freed at once
            if self.refusal is not None:
                _shut_down(response)

    def release(self) -> None:
        """The stream is over: its connection is no longer its own."""
        with self._lock:
            self._is_over = True

    @property
    def seen_tokens(self) -> int:
        """Tokens of output that have come, as far as one can see."""
        return max(self._stated_tokens, -(-self._bytes // BYTES_PER_TOKEN))

    def see(self, event: object) -> None:
        """Count an event of the stream."""
        if self.refusal is not None:
            return
        self._bytes += text_size(event)
        if isinstance(event, dict) and "usageMetadata" in event:
            stated = mapping(cast("dict[str, Any]", event), "usageMetadata")
            self._stated_tokens = (count(stated, "candidatesTokenCount") or 0) + (
                count(stated, "thoughtsTokenCount") or 0
            )
        while self._hold is not None and self._part_picousd is not None and self.seen_tokens > self._allowed:
            decision = self._hold.extend(self._part_picousd)
            if not decision.allowed:
                self._refuse(f"{decision.reason}; the stream was closed", decision.retry_after_seconds)
                return
            self._allowed += self._part_tokens

    def expire(self) -> None:
        """The time is over: called by the watching thread."""
        with self._lock:
            if self._is_over or self.refusal is not None:
                return
            self._refuse(f"the stream took more than the {self._seconds:g} seconds it may take; it was closed", 0)
            response = self._response()
            if response is not None:
                _shut_down(response)

    def _refuse(self, reason: str, retry_after_seconds: int) -> None:
        self.refusal = BudgetExceeded(reason, retry_after_seconds)
        self._note(reason)

    def usage(self, stated: Usage | None) -> Usage:
        """What a stream that was closed has used: what the provider has stated until then, and the text that came."""
        if stated is None:
            return Usage(input=self._input_tokens, output=self.seen_tokens)
        return stated._replace(output=max(stated.output, self.seen_tokens))


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
    kind = table.get("type")
    if not depth and isinstance(kind, str) and kind.startswith("response.") and not kind.endswith(".delta"):
        return 0
    if depth and "args" in table and len(table) <= 3:  # Gemini's function call: an object, not its text
        return len(str(table["args"]))
    return sum(text_size(table[key], depth + 1) for key in TEXT_KEYS if key in table)


def limited(inner: Iterator[Item], limit: StreamLimit, response: Any) -> Generator[Item, None, None]:
    """A stream's parts, until its limit is reached.

    Raises:
        BudgetExceeded: it is; the response is closed.
    """
    try:
        for part in inner:
            if limit.refusal is not None:
                break
            yield part
    except Exception as error:
        if limit.refusal is None:
            raise
        raise limit.refusal from error
    if limit.refusal is not None:
        with suppress(Exception):
            response.close()
        with suppress(Exception):
            getattr(inner, "close", response.close)()
        raise limit.refusal


class LimitedAsync(Generic[Item]):
    """The asynchronous twin of `limited` (an iterator, to avoid one more generator)."""

    def __init__(self, inner: AsyncIterator[Item], limit: StreamLimit, response: Any) -> None:
        self._inner, self._limit, self._response = inner, limit, response

    def __aiter__(self) -> LimitedAsync[Item]:
        return self

    async def __anext__(self) -> Item:
        limit = self._limit
        try:
            part = await self._inner.__anext__()
        except Exception as error:
            if limit.refusal is None:
                raise
            raise limit.refusal from error
        if limit.refusal is None:
            return part
        with suppress(Exception):
            closing = getattr(self._response, "aclose", None) or self._response.close
            result = closing()
            if result is not None:
                await result
        with suppress(Exception):
            await self.aclose()
        raise limit.refusal

    async def aclose(self) -> None:
        close = getattr(self._inner, "aclose", None)
        if close is not None:
            await close()


def _shut_down(response: Any) -> None:
    """Shut down the connection of a response, so that whoever reads from it gets an end or an error.

    On HTTP/2 a connection has other streams as well: there the stream ends at its next part.
    """
    with quietly("closing a stream"):
        if getattr(response, "is_closed", False):
            return
        extensions: Any = getattr(response, "extensions", None)
        if isinstance(extensions, dict):  # httpx
            if cast("dict[str, Any]", extensions).get("http_version") == HTTP_2:
                return
            stream: Any = cast("dict[str, Any]", extensions).get("network_stream")
            endpoint = None if stream is None else stream.get_extra_info("socket")
        else:  # aiohttp
            connection = getattr(response, "connection", None)
            transport = getattr(connection, "transport", None)
            endpoint = None if transport is None else transport.get_extra_info("socket")
        if endpoint is not None:
            # uvloop's sockets can do nothing by themselves: the same connection, by a number of its own
            with suppress(OSError), socket.socket(fileno=os.dup(endpoint.fileno())) as same:
                same.shutdown(socket.SHUT_RDWR)


class _Watchdog:
    """One thread that closes the streams whose time is over."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, weakref.ref[StreamLimit]]] = []
        self._numbers = itertools.count()
        self._is_running = False

    def watch(self, limit: StreamLimit, deadline: float) -> None:
        """Close `limit`'s stream at `deadline` (of the monotonic clock), if it is not over by then."""
        with self._changed:
            heapq.heappush(self._due, (deadline, next(self._numbers), weakref.ref(limit)))
            if not self._is_running and forks.threads_allowed():
                threading.Thread(target=self._run, name="spanledger-stream-limits", daemon=True).start()
                self._is_running = True
            if self._due[0][0] == deadline:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                left = self._due[0][0] - time.monotonic() if self._due else None
                if left is None or left > 0:
                    self._changed.wait(left)
                    continue
                limit = heapq.heappop(self._due)[2]()
            if limit is not None:
                with quietly("closing a stream"):
                    limit.expire()


_watchdog = _Watchdog()


def _after_fork() -> None:
    global _watchdog
    _watchdog = _Watchdog()


forks.in_child(_after_fork)
