"""Columns read as declared types: a value that is not of its type becomes null."""

from __future__ import annotations

from typing import Literal

import polars as pl

from sunloom.data.sources.text_values import parse_scalar

Form = Literal["typed", "text", "json", "mixed"]
"""``typed`` columns have a type of their own; ``text`` ones come from files without types;
``json`` ones have JSON's types, where moments are text; ``mixed`` ones hold values of several
JSON types, as JSON text."""

_TEMPORAL = ("datetime", "date", "duration")


def as_declared(name: str, declared: str | None, found: pl.DataType, form: Form | None) -> pl.Expr:
    """The column as ``declared``, under its name; unchanged where nothing is declared.

    Args:
        name: The column.
        declared: One of the ``ValueType`` names.
        found: Its type in the source.
        form: How its values are written there.
    """
    column = pl.col(name)
    if declared is None:
        return column
    if found == pl.String:
        return _from_text(column, declared, form or "typed").alias(name)
    return _from_typed(column, declared, found).alias(name)


def infer_type(texts: pl.Series) -> str | None:
    """The narrowest type that every text of a column can be read as; None where it stays text."""
    given = texts.drop_nulls()
    if given.is_empty():
        return None
    for name in ("int64", "float64", "bool", "datetime", "date"):
        read = given.to_frame("text").select(_parsed(pl.col("text"), name)).to_series()
        if read.null_count() == 0:
            return name
    return None


def _from_text(column: pl.Expr, declared: str, form: Form) -> pl.Expr:
    if form == "mixed":
        quoted = column.str.starts_with('"')
        if declared == "string":
            return pl.when(quoted).then(column.str.json_decode(pl.String))
        inner = column if declared not in _TEMPORAL else column.str.strip_chars('"')
        return _parsed(inner, declared)
    if declared == "string":
        return column
    if form == "text" or (form == "json" and declared in _TEMPORAL):
        return _parsed(column, declared)
    return _nothing(declared)


def _parsed(column: pl.Expr, declared: str) -> pl.Expr:
    if declared == "date":
        return column.str.strip_chars().str.to_date("%Y-%m-%d", strict=False)
    if declared == "duration":
        seconds = column.str.strip_chars().cast(pl.Float64, strict=False)
        return pl.duration(microseconds=(seconds * 1_000_000).round().cast(pl.Int64, strict=False))
    return parse_scalar(column, declared)


def _from_typed(column: pl.Expr, declared: str, found: pl.DataType) -> pl.Expr:
    if found == pl.Null:
        return _nothing(declared)
    if declared == "int64" and found.is_integer():
        return column.cast(pl.Int64, strict=False)
    if declared == "int64" and found.is_float():
        return pl.when(column == column.round()).then(column.cast(pl.Int64, strict=False))
    if declared == "float64" and found.is_numeric():
        return column.cast(pl.Float64)
    if declared == "datetime" and isinstance(found, pl.Datetime) and found.time_zone is not None:
        return column.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    return column if _is_already(declared, found) else _nothing(declared)


def _is_already(declared: str, found: pl.DataType) -> bool:
    kinds: dict[str, tuple[type[pl.DataType], ...]] = {
        "bool": (pl.Boolean,),
        "date": (pl.Date,),
        "duration": (pl.Duration,),
        "string": (pl.Categorical, pl.Enum),
    }
    return isinstance(found, kinds.get(declared, ()))


def _nothing(declared: str) -> pl.Expr:
    kinds: dict[str, pl.DataType] = {
        "int64": pl.Int64(),
        "float64": pl.Float64(),
        "bool": pl.Boolean(),
        "string": pl.String(),
        "datetime": pl.Datetime("us", "UTC"),
        "date": pl.Date(),
        "duration": pl.Duration("us"),
    }
    return pl.lit(None, dtype=kinds[declared])
