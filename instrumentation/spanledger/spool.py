"""The spool: rows on disk before `span.end()` returns, in a format that a stock Collector reads too.

A segment is a file of OTLP JSON lines (OpenTelemetry's file-exporter format), one span a line, written
by one process: `<process id>-<number>.jsonl`. A row is one `os.write` to a file opened for appending:
it survives the death of the process, though not of the machine. The writer holds a lock on the segment
it writes; a reader that gets the lock knows that the segment is finished. `shipper.py` reads.

Encoding is written out by hand: OpenTelemetry's own JSON encoder (opentelemetry-exporter-otlp-json-common
0.66b1) takes 95 us a span where this takes about 10, and a call may cost 100 in all
(docs/decisions/0003). A test holds the two against each other.
"""

from __future__ import annotations

import fcntl
import itertools
import math
import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import Any, Final, cast

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import StatusCode

from spanledger.guard import log
from spanledger.spans import plain

SUFFIX: Final = ".jsonl"
SEGMENT_BYTES: Final = 16 << 20
"""A segment is closed beyond this size, so that it can be deleted once it is shipped."""
RETRY_SECONDS: Final = 5.0
KINDS: Final = {0: 1, 1: 2, 2: 3, 3: 4, 4: 5}
"""opentelemetry-api SpanKind.value -> OTLP's SPAN_KIND number."""


class Spool:
    """The writer of one process. `append` never raises; what cannot be written is counted in `refused`."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.refused = 0
        """Rows that found no place, for want of space or of a writable directory."""
        self.written = 0
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._size = 0
        self._not_before = 0.0
        self._said: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        self.process_id = secrets.token_hex(8)
        """Random for every process, so that its sequence numbers are its own."""
        self._sequence = itertools.count()
        self._numbers = itertools.count()

    def next_sequence(self) -> int:
        """The number of the next row of this process: 0, 1, 2, ... A missing number is a lost row."""
        return next(self._sequence)

    def append(self, line: bytes) -> bool:
        """Write one line (ending in a newline). True when it is in the file."""
        with self._lock:
            fd = self._fd if self._fd is not None else self._open()
            if fd is None:
                self.refused += 1
                return False
            try:
                written = os.write(fd, line)
                if written < len(line):
                    written += os.write(fd, line[written:])
                complete = written == len(line)
            except OSError as error:
                self._say(f"cannot write to the spool {self.directory}: {error.strerror}; rows are lost until it can")
                complete = False
            if not complete:
                self._close()  # a later row begins a new segment; a torn line is the reader's to skip
                self._not_before = time.monotonic() + RETRY_SECONDS
                self.refused += 1
                return False
            self._size += len(line)
            self.written += 1
            if self._size >= SEGMENT_BYTES:
                self._close()
            return True

    def _open(self) -> int | None:
        if time.monotonic() < self._not_before:
            return None
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._full():
                self._say(
                    f"the spool {self.directory} holds its {self.max_bytes} bytes: new rows are lost. Ship it with "
                    "`spanledger ship`, or raise SPANLEDGER_SPOOL_MAX_BYTES"
                )
                self._not_before = time.monotonic() + RETRY_SECONDS
                return None
            path = self.directory / f"{self.process_id}-{next(self._numbers):06d}{SUFFIX}"
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._say(
                f"the spool directory {self.directory} cannot be written ({error.strerror}): calls are not recorded. "
                "Set SPANLEDGER_SPOOL_DIR to a directory that this process may write"
            )
            self._not_before = time.monotonic() + RETRY_SECONDS
            return None
        self._fd, self._size = fd, 0
        return fd

    def _full(self) -> bool:
        used = 0
        for entry in os.scandir(self.directory):
            if entry.name.endswith(SUFFIX):
                used += entry.stat().st_size
        return used >= self.max_bytes

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log.error("%s", message)

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def close(self) -> None:
        """Finish the segment; the next row opens another."""
        with self._lock:
            self._close()

    def after_fork(self) -> None:
        """In a forked child: a process of its own, with a segment and a numbering of its own."""
        self._lock = threading.Lock()
        self._close()
        self._begin()


class Encoder:
    """Spans as OTLP JSON lines. Resource and scope are encoded once."""

    def __init__(self) -> None:
        self._heads: dict[tuple[int, int], tuple[Resource, InstrumentationScope | None, str]] = {}

    def line(self, span: ReadableSpan) -> bytes:
        """One `{"resourceSpans": [...]}` line holding `span`."""
        context = span.get_span_context()
        if context is None:
            raise ValueError("a span without a context")
        parent = f',"parentSpanId":"{span.parent.span_id:016x}"' if span.parent else ""
        attributes = _attributes(plain(span))
        status = ""
        if span.status.status_code is StatusCode.ERROR:
            status = f',"status":{{"message":{quoted(span.status.description or "")},"code":2}}'
        return (
            f'{self._head(span)}"traceId":"{context.trace_id:032x}","spanId":"{context.span_id:016x}"{parent}'
            f',"flags":{int(context.trace_flags)},"name":{quoted(span.name)},"kind":{KINDS[span.kind.value]}'
            f',"startTimeUnixNano":"{span.start_time}","endTimeUnixNano":"{span.end_time}"'
            f',"attributes":[{attributes}]{status}}}]}}]}}]}}\n'
        ).encode("ascii")

    def _head(self, span: ReadableSpan) -> str:
        resource, scope = span.resource, span.instrumentation_scope
        known = self._heads.get((id(resource), id(scope)))
        if known is not None:
            return known[2]
        named = _attributes(resource.attributes)
        name, version = (scope.name, scope.version) if scope else ("", None)
        versioned = f',"version":{quoted(version)}' if version else ""
        head = (
            f'{{"resourceSpans":[{{"resource":{{"attributes":[{named}]}},"scopeSpans":[{{"scope":'
            f'{{"name":{quoted(name)}{versioned}}},"spans":[{{'
        )
        self._heads[id(resource), id(scope)] = (resource, scope, head)  # holding both keeps the ids theirs
        return head


def _attributes(found: Mapping[str, object]) -> str:
    shape = (*found, *map(type, found.values()))
    template = _templates.get(shape)
    if template is None:
        template = ",".join(map(_template, found, found.values()))
        if len(_templates) < MAX_TEMPLATES:
            _templates[shape] = template
    fillings = [
        quoted(value) if type(value) is str else value if type(value) is int else _value(value)
        for value in found.values()
    ]
    return template % tuple(fillings)


_templates: dict[tuple[object, ...], str] = {}
"""Keys and types of attributes -> their JSON with a place for each value: calls come in few shapes."""

MAX_TEMPLATES: Final = 500


def _template(key: str, value: object) -> str:
    opening = f'{{"key":{quoted(key)},"value":{{'.replace("%", "%%")
    kind = type(value)
    inside = '"stringValue":%s' if kind is str else '"intValue":"%d"' if kind is int else "%s"
    return f"{opening}{inside}}}}}"


def _value(value: Any) -> str:
    """The inside of an OTLP AnyValue: 64-bit integers are strings in OTLP JSON."""
    if isinstance(value, bool):
        return f'"boolValue":{"true" if value else "false"}'
    if isinstance(value, int):
        return f'"intValue":"{value}"'
    if isinstance(value, float):
        return f'"doubleValue":{_double(value)}'
    if isinstance(value, tuple | list):
        parts = ",".join(f"{{{_value(part)}}}" for part in cast("Sequence[object]", value))
        return f'"arrayValue":{{"values":[{parts}]}}'
    return f'"stringValue":{quoted(str(value))}'


def _double(value: float) -> str:
    """Infinities and NaN as proto-JSON spells them."""
    if math.isnan(value):
        return '"NaN"'
    if math.isinf(value):
        return '"Infinity"' if value > 0 else '"-Infinity"'
    return repr(value)
