"""One packed record an entity: header, null bitmap, fixed-width values, then the strings' bytes.

::

    schema id u16 · feature time i64 µs · null bitmap ⌈n/8⌉ bytes · n x 8 bytes · heap

A string's 8 bytes are offset and length (u32 each) in the heap.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from sunloom.errors import StoreError
from sunloom.features.store.online import Field

_HEADER = struct.Struct("<Hq")
_TIME = struct.Struct("<2xq")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FORMATS = {"int64": "q", "float64": "d", "bool": "q", "datetime": "q", "string": "II"}


def field_dtype(dtype: pl.DataType, name: str) -> str:
    """The packed type of a Polars type.

    Raises:
        StoreError: The type has no packed form.
    """
    if dtype.is_integer():
        return "int64"
    if dtype.is_float():
        return "float64"
    if dtype == pl.Boolean:
        return "bool"
    if dtype == pl.String:
        return "string"
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        return "datetime"
    raise StoreError(
        f"Feature {name!r} has type {dtype}, which the online store cannot pack.",
        "It packs integers, floats, booleans, strings and UTC datetimes.",
        name,
    )


def schema_id_of(record: bytes | memoryview) -> int:
    """The schema that the record was packed with."""
    return int.from_bytes(record[:2], "little")


def time_of(record: bytes | memoryview) -> int:
    """Microseconds since the epoch as of which the record holds."""
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
        self._bitmap_bytes = -(-len(self.fields) // 8)
        self._values_at = _HEADER.size + self._bitmap_bytes
        self._values = struct.Struct("<" + "".join(_FORMATS[f.dtype] for f in self.fields))
        self._heap_at = self._values_at + self._values.size

    @cached_property
    def _plain(self) -> bool:
        return all(field.dtype in ("int64", "float64") for field in self.fields)

    def unpack(self, record: bytes | memoryview) -> dict[str, Any]:
        """Name to value; None where the value is null."""
        raw = self._values.unpack_from(record, self._values_at)
        nulls = int.from_bytes(record[_HEADER.size : self._values_at], "little")
        if self._plain and not nulls:
            return dict(zip((field.name for field in self.fields), raw, strict=True))
        return self._decode(raw, nulls, record)

    def _decode(
        self, raw: tuple[Any, ...], nulls: int, record: bytes | memoryview
    ) -> dict[str, Any]:
        values: dict[str, Any] = {}
        at = 0
        for index, field in enumerate(self.fields):
            width = 2 if field.dtype == "string" else 1
            if nulls >> index & 1:
                values[field.name] = None
            elif field.dtype == "string":
                start = self._heap_at + raw[at]
                values[field.name] = bytes(record[start : start + raw[at + 1]]).decode()
            else:
                values[field.name] = _DECODERS[field.dtype](raw[at])
            at += width
        return values

    def pack(self, table: pl.DataFrame, times: pl.Series) -> list[bytes]:
        """One record a row.

        Args:
            table: The fields as columns, of their declared types.
            times: Microseconds since the epoch, int64.
        """
        rows = np.zeros(table.height, dtype=self._row_dtype)
        rows["schema"] = self.schema_id
        rows["time"] = times.to_numpy()
        heaps: list[bytearray] | None = None
        for index, field in enumerate(self.fields):
            column = table[field.name]
            rows["nulls"][:, index // 8] |= column.is_null().to_numpy().astype(np.uint8) << (
                index % 8
            )
            if field.dtype == "string":
                heaps = heaps or [bytearray() for _ in range(table.height)]
                rows[f"v{index}"] = _append_strings(column, heaps)
            else:
                rows[f"v{index}"] = _as_numpy(column, field.dtype)
        return self._join(rows, heaps)

    def _join(self, rows: np.ndarray[Any, Any], heaps: list[bytearray] | None) -> list[bytes]:
        size = self._row_dtype.itemsize
        packed = rows.tobytes()
        records = [packed[at : at + size] for at in range(0, len(packed), size)]
        if heaps is None:
            return records
        return [record + heap for record, heap in zip(records, heaps, strict=True)]

    @cached_property
    def _row_dtype(self) -> np.dtype[Any]:
        kinds = {"float64": "<f8", "string": ("<u4", (2,))}
        columns: list[Any] = [
            ("schema", "<u2"),
            ("time", "<i8"),
            ("nulls", "u1", (self._bitmap_bytes,)),
        ]
        for index, field in enumerate(self.fields):
            kind = kinds.get(field.dtype, "<i8")
            columns.append((f"v{index}", *kind) if isinstance(kind, tuple) else (f"v{index}", kind))
        return np.dtype(columns)


def _as_numpy(column: pl.Series, dtype: str) -> np.ndarray[Any, Any]:
    if dtype == "float64":
        return column.cast(pl.Float64).fill_null(0.0).to_numpy()
    if dtype == "datetime":
        column = column.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    return column.cast(pl.Int64).fill_null(0).to_numpy()


def _append_strings(column: pl.Series, heaps: list[bytearray]) -> np.ndarray[Any, Any]:
    spans = np.zeros((len(heaps), 2), dtype=np.uint32)
    for row, (text, heap) in enumerate(zip(column, heaps, strict=True)):
        encoded = (text or "").encode()
        spans[row] = len(heap), len(encoded)
        heap += encoded
    return spans


def _identity(value: Any) -> Any:
    return value


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "int64": _identity,
    "float64": _identity,
    "bool": bool,
    "datetime": _moment,
}
