"""Reading a request within limits: its size, and what it becomes when it is unpacked."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any, Final, cast

from spanledger.reading import Json
from spanledger_clickhouse import otlp
from spanledger_clickhouse.otlp import Span

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"


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
    match encoding.strip().lower():
        case "" | "identity":
            unpack: Callable[[bytes, int], bytes] = lambda data, _: data  # noqa: E731
        case "gzip":
            unpack = lambda data, size: _zlib(data, size, zlib.MAX_WBITS | 16)  # noqa: E731
        case "deflate":
            unpack = lambda data, size: _zlib(data, size, zlib.MAX_WBITS)  # noqa: E731
        case "zstd":
            unpack = _zstd
        case other:
            raise RefusedError(415, f"Content-Encoding {other[:40]!r} is not known: use gzip or zstd")
    try:
        data = unpack(body, limit)
    except RefusedError:
        raise
    except Exception as error:
        raise RefusedError(400, f"the body is no {encoding}: {error}") from error
    if len(data) > limit:
        raise RefusedError(413, f"the request is longer than {limit:,} bytes when unpacked: send smaller batches")
    return data


def _zlib(data: bytes, limit: int, wbits: int) -> bytes:
    unpacker = zlib.decompressobj(wbits)
    found = unpacker.decompress(data, limit + 1)
    if not unpacker.eof and len(found) <= limit:
        raise ValueError("it is cut short")
    return found


def _zstd(data: bytes, limit: int) -> bytes:
    try:
        from compression import zstd  # pyright: ignore # Python 3.14
    except ImportError:
        from backports import zstd  # what clickhouse-connect brings

    module = cast("Any", zstd)
    unpacker: Any = module.ZstdDecompressor()
    found: bytes = unpacker.decompress(data, limit + 1)
    if not unpacker.eof and len(found) <= limit:
        raise ValueError("it is cut short")
    return found


def spans(body: bytes, content_type: str) -> list[Span]:
    """The spans of a request's body.

    Raises:
        RefusedError: 415 for a Content-Type that is not OTLP's, 400 for a body that is none.
    """
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == PROTOBUF:
            return list(otlp.decoded(body))
        if kind == JSON:
            document: object = json.loads(body)
            if not isinstance(document, dict):
                raise RefusedError(400, "the body is no ExportTraceServiceRequest: it is no JSON object")
            return list(otlp.spans(cast("Json", document)))
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the body is no ExportTraceServiceRequest: {error}") from error
    raise RefusedError(415, f"Content-Type {kind[:60]!r} is not OTLP's: use {PROTOBUF} or {JSON}")
