"""Codec of records: time, schema, null bitmap, 8 bytes per value, then the heap.

::

    feature time i64 µs · schema id u16 · null bitmap ⌈n/8⌉ bytes · n x 8 bytes · heap

A string, list or struct has offset and length (u32 each) in its 8 bytes; its bytes are in the heap.
There a list of numbers without nulls is its numbers, 8 bytes each; any other list or struct is
JSON, in which datetimes, dates and durations are whole microseconds, days and microseconds.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import polars as pl

from sunloom.errors import StoreError
from sunloom.feature_store.stores.field_types import (
    NESTED,
    Field,
    cast_values,
    format_type,
    parse_type,
)
from sunloom.features.plan.polars_dtypes import EPOCH, epoch_us

TIME_BYTES = 8
# The time comes first: stores compare it without decoding the record, Redis within its script.
_TIME = struct.Struct("<q")
_HEAD_AT = TIME_BYTES
_NULLS_AT = _HEAD_AT + 2
_EPOCH_DAY = date(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
# The first byte of a stored value: packed numbers or JSON.
_NUMBERS, _JSON = b"n", b"j"
_Convert = Callable[[Any], Any]


def record_type(dtype: pl.DataType, name: str) -> str:
    """The text of a Polars type, which must be one that records can hold.

    Raises:
        StoreError: It is not.
    """
    text = format_type(dtype)
    if text is None:
        raise StoreError(
            f"Feature {name!r} has type {dtype}, which the online store cannot pack.",
            "It packs integers, floats, booleans, strings, UTC datetimes, dates, durations, and "
            "lists and structs of these.",
            name,
        )
    return text


def schema_id_of(record: bytes) -> int:
    """The schema that the record was packed with."""
    return int.from_bytes(record[_HEAD_AT:_NULLS_AT], "little")


def time_of(record: bytes) -> int:
    """The record's feature time, microseconds since the epoch."""
    time: int = _TIME.unpack_from(record)[0]
    return time


class RecordCodec:
    """Packs and unpacks the records of one schema.

    Args:
        schema_id: Written into each record.
        fields: Names and types in packed order.
    """

    def __init__(self, schema_id: int, fields: Sequence[Field]) -> None:
        self.schema_id = schema_id
        self.fields = tuple(fields)
        self.names = tuple(field.name for field in self.fields)
        self._bitmap_bytes = -(-len(self.fields) // 8)
        self._values_at = _NULLS_AT + self._bitmap_bytes
        # Every field takes 8 bytes, so one call unpacks all of them.
        self._values = struct.Struct(
            f"<{self._values_at}x"
            + "".join("d" if field.dtype == "float64" else "q" for field in self.fields)
        )
        # The bytes between time and values in a record of this schema without nulls.
        self._head_without_nulls = schema_id.to_bytes(2, "little") + bytes(self._bitmap_bytes)
        # Fields whose 8 bytes are not yet their value.
        self._decoders = [
            (field.name, _field_decoder(field.dtype, self._values.size))
            for field in self.fields
            if field.dtype not in ("int64", "float64")
        ]

    def unpack(self, record: bytes) -> dict[str, Any]:
        """Name to value; None where the value is null."""
        values = dict(zip(self.names, self._values.unpack_from(record), strict=False))
        if record[_HEAD_AT : self._values_at] == self._head_without_nulls:
            for name, decode in self._decoders:
                values[name] = decode(values[name], record)
            return values
        nulls = int.from_bytes(record[_NULLS_AT : self._values_at], "little")
        for index, name in enumerate(self.names):
            if nulls >> index & 1:
                values[name] = None
        for name, decode in self._decoders:
            if values[name] is not None:
                values[name] = decode(values[name], record)
        return values

    def unpack_all(
        self,
        records: Sequence[bytes | None],
        unpack_other: Callable[[bytes | None], dict[str, Any] | None],
    ) -> list[dict[str, Any] | None]:
        """Each record's values; ``unpack_other`` gives those of None and of other schemas."""
        names, values, head, end = (
            self.names,
            self._values.unpack_from,
            self._head_without_nulls,
            self._values_at,
        )
        if self._decoders:
            # Literal offsets below: global names would be looked up again for every record.
            schema = head[:2]
            return [self.unpack(r) if r and r[8:10] == schema else unpack_other(r) for r in records]
        # Most reads of many entities end here: numbers without nulls, in as few operations per
        # record as Python allows. A record with nulls takes the other way, which checks again.
        return [
            dict(zip(names, values(r), strict=False)) if r and r[8:end] == head else unpack_other(r)
            for r in records
        ]

    def pack(self, table: pl.DataFrame, times: pl.Series) -> list[bytes]:
        """One record per row.

        Args:
            table: The fields as columns, of their declared types.
            times: Microseconds since the epoch, int64.

        Raises:
            StoreError: A whole number does not fit 64 bits.
        """
        # A structured array lays out all records at once; only heaps are built row by row.
        rows = np.zeros(table.height, dtype=self._row_dtype)
        rows["schema"] = self.schema_id
        rows["time"] = times.to_numpy()
        heaps: list[bytearray] | None = None
        for index, field in enumerate(self.fields):
            column = table[field.name]
            null = column.is_null().to_numpy().astype(np.uint8)
            # Bit i of the bitmap marks a null in field i.
            rows["nulls"][:, index // 8] |= null << (index % 8)
            if field.dtype == "string" or field.dtype.startswith(NESTED):
                heaps = heaps or [bytearray() for _ in range(table.height)]
                rows[f"v{index}"] = _append_to_heaps(column, field.dtype, heaps)
            else:
                rows[f"v{index}"] = _to_numpy(column, field)
        size = self._row_dtype.itemsize
        packed = rows.tobytes()
        records = [packed[at : at + size] for at in range(0, len(packed), size)]
        if heaps is None:
            return records
        return [record + heap for record, heap in zip(records, heaps, strict=True)]

    @cached_property
    def _row_dtype(self) -> np.dtype[Any]:
        columns: list[Any] = [
            ("time", "<i8"),
            ("schema", "<u2"),
            ("nulls", "u1", (self._bitmap_bytes,)),
        ]
        columns += [
            (f"v{index}", "<f8" if field.dtype == "float64" else "<i8")
            for index, field in enumerate(self.fields)
        ]
        return np.dtype(columns)


def _to_numpy(column: pl.Series, field: Field) -> np.ndarray[Any, Any]:
    # NumPy's numbers have no null: any value may stand there, because the bitmap marks it.
    if field.dtype == "float64":
        return column.cast(pl.Float64).fill_null(0.0).to_numpy()
    if field.dtype == "datetime":
        column = column.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    if field.dtype == "duration":
        column = column.dt.cast_time_unit("us")
    return cast_values(column, pl.Int64(), "Feature").fill_null(0).to_numpy()


def _append_to_heaps(column: pl.Series, dtype: str, heaps: list[bytearray]) -> np.ndarray[Any, Any]:
    """Append each row's value to its heap; offset and length of each in one integer."""
    encode = str.encode if dtype == "string" else value_codec(dtype).encode
    spans = np.zeros(len(heaps), dtype=np.int64)
    for row, (value, heap) in enumerate(zip(column.to_list(), heaps, strict=True)):
        encoded = b"" if value is None else encode(value)
        spans[row] = len(heap) | len(encoded) << 32
        heap += encoded
    return spans


def _field_decoder(dtype: str, heap_at: int) -> Callable[[Any, bytes], Any]:
    """Decodes a field from its 8 bytes and, for types in the heap, from the record."""
    if dtype in _DECODERS:
        return _DECODERS[dtype]
    parse = bytes.decode if dtype == "string" else value_codec(dtype).decode

    def decode(span: int, record: bytes) -> Any:
        start = heap_at + (span & 0xFFFFFFFF)
        return parse(record[start : start + (span >> 32)])

    return decode


_DECODERS: dict[str, Callable[[Any, bytes], Any]] = {
    "bool": lambda value, _record: value != 0,
    "datetime": lambda value, _record: EPOCH + timedelta(microseconds=value),
    "date": lambda value, _record: _EPOCH_DAY + timedelta(days=value),
    "duration": lambda value, _record: timedelta(microseconds=value),
}


@dataclass(frozen=True)
class ValueCodec:
    """One value of a nested type to bytes and back; never called with a null.

    Attributes:
        encode: Value to bytes.
        decode: Bytes to an equal value.
    """

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


@lru_cache(maxsize=256)
def value_codec(dtype: str) -> ValueCodec:
    """The codec of a list or struct type, given as text."""
    # Embeddings, for one: an array is copied at once, JSON would be parsed number by number.
    typecode = {"list[int64]": "q", "list[float64]": "d"}.get(dtype)
    return _json_codec(parse_type(dtype)) if typecode is None else _number_codec(typecode)


def _number_codec(typecode: str) -> ValueCodec:
    def encode(value: list[Any]) -> bytes:
        # An array of numbers cannot hold nulls.
        if None in value:
            return _JSON + json.dumps(value).encode()
        return _NUMBERS + array(typecode, value).tobytes()

    def decode(encoded: bytes) -> list[Any]:
        if encoded[:1] == _JSON:
            values: list[Any] = json.loads(encoded[1:])
            return values
        numbers = array(typecode)
        numbers.frombytes(encoded[1:])
        return numbers.tolist()

    return ValueCodec(encode, decode)


def _json_codec(dtype: pl.DataType) -> ValueCodec:
    to_json, from_json = _converter(dtype, _TO_JSON), _converter(dtype, _FROM_JSON)

    def encode(value: Any) -> bytes:
        return _JSON + json.dumps(to_json(value), separators=(",", ":")).encode()

    def decode(encoded: bytes) -> Any:
        return from_json(json.loads(encoded[1:]))

    return ValueCodec(encode, decode)


def _converter(dtype: pl.DataType, scalars: Mapping[str, _Convert]) -> _Convert:
    """Applies the scalars' conversions inside lists and structs; null stays null."""
    if isinstance(dtype, pl.List):
        item = _converter(dtype.inner, scalars)  # type: ignore[arg-type]
        return _keep_null(lambda values: [item(value) for value in values])
    if isinstance(dtype, pl.Struct):
        fields = {field.name: _converter(field.dtype, scalars) for field in dtype.fields}  # type: ignore[arg-type]
        return _keep_null(
            lambda row: {name: convert(row[name]) for name, convert in fields.items()}
        )
    convert = scalars.get(format_type(dtype) or "")
    return (lambda value: value) if convert is None else _keep_null(convert)


def _keep_null(convert: _Convert) -> _Convert:
    return lambda value: None if value is None else convert(value)


_TO_JSON: Mapping[str, _Convert] = {
    "datetime": epoch_us,
    "date": lambda value: (value - _EPOCH_DAY).days,
    "duration": lambda value: value // _MICROSECOND,
}
_FROM_JSON: Mapping[str, _Convert] = {
    "datetime": lambda value: EPOCH + timedelta(microseconds=value),
    "date": lambda value: _EPOCH_DAY + timedelta(days=value),
    "duration": lambda value: timedelta(microseconds=value),
}
