"""Filters server-sent events: reads usage from the bytes, and hides the usage event that only we requested.

`SseTap.feed(chunk)` takes the decoded bytes of a response as they come and gives back the bytes that the
caller may see. Nothing is kept but an event's unfinished tail.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from spanledger.runtime.untrusted_json import Json, mapping, parse_json

INTERESTING: Final = re.compile(rb'"(?:usage|usageMetadata)"\s*:\s*\{|"(?:finish|stop)_reason"\s*:\s*"|"message_stop"')
UNUSED: Final = re.compile(rb',\s*"usage"\s*:\s*null(?=\s*[,}])')
"""`"usage": null` of the chunks that are not the last: there only where usage was asked for. Within a JSON string a quote is
escaped, so content cannot match."""
ENDS_EVENT: Final = (b"\n\n", b"\r\n\r\n")
BLANK_LINE: Final = re.compile(rb"\r?\n\r?\n")
MAX_SEAM: Final = 2
"""Bytes of a blank line that may have come before its last one."""
MAX_EVENT: Final = 64 << 20
"""An event longer than this is passed on unread; one that carries an image has a few megabytes."""


class SseTap:
    """One stream's passage. `scan` reads every interesting event; `hide` drops what is there because usage was asked for."""

    __slots__ = ("_before", "_every", "_feed", "_on_first", "_pieces", "_scan", "_size", "hides")

    def __init__(
        self,
        feed: Callable[[Json], None],
        *,
        scan: bool,
        hide: bool,
        on_first: Callable[[], object] | None = None,
        every: bool = False,
    ) -> None:
        """`on_first`: called when the first bytes arrive. `every`: whether `scan` reads all events, not only those with figures."""
        self._feed = feed
        self._on_first = on_first
        self._scan = scan
        self._every = scan and every
        self.hides = hide
        """Whether other bytes come out than go in."""
        self._pieces: list[bytes] = []
        """Of an event that has not ended."""
        self._size = 0
        self._before = b""
        """The last of these bytes, in which a blank line may have begun."""

    def feed(self, chunk: bytes) -> bytes:
        """The part of the stream that may be passed on now that `chunk` has arrived."""
        if self._on_first is not None:
            self._on_first()
            self._on_first = None
        if not self._size and not self._every and chunk.endswith(ENDS_EVENT) and INTERESTING.search(chunk) is None:
            return (
                UNUSED.sub(b"", chunk) if self.hides else chunk
            )  # whole events without figures: nearly every chunk of a stream
        end = _end_of_events(self._before + chunk) - len(self._before)
        if end <= 0 and self._size + len(chunk) > MAX_EVENT:
            end = len(chunk)
        events = self._taken(chunk[:end]) if end > 0 else b""
        rest = chunk[end:] if end > 0 else chunk
        if rest:
            self._pieces.append(rest)
            self._size += len(rest)
            self._before = (self._before + rest)[-MAX_SEAM:]
        passed = self._filtered(events) if self._concerns(events) else events
        return passed if self.hides else chunk

    def _taken(self, end: bytes) -> bytes:
        """What was kept and its end; nothing is kept any more."""
        events = b"".join((*self._pieces, end))
        self._pieces, self._size, self._before = [], 0, b""
        return events

    def remainder(self) -> bytes:
        """What is left when the stream ends in the middle of an event."""
        tail = self._taken(b"")
        passed = self._filtered(tail) if self._concerns(tail) else tail
        return passed if self.hides else b""

    def end(self, *, complete: bool) -> None:
        """Nothing: the response's close ends the call."""

    def _concerns(self, events: bytes) -> bool:
        return (
            self._every or INTERESTING.search(events) is not None or (self.hides and UNUSED.search(events) is not None)
        )

    def _filtered(self, events: bytes) -> bytes:
        out: list[bytes] = []
        start = 0
        for match in BLANK_LINE.finditer(events):
            out.append(self._event(events[start : match.end()]))
            start = match.end()
        if start < len(events):
            out.append(self._event(events[start:]))
        return b"".join(out)

    def _event(self, event: bytes) -> bytes:
        hidden = False
        if self._every or INTERESTING.search(event):
            payload = mapping(
                parse_json(b"".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")))
            )
            hidden = self.hides and payload.get("choices") == [] and isinstance(payload.get("usage"), dict)
            if payload and (hidden or self._scan):
                self._feed(payload)
        return b"" if hidden else UNUSED.sub(b"", event) if self.hides else event


def _end_of_events(data: bytes) -> int:
    """Where the last blank line ends; 0 where there is none."""
    plain, carriage_return = data.rfind(b"\n\n"), data.rfind(b"\n\r\n")
    return max(plain + 2 if plain >= 0 else 0, carriage_return + 3 if carriage_return >= 0 else 0)
