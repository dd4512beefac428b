"""Reading a request within limits: its size, and what it becomes when it is unpacked."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, cast

from spanledger.runtime.untrusted_json import Json
from spanledger_clickhouse.rows import otlp
from spanledger_clickhouse.rows.otlp import Span

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"

SUSPICIOUS: Final = 1 << 20
RATIO: Final = 500
"""OTLP packs to a tenth or a fiftieth: beyond this, and a megabyte, it is there to fill memory."""
MAX_SPANS: Final = 50_000
"""Of one request: a span is at least a hundred times as large in memory as the empty one on the wire."""


class RefusedError(Exception):
    """A request that is not taken, and would not be if it came again."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """The body as it was before its Content-Encoding; "gzip", "zstd", "deflate", or none.

    Raises:
        RefusedError: 413 beyond `limit` bytes (a bomb is never unpacked further), 400 where it is broken, 415 for another encoding.
    """
    unpack = UNPACK.get(encoding.strip().lower())
    if unpack is None:
        raise RefusedError(415, f"Content-Encoding {encoding[:40]!r} is not known: use gzip or zstd")
    try:
        data = unpack(body, limit)
    except Exception as error:
        raise RefusedError(400, f"the body is no {encoding}: {error}") from error
    if len(data) > SUSPICIOUS and len(data) > RATIO * len(body):
        raise RefusedError(413, f"the request unpacks to more than {RATIO} times its size: that is no telemetry")
    if len(data) > limit:
        raise RefusedError(413, f"the request is longer than {limit:,} bytes when unpacked: send smaller batches")
    return data


def _counted(decoded_spans: Iterator[Span]) -> list[Span]:
    counted = list(islice(decoded_spans, MAX_SPANS + 1))
    if len(counted) > MAX_SPANS:
        raise RefusedError(413, f"the request has more than {MAX_SPANS:,} spans: send smaller batches")
    return counted


def _zstd(data: bytes, limit: int) -> bytes:
    try:
        from compression import zstd  # pyright: ignore # Python 3.14
    except ImportError:
        from backports import zstd  # what clickhouse-connect brings

    return _members(data, limit, cast("Any", zstd).ZstdDecompressor)


def _members(data: bytes, limit: int, unpacker_of: Callable[[], Any]) -> bytes:
    """All members of a stream, one after the other; a little more than `limit` bytes at most."""
    output = bytearray()
    while True:
        unpacker = unpacker_of()
        output += unpacker.decompress(data, limit + 1 - len(output))
        if len(output) > limit:
            return bytes(output)
        if not unpacker.eof:
            raise ValueError("it is cut short")
        data = unpacker.unused_data
        if not data:
            return bytes(output)


UNPACK: Final[dict[str, Callable[[bytes, int], bytes]]] = {
    "": lambda data, _: data,
    "identity": lambda data, _: data,
    "gzip": lambda data, limit: _members(data, limit, lambda: zlib.decompressobj(zlib.MAX_WBITS | 16)),
    "deflate": lambda data, limit: _members(data, limit, zlib.decompressobj),
    "zstd": _zstd,
}
"""Content-Encoding -> what unpacks it, to a little more than a number of bytes at most."""


def spans(body: bytes, content_type: str) -> list[Span]:
    """The spans of a request's body.

    Raises:
        RefusedError: 415 for a Content-Type that is not OTLP's, 400 for a body that is none.
    """
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == PROTOBUF:
            return _counted(otlp.decoded(body))
        if kind == JSON:
            document: object = json.loads(body)
            if not isinstance(document, dict):
                raise RefusedError(400, "the body is no ExportTraceServiceRequest: it is no JSON object")
            return _counted(otlp.spans(cast("Json", document)))
    except (ValueError, RecursionError, OverflowError) as error:
        raise RefusedError(400, f"the body is no ExportTraceServiceRequest: {error}") from error
    raise RefusedError(415, f"Content-Type {kind[:60]!r} is not OTLP's: use {PROTOBUF} or {JSON}")
