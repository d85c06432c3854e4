"""Declared types of columns: a value that does not have its column's type becomes null."""

from __future__ import annotations

from typing import Literal

import polars as pl

from sunloom.data.sources.text_values import parse_scalar

Form = Literal["typed", "text", "json", "mixed"]
"""``typed`` columns have a type of their own; ``text`` ones come from files without types;
``json`` ones have JSON's types, where datetimes are text; ``mixed`` ones hold values of several
JSON types, as JSON text."""

_TEMPORAL = ("datetime", "date", "duration")
_DTYPES: dict[str, pl.DataType] = {
    "int64": pl.Int64(),
    "float64": pl.Float64(),
    "bool": pl.Boolean(),
    "string": pl.String(),
    "datetime": pl.Datetime("us", "UTC"),
    "date": pl.Date(),
    "duration": pl.Duration("us"),
}
# Source types that need no conversion; numbers and datetimes are converted to one width and zone.
_SAME: dict[str, tuple[type[pl.DataType], ...]] = {
    "bool": (pl.Boolean,),
    "date": (pl.Date,),
    "duration": (pl.Duration,),
    "string": (pl.Categorical, pl.Enum),
}


def cast_to_declared(
    name: str, declared: str | None, source_type: pl.DataType, form: Form | None
) -> pl.Expr:
    """The column as ``declared``, under its name; unchanged where no type is declared.

    Args:
        name: The column.
        declared: One of the ``ValueType`` names.
        source_type: Its type in the source.
        form: How its values are written there.
    """
    column = pl.col(name)
    if declared is None:
        return column
    if source_type == pl.String:
        return _from_text(column, declared, form or "typed").alias(name)
    return _from_typed(column, declared, source_type).alias(name)


def infer_type(texts: pl.Series) -> str | None:
    """The narrowest type that every text of a column can be read as; None where it stays text."""
    values = texts.drop_nulls()
    if values.is_empty():
        return None
    # From narrow to wide: every integer is a number too, and 0 and 1 are truth values.
    for name in ("int64", "float64", "bool", "datetime", "date"):
        parsed = values.to_frame("text").select(_parse(pl.col("text"), name)).to_series()
        if parsed.null_count() == 0:
            return name
    return None


def _from_text(column: pl.Expr, declared: str, form: Form) -> pl.Expr:
    if form == "mixed":
        quoted = column.str.starts_with('"')
        if declared == "string":
            return pl.when(quoted).then(column.str.json_decode(pl.String))
        # In JSON text a string has its quotes, and times are strings.
        inner = column if declared not in _TEMPORAL else column.str.strip_chars('"')
        return _parse(inner, declared)
    if declared == "string":
        return column
    if form == "text" or (form == "json" and declared in _TEMPORAL):
        return _parse(column, declared)
    return _all_null(declared)


def _parse(column: pl.Expr, declared: str) -> pl.Expr:
    if declared == "date":
        return column.str.strip_chars().str.to_date("%Y-%m-%d", strict=False)
    if declared == "duration":
        seconds = column.str.strip_chars().cast(pl.Float64, strict=False)
        return pl.duration(microseconds=(seconds * 1_000_000).round().cast(pl.Int64, strict=False))
    return parse_scalar(column, declared)


def _from_typed(column: pl.Expr, declared: str, source_type: pl.DataType) -> pl.Expr:
    if declared == "int64" and source_type.is_integer():
        return column.cast(pl.Int64, strict=False)
    # A column of integers with nulls is often written as floats, by pandas above all.
    if declared == "int64" and source_type.is_float():
        return pl.when(column == column.round()).then(column.cast(pl.Int64, strict=False))
    if declared == "float64" and source_type.is_numeric():
        return column.cast(pl.Float64)
    if declared == "datetime" and isinstance(source_type, pl.Datetime) and source_type.time_zone:
        return column.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    return column if isinstance(source_type, _SAME.get(declared, ())) else _all_null(declared)


def _all_null(declared: str) -> pl.Expr:
    return pl.lit(None, dtype=_DTYPES[declared])
