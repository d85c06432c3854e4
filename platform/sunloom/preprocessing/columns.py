"""Columns by kind: number, category, time and others; levels of a category, numbers as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sunloom.data.arrays import FloatArray
from sunloom.data.exact_casts import decode_texts
from sunloom.errors import DataError

Kind = Literal["number", "category", "bool", "time", "bytes", "other"]


def kind_of(dtype: pl.DataType) -> Kind:
    """A column's kind: what a step without ``columns`` goes by."""
    # A column of nulls only is a number: imputers take it, encoders would make a level of it.
    if dtype.is_integer() or dtype.is_float() or dtype.is_decimal() or dtype == pl.Null:
        return "number"
    if dtype == pl.Boolean:
        return "bool"
    if dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum):
        return "category"
    if isinstance(dtype, pl.Datetime) or dtype == pl.Date:
        return "time"
    if dtype == pl.Binary:
        return "bytes"
    return "other"


def level_dtype(dtype: pl.DataType) -> pl.DataType:
    """The type in which a column's levels are kept: text, int64, float64, decimal or bool."""
    if dtype.is_integer():
        return pl.Int64()
    if isinstance(dtype, pl.Decimal):
        # As they are: many decimals of 17 digits and more have the same float.
        return pl.Decimal(38, dtype.scale)
    if dtype.is_float():
        return pl.Float64()
    return pl.Boolean() if dtype == pl.Boolean else pl.String()


def levels_of(series: pl.Series) -> pl.Series:
    """A column in the type of its levels; NaN is missing."""
    # One width for all files of a table, which may differ in it.
    levels = series.cast(level_dtype(series.dtype))
    return levels.fill_nan(None) if levels.dtype == pl.Float64 else levels


def exact_decimal(value: Any) -> Any:
    """A number as a decimal: of a float the shortest one that is the same float."""
    return Decimal(repr(value)) if isinstance(value, float) else value


def decode_columns(rows: pl.DataFrame, columns: Iterable[str]) -> pl.DataFrame:
    """Rows with those of the columns that hold bytes as text.

    Raises:
        DataError: A value is no UTF-8.
    """
    for name in columns:
        if rows.schema[name] != pl.Binary:
            continue
        texts = decode_texts(rows[name])
        lost = texts.is_null() & rows[name].is_not_null()
        if lost.any():
            raise not_utf8_error(name, f", such as {rows[name].filter(lost)[0]!r}")
        rows = rows.with_columns(texts)
    return rows


def not_utf8_error(column: str, example: str = "") -> DataError:
    """The refusal of bytes that are no text."""
    return DataError(
        f"Column {column!r} holds bytes that are no UTF-8{example}.",
        "Write the column as text, decoded from the encoding that its bytes are in.",
        column,
    )


def require_kind(
    schema: Mapping[str, pl.DataType], columns: Iterable[str], kinds: Iterable[Kind], step: str
) -> None:
    """Check that every column is of one of these kinds.

    Raises:
        DataError: Names the step, the column, its type and what would fit.
    """
    accepted = tuple(kinds)
    for name in columns:
        # A column without any value has no type of its own.
        if schema[name] != pl.Null and kind_of(schema[name]) not in accepted:
            raise DataError(
                f"{step} needs {_PLURALS[accepted[0]]}, but column {name!r} is {schema[name]}.",
                f"It takes {' or '.join(_PLURALS[kind] for kind in accepted)}: name other columns.",
                name,
            )


def infinite_error(column: str, place: str = "") -> DataError:
    """The refusal of an infinite value."""
    return DataError(
        f"Column {column!r} holds an infinite value{place}.",
        "Replace it, or make it null and impute it.",
        column,
    )


_PLURALS: Mapping[Kind, str] = {
    "number": "numbers",
    "category": "text or categories",
    "bool": "true and false",
    "time": "dates or datetimes",
    "bytes": "bytes",
    "other": "other values",
}


def as_numbers(name: str) -> pl.Expr:
    """A column as float64 without NaN."""
    # NaN and null mean the same to a recipe; Polars tells them apart.
    return pl.col(name).cast(pl.Float64).fill_nan(None)


def array_of(frame: pl.DataFrame, name: str) -> FloatArray:
    """A column as float64 with NaN for null; shape [rows]."""
    array: FloatArray = frame[name].cast(pl.Float64).to_numpy()
    return array


def column_of(name: str, values: NDArray[Any]) -> pl.Series:
    """An array as a column, NaN as null."""
    return pl.Series(name, values, dtype=pl.Float64, nan_to_null=True)


def map_column(
    frame: pl.DataFrame, name: str, function: Callable[[FloatArray], FloatArray]
) -> pl.Series:
    """A column through a function of arrays; null stays null."""
    # Nulls go through the function as NaN: that it warns of them is no news.
    with np.errstate(invalid="ignore"):
        return column_of(name, function(array_of(frame, name)))
