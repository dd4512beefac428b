"""Decodes request bodies within limits: compressed size, decompressed size and number of spans."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from spanledger.runtime.untrusted_json import Json
from spanledger.semconv import attributes as a
from spanledger_clickhouse.rows import otlp
from spanledger_clickhouse.rows.otlp import Span
from spanledger_clickhouse.rows.protobuf import TooManyFieldsError

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"

BOMB_CHECK_BYTES: Final = 1 << 20
MAX_COMPRESSION_RATIO: Final = 500
"""OTLP compresses 10 to 50 times: a body beyond this ratio and one megabyte is a decompression bomb."""
MAX_SPANS: Final = 50_000
"""Spans per request: a span takes at least a hundred times the memory of an empty span on the wire."""
MAX_RESULT_LINES: Final = 300_000
"""Rows of a request that are lines of results: a Collector's batch of 512 spans, each with the 500 lines that we write."""
MAX_MEMBERS: Final = 100
"""Members of a compressed body (RFC 1952), each of which copies what follows it."""
MAX_JSON_BYTES: Final = 16 << 20
"""A JSON body: reading it holds up everything else in the process, about half a second for this much."""
MAX_ATTRIBUTES: Final = 1_000_000
"""Attributes of all spans of a request: about 200 MB."""
MAX_JSON_VALUES: Final = 3_000_000
"""Values in a JSON body, by its brackets and commas: about 300 MB."""


class RefusedError(Exception):
    """A request that is rejected permanently: retrying does not help."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """Decompress a body by its Content-Encoding: "gzip", "zstd", "deflate", or none.

    Raises:
        RefusedError: 413 beyond `limit` bytes (a hard stop), 400 for a corrupt body, 415 for another encoding.
    """
    unpack = DECOMPRESSORS.get(encoding.strip().lower())
    if unpack is None:
        raise RefusedError(415, f"Content-Encoding {encoding[:40]!r} is not supported: use gzip or zstd")
    try:
        data = unpack(body, min(limit, max(BOMB_CHECK_BYTES, MAX_COMPRESSION_RATIO * len(body))))
    except Exception as error:
        raise RefusedError(400, f"the body is not valid {encoding}: {error}") from error
    if len(data) > BOMB_CHECK_BYTES and len(data) > MAX_COMPRESSION_RATIO * len(body):
        raise RefusedError(413, f"the request decompresses to more than {MAX_COMPRESSION_RATIO} times its size")
    if len(data) > limit:
        raise RefusedError(413, f"the request is longer than {limit:,} bytes when decompressed: send smaller batches")
    return data


def _bounded(decoded_spans: Iterator[Span]) -> list[Span]:
    counted: list[Span] = []
    attributes = lines = 0
    for span in decoded_spans:
        counted.append(span)
        attributes += len(span.attributes)
        if len(counted) > MAX_SPANS:
            raise RefusedError(413, f"the request has more than {MAX_SPANS:,} spans: send smaller batches")
        lines += str(span.attributes.get(a.RESULT_LINES, "")).count('"i"')
        if lines > MAX_RESULT_LINES:
            raise RefusedError(
                413, f"the request has more than {MAX_RESULT_LINES:,} lines of results: send smaller batches"
            )
        if attributes > MAX_ATTRIBUTES:
            raise RefusedError(413, f"the request has more than {MAX_ATTRIBUTES:,} attributes: send smaller batches")
    return counted


def _zstd(data: bytes, limit: int) -> bytes:
    try:
        from compression import zstd  # pyright: ignore # Python 3.14
    except ImportError:
        from backports import zstd  # what clickhouse-connect brings

    return _members(data, limit, cast("Any", zstd).ZstdDecompressor)


def _members(data: bytes, limit: int, unpacker_of: Callable[[], Any]) -> bytes:
    """Decompress all members of a stream, up to slightly more than `limit` bytes."""
    output = bytearray()
    for _ in range(MAX_MEMBERS):
        unpacker = unpacker_of()
        output += unpacker.decompress(data, limit + 1 - len(output))
        if len(output) > limit:
            return bytes(output)
        if not unpacker.eof:
            raise ValueError("the stream is truncated")
        data = unpacker.unused_data
        if not data:
            return bytes(output)
    raise ValueError(f"it has more than {MAX_MEMBERS} members")


DECOMPRESSORS: Final[dict[str, Callable[[bytes, int], bytes]]] = {
    "": lambda data, _: data,
    "identity": lambda data, _: data,
    "gzip": lambda data, limit: _members(data, limit, lambda: zlib.decompressobj(zlib.MAX_WBITS | 16)),
    "deflate": lambda data, limit: _members(data, limit, zlib.decompressobj),
    "zstd": _zstd,
}
"""Content-Encoding -> decompressor (body, limit), which returns slightly more than `limit` bytes at most."""


def spans(body: bytes, content_type: str) -> list[Span]:
    """The spans of a request's body.

    Raises:
        RefusedError: 415 for a Content-Type that is not OTLP's, 400 for an invalid body.
    """
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == PROTOBUF:
            return _bounded(otlp.spans_from_protobuf(body))
        if kind == JSON:
            if len(body) > MAX_JSON_BYTES:
                raise RefusedError(
                    413, f"a JSON body may have {MAX_JSON_BYTES:,} bytes: send smaller batches, or protobuf"
                )
            if sum(map(body.count, (b"{", b"[", b","))) > MAX_JSON_VALUES:
                raise RefusedError(413, f"the request has more than {MAX_JSON_VALUES:,} values: send smaller batches")
            document: object = json.loads(body)
            if not isinstance(document, dict):
                raise RefusedError(400, "the body is not a valid ExportTraceServiceRequest: it is not a JSON object")
            return _bounded(otlp.spans_from_json(cast("Json", document)))
    except TooManyFieldsError as error:
        raise RefusedError(413, f"{error}: send smaller batches") from error
    except (ValueError, RecursionError, OverflowError) as error:
        raise RefusedError(400, f"the body is not a valid ExportTraceServiceRequest: {error}") from error
    raise RefusedError(415, f"Content-Type {kind[:60]!r} is not supported: use {PROTOBUF} or {JSON}")
