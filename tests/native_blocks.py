"""ClickHouse's Native format as clients of a newer protocol read it: blocks with block info, and a byte of serialization a column.

`chdb` writes blocks without both, as for clients of protocol 0; inserts over HTTP come without both as well. Layouts: ClickHouse 26.9 NativeReader.cpp, BlockInfo.cpp,
SerializationLowCardinality.cpp, as far as the Collector's exporter has types.
"""

from __future__ import annotations

from typing import Final

BLOCK_INFO: Final = b"\x01\x00\x02\xff\xff\xff\xff\x00"
"""Field 1 (is_overflows) false, field 2 (bucket_num) -1, end."""
SIZES: Final = {
    "UInt8": 1, "Int8": 1, "Bool": 1, "UInt16": 2, "Int16": 2, "UInt32": 4, "Int32": 4, "DateTime": 4, "UInt64": 8, "Int64": 8,
    "Float64": 8, "Float32": 4,
}  # fmt: skip
USUAL_SERIALIZATION: Final = b"\x00"
INDEX_SIZES: Final = (1, 2, 4, 8)


class Reader:
    """Positions in a block."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.position]
            self.position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def text(self) -> str:
        return self.skip(self.varint()).decode()

    def skip(self, size: int) -> bytes:
        part = self.data[self.position : self.position + size]
        assert len(part) == size, "the block is cut short"
        self.position += size
        return part

    def number(self) -> int:
        return int.from_bytes(self.skip(8), "little")


def _inner(kind: str) -> tuple[str, list[str]]:
    """("Map", ["LowCardinality(String)", "String"])"""
    name, _, rest = kind.partition("(")
    arguments: list[str] = []
    depth, begin = 0, 0
    for place, character in enumerate(rest[:-1]):
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            arguments.append(rest[begin:place].strip())
            begin = place + 1
    return name, [*arguments, rest[begin:-1].strip()] if rest else []


def _prefix(reader: Reader, kind: str) -> None:
    name, arguments = _inner(kind)
    if name == "LowCardinality":
        assert reader.number() == 1, "another version of LowCardinality"
    elif name in ("Array", "Map", "Nullable", "Tuple"):
        for argument in arguments:
            _prefix(reader, argument)


def _values(reader: Reader, kind: str, rows: int) -> None:
    name, arguments = _inner(kind)
    if name == "String":
        for _ in range(rows):
            reader.skip(reader.varint())
    elif name == "LowCardinality":
        if rows:
            index_size = INDEX_SIZES[reader.number() & 255]
            _values(reader, arguments[0], reader.number())
            reader.skip(reader.number() * index_size)
    elif name in ("Array", "Map"):
        offsets = reader.skip(8 * rows)
        total = int.from_bytes(offsets[-8:], "little") if rows else 0
        for argument in arguments:
            _values(reader, argument, total)
    elif name == "Nullable":
        reader.skip(rows)
        _values(reader, arguments[0], rows)
    elif name == "DateTime64":
        reader.skip(8 * rows)
    else:
        reader.skip(SIZES[name] * rows)


def with_info(data: bytes) -> bytes:
    """Blocks for a client that reads block info."""
    reader, converted = Reader(data), b""
    while reader.position < len(data):
        begin = reader.position
        columns, rows = reader.varint(), reader.varint()
        converted += BLOCK_INFO + data[begin : reader.position]
        for _ in range(columns):
            begin = reader.position
            reader.text()
            kind = reader.text()
            converted += data[begin : reader.position] + USUAL_SERIALIZATION
            begin = reader.position
            if rows:
                _prefix(reader, kind)
                _values(reader, kind, rows)
            converted += data[begin : reader.position]
    return converted
