"""Exact casts: values in another type, and null where a value would not be the same."""

from __future__ import annotations

import polars as pl


def cast_exactly(column: pl.Expr, own: pl.DataType, target: pl.DataType) -> pl.Expr:
    """A column in another type; null where the value does not survive.

    Args:
        column: The column; text is not parsed by this, so it is none of text.
        own: Its type.
        target: The type wanted, such as int64 of floats: 3.0 is 3, and 3.5 is null.
    """
    if own in (target, pl.Null):
        return column.cast(target)
    cast = column.cast(target, strict=False)
    # There and back: Polars itself truncates fractions and nanoseconds, and rounds long integers.
    return pl.when(cast.cast(own, strict=False) == column).then(cast)


def cast_series_exactly(series: pl.Series, target: pl.DataType) -> pl.Series:
    """As ``cast_exactly``, of a series."""
    if series.dtype == target:
        return series
    exact = cast_exactly(pl.col(series.name), series.dtype, target)
    return series.to_frame().select(exact.alias(series.name)).to_series()


def cast_declared(series: pl.Series, target: pl.DataType) -> pl.Series:
    """Values that a user's function or another service gave, in their declared type.

    Text is parsed, and numbers may be rounded to floats, which is what declaring a float says.

    Raises:
        ValueError: A value does not survive, such as a fraction as a whole number.
        PolarsError: The values cannot be of the type at all.
    """
    if series.dtype == pl.String or target.is_float() or target.is_nested():
        return series.cast(target)
    exact = cast_series_exactly(series, target)
    lost = exact.is_null() & series.is_not_null()
    if series.dtype.is_float():
        # NaN is what pandas has for a missing number.
        lost &= series.is_not_nan()
    if lost.any():
        raise ValueError(f"{series.name!r} holds {series.filter(lost)[0]!r}, which is no {target}")
    return exact


def decode_texts(values: pl.Series) -> pl.Series:
    """Bytes as text; null where they are no UTF-8."""
    try:
        return values.cast(pl.String)
    except pl.exceptions.PolarsError:
        # One by one: Polars refuses the whole column for one value.
        return pl.Series(values.name, [_decode(value) for value in values], dtype=pl.String)


def _decode(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
