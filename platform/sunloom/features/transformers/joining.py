"""Parquet files of one schema into one file, without reading their values.

Row groups are copied as bytes and the places in their descriptions moved: what a worker has
encoded is not decoded again. The descriptions are Thrift's compact protocol.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from sunloom.errors import ArtifactError

Fields: TypeAlias = dict[int, tuple[int, Any]]
"""A Thrift structure: number of a field to its type and value."""

_MAGIC = b"PAR1"
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)

# Fields of Parquet's FileMetaData, RowGroup, ColumnChunk and ColumnMetaData.
_ROWS, _GROUPS = 3, 4
_COLUMNS, _GROUP_PLACE, _ORDINAL = 1, 5, 7
_CHUNK_PLACE, _ABOUT, _PAGE_INDEX_PLACES = 2, 3, (4, 6)
_PAGE_PLACES = (9, 10, 11, 14)


def join_parquet(parts: Sequence[Path], out: Path) -> int:
    """Write one file with the row groups of all parts, in order; each part is removed.

    Args:
        parts: Parquet files that were written with one schema.
        out: The file to write.

    Returns:
        Rows.

    Raises:
        ArtifactError: A part is no Parquet file.
    """
    groups: list[Any] = []
    rows, joined = 0, Fields()
    with out.open("wb") as target:
        target.write(_MAGIC)
        for part in parts:
            with part.open("rb", buffering=0) as source:
                about, length = _footer(source, part)
                moved = target.tell() - len(_MAGIC)
                source.seek(len(_MAGIC))
                _copy(source, target, length)
            joined = joined or about
            rows += about[_ROWS][1]
            for group in about[_GROUPS][1][1]:
                groups.append(_moved(group, moved, len(groups)))
            part.unlink()
        joined[_ROWS] = (joined[_ROWS][0], rows)
        joined[_GROUPS] = (_LIST, (_STRUCT, groups))
        encoded = encode(joined)
        target.write(encoded + struct.pack("<I", len(encoded)) + _MAGIC)
    return rows


def _footer(source: BinaryIO, part: Path) -> tuple[Fields, int]:
    """The file's description, and the length of what lies between its mark and that."""
    end = source.seek(-8, 2)
    size, mark = struct.unpack("<I4s", source.read(8))
    if mark != _MAGIC or size > end:
        raise ArtifactError(f"{part} is no Parquet file.", "Run again.")
    source.seek(end - size)
    return decode(source.read(size)), end - size - len(_MAGIC)


def _copy(source: BinaryIO, target: BinaryIO, length: int) -> None:
    left, block = length, memoryview(bytearray(min(length, 1 << 20)))
    while left:
        size = source.readinto(block[: min(left, len(block))])  # type: ignore[attr-defined]
        target.write(block[:size])
        left -= size


def _moved(group: Fields, by: int, ordinal: int) -> Fields:
    _move(group, (_GROUP_PLACE,), by)
    if _ORDINAL in group:
        group[_ORDINAL] = (group[_ORDINAL][0], ordinal)
    for chunk in group[_COLUMNS][1][1]:
        _move(chunk, (_CHUNK_PLACE, *_PAGE_INDEX_PLACES), by)
        _move(chunk[_ABOUT][1], _PAGE_PLACES, by)
    return group


def _move(fields: Fields, places: Sequence[int], by: int) -> None:
    for place in places:
        # 0 says that there is none.
        if place in fields and fields[place][1]:
            kind, value = fields[place]
            fields[place] = (kind, value + by)


@dataclass
class _Reader:
    data: bytes
    at: int = 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def integer(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def value(self, kind: int) -> Any:
        if kind in _INTEGERS:
            return self.integer()
        if kind == _BINARY:
            return self.take(self.varint())
        if kind == _STRUCT:
            return self.structure()
        if kind in (_LIST, _SET):
            return self.sequence()
        if kind in (_TRUE, _FALSE, _BYTE):
            return self.byte()
        if kind == _DOUBLE:
            return self.take(8)
        raise ArtifactError(f"A Parquet description holds Thrift's type {kind}.")

    def sequence(self) -> tuple[int, list[Any]]:
        head = self.byte()
        size = head >> 4 if head >> 4 < 15 else self.varint()
        kind = head & 15
        return kind, [self.value(kind) for _ in range(size)]

    def structure(self) -> Fields:
        fields, number = Fields(), 0
        while head := self.byte():
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else self.integer()
            # In a structure a truth lies in the type itself.
            fields[number] = (kind, None if kind in (_TRUE, _FALSE) else self.value(kind))
        return fields


def decode(data: bytes) -> Fields:
    """A structure of Thrift's compact protocol."""
    return _Reader(data).structure()


def encode(fields: Fields) -> bytes:
    """The same bytes again for what ``decode`` gives."""
    out, before = bytearray(), 0
    for number in sorted(fields):
        kind, value = fields[number]
        step = number - before
        out += bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + _integer(number)
        out += b"" if value is None else _value(kind, value)
        before = number
    return bytes(out + b"\0")


def _value(kind: int, value: Any) -> bytes:
    if kind in _INTEGERS:
        return _integer(value)
    if kind == _BINARY:
        return _varint(len(value)) + bytes(value)
    if kind == _STRUCT:
        return encode(value)
    if kind in (_LIST, _SET):
        item, values = value
        size = len(values)
        head = bytes([size << 4 | item]) if size < 15 else bytes([0xF0 | item]) + _varint(size)
        return head + b"".join(_value(item, one) for one in values)
    return bytes(value) if kind == _DOUBLE else bytes([value])


def _integer(value: int) -> bytes:
    return _varint((value << 1) ^ (value >> 63))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
