"""Parsers of values written as text, such as a CSV's, by their declared type."""

from __future__ import annotations

import polars as pl

# %+ is RFC 3339; the two others have a space where it has a T, as databases write it.
_DATETIME_FORMATS = ("%+", "%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%d %H:%M:%S%.f%#z")
_TRUE, _FALSE = ("true", "True", "1"), ("false", "False", "0")
_CAST: dict[str, pl.DataType] = {
    "float64": pl.Float64(),
    "string": pl.String(),
    "duration": pl.Duration("us"),
    "bytes": pl.Binary(),
    "null": pl.Null(),
}


def parse_scalar(column: pl.Expr, dtype: str) -> pl.Expr:
    """Text as a value of the type; null where it cannot be parsed.

    Args:
        column: A column of strings; space around a value is ignored.
        dtype: ``int64``, ``float64``, ``bool``, ``string``, ``datetime`` (with a time zone, read
            as UTC), ``duration``, ``bytes`` or ``null``.
    """
    text = column.str.strip_chars()
    if dtype == "datetime":
        return parse_datetime(text)
    if dtype == "bool":
        true, false = text.is_in(_TRUE), text.is_in(_FALSE)
        return pl.when(true).then(True).when(false).then(False)
    if dtype == "int64":
        # 3.0 and 1e3 are whole numbers too; beyond 2**53 only the direct cast is exact.
        number = text.cast(pl.Float64, strict=False)
        whole = pl.when(number == number.round()).then(number.cast(pl.Int64, strict=False))
        return pl.coalesce(text.cast(pl.Int64, strict=False), whole)
    return text.cast(_CAST[dtype], strict=False)


def parse_datetime(text: pl.Expr) -> pl.Expr:
    """ISO 8601 with a time zone as UTC in microseconds; null where it cannot be parsed."""
    return pl.coalesce(
        text.str.to_datetime(form, time_unit="us", strict=False).dt.convert_time_zone("UTC")
        for form in _DATETIME_FORMATS
    )
