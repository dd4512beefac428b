"""Observes bodies that are neither one JSON document nor server-sent events: JSON lines, and AWS's event stream.

Each passes the bytes on unchanged, and keeps no more than an unfinished line or frame.
"""

from __future__ import annotations

import struct
from typing import Final

from spanledger.capture.call import Call
from spanledger.runtime.guard import quietly
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
        self._pieces: list[bytes] = []
        """Of a line that has not ended."""
        self._size = 0

    def feed(self, chunk: bytes) -> bytes:
        end = chunk.rfind(b"\n") + 1
        if end:
            self._read(b"".join((*self._pieces, chunk[:end])))
            self._pieces, self._size = [], 0
        self._pieces.append(chunk[end:])
        self._size += len(chunk) - end
        if self._size > MAX_FRAME:
            self._pieces, self._size = [], 0
        return chunk

    def _read(self, lines: bytes) -> None:
        for line in lines.split(b"\n"):
            if line.strip():
                with quietly("reading an event"):
                    self._call.feed(parse_json(line))

    def remainder(self) -> bytes:
        rest, self._pieces = self._pieces, []
        self._read(b"".join(rest))
        return b""

    def end(self, *, complete: bool) -> None:
        """The end of the response ends the call."""


class EventStreamTap:
    """Frames of `application/vnd.amazon.eventstream`; each is fed as {event type: its JSON}."""

    hides = False

    def __init__(self, call: Call) -> None:
        self._call = call
        self._data = bytearray()
        self._is_stream = True

    def feed(self, chunk: bytes) -> bytes:
        if not self._is_stream:
            return chunk
        data = self._data
        data += chunk
        start = 0
        while len(data) - start >= PRELUDE.size:
            length, header_length, _ = PRELUDE.unpack_from(data, start)
            if not PRELUDE.size + 4 + header_length <= length <= MAX_FRAME:
                self._is_stream, start = False, len(data)
                break
            if len(data) - start < length:
                break
            self._read(bytes(data[start : start + length]), PRELUDE.size + header_length)
            start += length
        del data[:start]
        return chunk

    def _read(self, frame: bytes, body: int) -> None:
        with quietly("reading an event"):
            self._call.feed({_event_type(frame[PRELUDE.size : body]): mapping(parse_json(frame[body:-4]))})

    def remainder(self) -> bytes:
        return b""

    def end(self, *, complete: bool) -> None:
        """The end of the response ends the call."""


def _event_type(headers: bytes) -> str:
    """The value of the header `:event-type`, a string (type 7)."""
    name = b":event-type\x07"
    _, found, rest = headers.partition(name)
    if not found or len(rest) < 2:
        return ""
    return rest[2 : 2 + int.from_bytes(rest[:2], "big")].decode("utf-8", "replace")
