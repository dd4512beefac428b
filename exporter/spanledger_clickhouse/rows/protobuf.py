"""Reads the wire format of protobuf (protobuf.dev/programming-guides/encoding) as far as it takes to split a message.

A message of a few hundred kilobytes can stand for gigabytes of objects: an empty submessage takes two bytes. So a
request is split into its spans without decoding it, and a large message is counted before it is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

VARINT: Final = 0
FIXED64: Final = 1
LENGTH_DELIMITED: Final = 2
FIXED32: Final = 5

SMALL_MESSAGE_BYTES: Final = 16 << 10
"""Messages up to this size are decoded without counting."""
MAX_FIELDS: Final = 50_000
"""Fields of a span and of all messages in it."""
MAX_REQUEST_FIELDS: Final = 1_000_000
"""Fields and values that are looked at in a request: about a second."""
MAX_FIELD_NUMBER: Final = 2**29 - 1

SUBMESSAGES: Final[dict[str, dict[int, str]]] = {
    "trace.v1.Span": {9: "KeyValue", 11: "Event", 13: "Link", 15: "Status"},
    "resource.v1.Resource": {1: "KeyValue"},
    "common.v1.InstrumentationScope": {3: "KeyValue"},
    "Event": {3: "KeyValue"},
    "Link": {4: "KeyValue"},
    "KeyValue": {2: "AnyValue"},
    "AnyValue": {5: "ArrayValue", 6: "KeyValueList"},
    "ArrayValue": {1: "AnyValue"},
    "KeyValueList": {1: "KeyValue"},
}
"""Message -> its fields that hold messages (opentelemetry-proto 1.9)."""


class TooManyFieldsError(ValueError):
    """A message has more fields than any instrumentation writes."""


class Splitter:
    """Splits the messages of one request, and counts what it looks at."""

    def __init__(self) -> None:
        self._left = MAX_REQUEST_FIELDS

    def spend(self, fields: int) -> None:
        """Count fields, or values in them; raises TooManyFieldsError beyond MAX_REQUEST_FIELDS."""
        self._left -= fields
        if self._left < 0:
            raise TooManyFieldsError(f"the request has more than {MAX_REQUEST_FIELDS:,} fields")

    def fields(self, message: memoryview | bytes) -> Iterator[tuple[int, memoryview]]:
        """(number, content) of the fields of a message; (0, empty) for one that is not length-delimited.

        Raises:
            TooManyFieldsError: the request has more than MAX_REQUEST_FIELDS fields.
            ValueError: the message is not valid.
        """
        view = memoryview(message)
        position, end = 0, len(view)
        while position < end:
            self.spend(1)
            key, position = _varint(view, position)
            wire_type, size = key & 7, 0
            if wire_type == LENGTH_DELIMITED:
                size, position = _varint(view, position)
            elif wire_type == VARINT:
                _, position = _varint(view, position)
            elif wire_type in (FIXED64, FIXED32):
                position += 8 if wire_type == FIXED64 else 4
            else:
                raise ValueError(f"it has a field of wire type {wire_type}")
            if position + size > end:
                raise ValueError("it is truncated")
            if not 0 < key >> 3 <= MAX_FIELD_NUMBER:
                raise ValueError(f"it has a field of number {key >> 3}")
            yield key >> 3 if wire_type == LENGTH_DELIMITED else 0, view[position : position + size]
            position += size

    def messages(self, message: memoryview | bytes, number: int) -> Iterator[memoryview]:
        """The submessages in the repeated field `number`."""
        return (content for field, content in self.fields(message) if field == number)

    def merged(self, message: memoryview | bytes, number: int) -> bytes:
        """The submessage in field `number`: one that stands there several times is merged, which is to concatenate it."""
        return b"".join(self.messages(message, number))

    def check(self, message: memoryview | bytes, name: str) -> None:
        """Refuse a message that would take far more memory than its size.

        Raises:
            TooManyFieldsError: it has more than MAX_FIELDS fields.
            ValueError: it is not valid.
        """
        if len(message) <= SMALL_MESSAGE_BYTES:
            return
        waiting, count = [(message, name)], 0
        while waiting:
            part, kind = waiting.pop()
            inner = SUBMESSAGES.get(kind, {})
            for number, content in self.fields(part):
                count += 1
                if count > MAX_FIELDS:
                    raise TooManyFieldsError(f"a {name.rpartition('.')[2]} has more than {MAX_FIELDS:,} fields")
                if number in inner:
                    waiting.append((content, inner[number]))


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """(value, position behind it)."""
    value = shift = 0
    while shift < 70:
        if position >= len(view):
            raise ValueError("it is truncated")
        byte = view[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise ValueError("a number in it is too long")
