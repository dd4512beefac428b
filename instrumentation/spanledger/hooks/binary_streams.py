"""Observes bodies that are neither one JSON document nor server-sent events: JSON lines, and AWS's event stream.

Each passes the bytes on unchanged, and keeps no more than an unfinished line or frame.
"""

from __future__ import annotations

import struct
from typing import Final

from spanledger.capture.call import Call
from spanledger.runtime.untrusted_json import mapping, parse_json

MAX_FRAME: Final = 16 << 20
"""AWS's own limit of a message (https://smithy.io/2.0/aws/amazon-eventstream.html)."""
PRELUDE: Final = struct.Struct(">III")
"""Length of the frame, length of its headers, checksum."""


class LineTap:
    """A stream of JSON objects, one a line (Ollama, Cohere v1)."""

    hides = False

    def __init__(self, call: Call) -> None:
        self._call = call
        self._tail = b""

    def feed(self, chunk: bytes) -> bytes:
        *lines, tail = (self._tail + chunk).split(b"\n")
        self._tail = tail if len(tail) <= MAX_FRAME else b""
        for line in lines:
            if line.strip():
                self._call.feed(parse_json(line))
        return chunk

    def remainder(self) -> bytes:
        if self._tail.strip():
            self._call.feed(parse_json(self._tail))
        self._tail = b""
        return b""

    def end(self, *, complete: bool) -> None:
        """The end of the response ends the call."""


class EventStreamTap(LineTap):
    """Frames of `application/vnd.amazon.eventstream`; each is fed as {event type: its JSON}."""

    def feed(self, chunk: bytes) -> bytes:
        data = self._tail + chunk
        while len(data) >= PRELUDE.size:
            length, header_length, _ = PRELUDE.unpack_from(data)
            if not PRELUDE.size + 4 + header_length <= length <= MAX_FRAME:
                data = b""  # not this format
                break
            if len(data) < length:
                break
            start = PRELUDE.size + header_length
            kind = _event_type(data[PRELUDE.size : start])
            self._call.feed({kind: mapping(parse_json(data[start : length - 4]))})
            data = data[length:]
        self._tail = data
        return chunk

    def remainder(self) -> bytes:
        self._tail = b""
        return b""


def _event_type(headers: bytes) -> str:
    """The value of the header `:event-type`, a string (type 7)."""
    name = b":event-type\x07"
    _, found, rest = headers.partition(name)
    if not found or len(rest) < 2:
        return ""
    return rest[2 : 2 + int.from_bytes(rest[:2], "big")].decode("utf-8", "replace")
