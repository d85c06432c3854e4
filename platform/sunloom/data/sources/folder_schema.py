"""Schema of a folder's files: columns by name, each in a type that holds every file's values.

A column that only some files have is null in the rows of the others. Numbers and timestamps of
different width become the widest; a column that is text in one file and a number in another is
refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import polars as pl

from sunloom.data.exact_casts import cast_exactly
from sunloom.errors import DataError

_TEXTS = (pl.String, pl.Categorical, pl.Enum)
_UNITS = ("ms", "us", "ns")


def merge_schemas(files: Iterable[tuple[str, pl.Schema]]) -> pl.Schema:
    """The columns of all files, in order of first appearance.

    Args:
        files: Name and schema of each. A column of type Null has no value, and so no type.

    Raises:
        DataError: Two files have a column in types that have none in common; names both.
    """
    merged: dict[str, pl.DataType] = {}
    first: dict[str, str] = {}
    for file, schema in files:
        for name, dtype in schema.items():
            known = merged.get(name, pl.Null())
            common = common_type(known, dtype)
            if common is None:
                raise DataError(
                    f"Column {name!r} is {known} in {first[name]}, but {dtype} in {file}.",
                    "Write it with one type in all files.",
                    name,
                )
            merged[name] = common
            if name not in first or common != known:
                first[name] = file
    return pl.Schema(merged)


def common_type(one: pl.DataType, other: pl.DataType) -> pl.DataType | None:
    """The type that holds the values of both; None where there is none."""
    if one == other or other == pl.Null:
        return one
    if one == pl.Null:
        return other
    if one.is_numeric() and other.is_numeric():
        empty = [pl.Series("", [], dtype=dtype).to_frame() for dtype in (one, other)]
        return pl.concat(empty, how="vertical_relaxed").dtypes[0]
    if isinstance(one, _TEXTS) and isinstance(other, _TEXTS):
        return pl.String()
    if isinstance(one, pl.Datetime) and isinstance(other, pl.Datetime):
        # Without a time zone it is no point in time, and cannot be compared with one that has it.
        if (one.time_zone is None) != (other.time_zone is None):
            return None
        zone = one.time_zone if one.time_zone == other.time_zone else "UTC"
        return pl.Datetime(_finest(one.time_unit, other.time_unit), zone)
    if isinstance(one, pl.Duration) and isinstance(other, pl.Duration):
        return pl.Duration(_finest(one.time_unit, other.time_unit))
    if isinstance(one, pl.List) and isinstance(other, pl.List):
        inner = common_type(_dtype(one.inner), _dtype(other.inner))
        return None if inner is None else pl.List(inner)
    return None


def fit_schema(rows: pl.DataFrame, schema: pl.Schema, file: str) -> pl.DataFrame:
    """A file's rows with the columns of the folder's schema, in its order and types.

    Raises:
        DataError: A whole number is beyond what a float of 64 bits holds exactly.
    """
    if rows.schema == schema:
        return rows
    if not rows.width:
        return pl.DataFrame(schema=schema)
    # Beside the file's own columns: constants alone would be one row, whatever the file has.
    fitted = rows.with_columns(fit_columns(rows.schema, schema)).select(schema.names())
    for name, dtype in rows.schema.items():
        if name in schema and fitted[name].null_count() > rows[name].null_count():
            raise DataError(
                f"{file}: a value of {name!r} ({dtype}) cannot be had as {schema[name]}, which "
                "other files of the folder have.",
                "Write it with one type in all files.",
                name,
            )
    return fitted


def fit_columns(own: pl.Schema, schema: pl.Schema) -> list[pl.Expr]:
    """The columns of a schema, of rows that have another one; null where a value is lost."""
    columns = []
    for name, dtype in schema.items():
        column = pl.col(name) if name in own else pl.lit(None, dtype)
        if name in own and own[name] != dtype:
            is_exact = own[name].is_numeric()
            column = cast_exactly(column, own[name], dtype) if is_exact else column.cast(dtype)
        columns.append(column.alias(name))
    return columns


def _finest(one: Any, other: Any) -> Any:
    return max(one, other, key=_UNITS.index)


def _dtype(inner: Any) -> pl.DataType:
    return inner if isinstance(inner, pl.DataType) else inner()
