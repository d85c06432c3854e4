"""Types of stored fields: their text form, as both stores keep it, and their Polars form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import polars as pl

from sunloom.errors import StoreError
from sunloom.features.plan.dtypes import PLAIN_FIELD_NAME, list_text, struct_text

NESTED = ("list[", "struct[")
"""What the text of a type with parts begins with."""


@dataclass(frozen=True)
class Field:
    """One value of a record.

    Attributes:
        name: The feature's name without its namespace.
        dtype: ``int64``, ``float64``, ``bool``, ``string``, ``datetime``, ``date``, ``duration``,
            ``list[…]`` or ``struct[name: …, …]``.
    """

    name: str
    dtype: str


def format_type(dtype: pl.DataType) -> str | None:
    """A type as text, such as ``list[struct[a: int64]]``; None where it cannot be stored."""
    for is_kind, name in _KINDS:
        if is_kind(dtype):
            return name
    if isinstance(dtype, pl.List | pl.Array):
        item = format_type(dtype.inner)  # type: ignore[arg-type]
        return None if item is None else list_text(item)
    if isinstance(dtype, pl.Struct):
        fields = {field.name: format_type(field.dtype) for field in dtype.fields}  # type: ignore[arg-type]
        known = {name: text for name, text in fields.items() if text is not None}
        return struct_text(known) if len(known) == len(fields) else None
    return None


def canonical_type(dtype: pl.DataType) -> pl.DataType:
    """The widest type of the same text: 64 bits, microseconds, UTC, lists."""
    # The text does not tell widths apart, but the files of one version are concatenated, which
    # needs equal types.
    if dtype.is_integer():
        return pl.Int64()
    if dtype.is_float():
        return pl.Float64()
    if isinstance(dtype, pl.Datetime):
        return _UTC
    if isinstance(dtype, pl.Duration):
        return pl.Duration("us")
    if isinstance(dtype, pl.List | pl.Array):
        return pl.List(canonical_type(dtype.inner))  # type: ignore[arg-type]
    if isinstance(dtype, pl.Struct):
        return pl.Struct([pl.Field(f.name, canonical_type(f.dtype)) for f in dtype.fields])  # type: ignore[arg-type]
    return dtype


def cast_values(column: pl.Series, dtype: pl.DataType, kind: str) -> pl.Series:
    """The column in a type of 64 bits.

    Args:
        column: The values.
        dtype: Their type.
        kind: What the error calls the column.

    Raises:
        StoreError: A whole number does not fit.
    """
    try:
        return column.cast(dtype)
    except pl.exceptions.InvalidOperationError as error:
        raise StoreError(
            f"{kind} {column.name!r} holds a whole number beyond 64 bits with sign.",
            "Store it as text or as a float.",
            column.name,
        ) from error


def check_times(table: pl.DataFrame, time: str) -> None:
    """Check the column of event times.

    Raises:
        StoreError: It has nulls, or is of another type than datetimes with a time zone.
    """
    dtype = table.schema[time]
    if not isinstance(dtype, pl.Datetime) or dtype.time_zone is None or table[time].null_count():
        raise StoreError(f"The time {time!r} must be UTC datetimes without nulls.")


@lru_cache(maxsize=256)
def parse_type(text: str) -> pl.DataType:
    """The canonical type of a text that ``format_type`` returned."""
    dtype, rest = _parse(text)
    assert not rest, text
    return dtype


def _parse(text: str) -> tuple[pl.DataType, str]:
    """The type that the text begins with, and the rest of the text."""
    if text.startswith("list["):
        item, rest = _parse(text.removeprefix("list["))
        return pl.List(item), rest.removeprefix("]")
    if text.startswith("struct["):
        rest = text.removeprefix("struct[")
        fields: list[pl.Field] = []
        while not rest.startswith("]"):
            # The decoder finds the end of a quoted name, which may contain quotes itself.
            plain = PLAIN_FIELD_NAME.match(rest)
            name, end = (plain[0], plain.end()) if plain else json.JSONDecoder().raw_decode(rest)
            dtype, rest = _parse(rest[end:].removeprefix(": "))
            fields.append(pl.Field(name, dtype))
            rest = rest.removeprefix(", ")
        return pl.Struct(fields), rest.removeprefix("]")
    name = next(name for name in _TYPES if text.startswith(name))
    return _TYPES[name], text.removeprefix(name)


_KINDS: tuple[tuple[Callable[[pl.DataType], bool], str], ...] = (
    (lambda dtype: dtype.is_integer(), "int64"),
    (lambda dtype: dtype.is_float(), "float64"),
    (lambda dtype: dtype == pl.Boolean, "bool"),
    (lambda dtype: dtype == pl.String, "string"),
    # Without a time zone it is no point in time, and is refused.
    (lambda dtype: isinstance(dtype, pl.Datetime) and dtype.time_zone is not None, "datetime"),
    (lambda dtype: dtype == pl.Date, "date"),
    (lambda dtype: isinstance(dtype, pl.Duration), "duration"),
)
_UTC = pl.Datetime("us", "UTC")
# ``datetime`` before ``date``: the parser takes the first name that the text begins with.
_TYPES: Mapping[str, pl.DataType] = {
    "int64": pl.Int64(),
    "float64": pl.Float64(),
    "bool": pl.Boolean(),
    "string": pl.String(),
    "datetime": _UTC,
    "date": pl.Date(),
    "duration": pl.Duration("us"),
}
