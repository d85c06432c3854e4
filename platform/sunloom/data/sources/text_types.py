"""Types of columns of text: the type that every value of a column has, where no value changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeAlias

import polars as pl

from sunloom.data.exact_casts import cast_exactly

# %+ is RFC 3339; the two others have a space where it has a T, as databases write it.
_DATETIME_FORMATS = ("%+", "%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%d %H:%M:%S%.f%#z")
_DATETIME_LIMITS = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
# A digit beyond microseconds, which no value of a plan holds.
FINER = r"\.\d{6}\d*[1-9]"
_TRUE, _FALSE = ("true", "True", "TRUE", "1"), ("false", "False", "FALSE", "0")
# Up to here every whole number is a float.
_EXACT = 2.0**53
_CAST: Mapping[str, pl.DataType] = {
    "float64": pl.Float64(),
    "string": pl.String(),
    "duration": pl.Duration("us"),
    "bytes": pl.Binary(),
    "null": pl.Null(),
}
UTC_TIME, LOCAL_TIME = pl.Datetime("us", "UTC"), pl.Datetime("us")
# A leading zero or plus sign is part of an identifier: as numbers, 00501 and +49 would lose it.
_WHOLE = r"^-?(?:0|[1-9]\d*)$"
_NUMBER = r"^[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?$"
_NO_FINITE = r"^[+-]?(?:nan|NaN|inf|Inf|Infinity)$"
_COMMA_NUMBER = r"^[+-]?(?:0|[1-9]\d*),\d+$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_TRUTH = ("true", "false", "True", "False", "TRUE", "FALSE")
_LOCAL_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f")


def parse_scalar(column: pl.Expr, dtype: str, *, decimal_comma: bool = False) -> pl.Expr:
    """Text as a value of the type; null where it cannot be parsed.

    Args:
        column: A column of strings; space around a value that is no text is ignored.
        dtype: ``int64``, ``float64``, ``bool``, ``string``, ``datetime`` (with a time zone, read
            as UTC), ``date`` (ISO 8601), ``duration``, ``bytes`` or ``null``.
        decimal_comma: Whether numbers have a decimal comma, unless the column has points too.
    """
    if dtype in ("string", "bytes"):
        return column.cast(_CAST[dtype])
    text = column.str.strip_chars()
    if dtype == "datetime":
        return parse_datetime(text)
    if dtype == "date":
        return parse_date(text)
    if dtype == "bool":
        true, false = text.is_in(_TRUE), text.is_in(_FALSE)
        return pl.when(true).then(True).when(false).then(False)
    if decimal_comma and dtype in ("int64", "float64"):
        # Beside a comma a point separates thousands, or is one: 1.234 would have two readings.
        has_points = text.str.contains(".", literal=True).any()
        text = pl.when(has_points).then(text).otherwise(text.str.replace(",", ".", literal=True))
    if dtype == "int64":
        # 3.0 and 1e3 are whole numbers too; beyond 2**53 only the direct cast is exact.
        number = text.cast(pl.Float64, strict=False)
        is_whole = (number == number.round()) & (number.abs() <= _EXACT)
        whole = pl.when(is_whole).then(number.cast(pl.Int64, strict=False))
        return pl.coalesce(text.cast(pl.Int64, strict=False), whole)
    return text.cast(_CAST[dtype], strict=False)


def parse_datetime(text: pl.Expr) -> pl.Expr:
    """ISO 8601 with a time zone as UTC in microseconds; null where it cannot be parsed.

    Null too where it is finer than a microsecond: a truncated event would be seen before its time.
    """
    time = pl.coalesce(
        text.str.to_datetime(form, time_unit="us", strict=False).dt.convert_time_zone("UTC")
        for form in _DATETIME_FORMATS
    )
    # Polars parses the year 262142 too, which no read could give back as a Python datetime.
    is_kept = time.is_between(*_DATETIME_LIMITS) & ~text.str.contains(FINER)
    return pl.when(is_kept).then(time)


def parse_date(text: pl.Expr) -> pl.Expr:
    """``YYYY-MM-DD``, or a datetime at midnight UTC, as a date; null where it is neither."""
    # The pattern first: Polars' own format also takes months and days of one digit.
    day = pl.when(text.str.contains(_DATE)).then(text)
    # pandas and databases write a column of dates as midnights.
    local = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)
    times = (parse_datetime(text).dt.replace_time_zone(None), local)
    return pl.coalesce(
        day.str.to_date("%Y-%m-%d", strict=False),
        *(cast_exactly(time, LOCAL_TIME, pl.Date()) for time in times),
    )


def infer_types(frame: pl.DataFrame, *, decimal_comma: bool = False) -> pl.DataFrame:
    """Columns of text as the types that all of their values have.

    Args:
        frame: Columns of text.
        decimal_comma: Whether numbers may have a decimal comma.
    """
    if not frame.height:
        # Without rows there is no value to go by.
        return frame
    dtypes = {c.name: infer_type(c, decimal_comma=decimal_comma) for c in frame}
    return frame.with_columns(
        parse_text(pl.col(name), dtype, decimal_comma=decimal_comma).alias(name)
        for name, dtype in dtypes.items()
    )


def infer_type(texts: pl.Series, *, decimal_comma: bool = False) -> pl.DataType:
    """The type of a column of text; Null where it has no value, String where it stays text."""
    values = texts.drop_nulls().str.strip_chars()
    values = values.filter(values != "")
    if values.is_empty():
        return pl.Null()
    for dtype, has_type in _TYPES:
        # One value first: most columns are told apart by it, without a look at all of them.
        if has_type(values.head(1), decimal_comma) and has_type(values, decimal_comma):
            return dtype
    # One value with a fraction makes numbers of whole ones, so the first may not be one.
    return pl.Float64() if _are_numbers(values, decimal_comma) else pl.String()


def with_decimal_points(frame: pl.DataFrame) -> pl.DataFrame:
    """Columns of text, with a point in numbers of those that have only numbers with commas."""
    points = [
        column.str.replace(",", ".", literal=True)
        for column in frame
        if column.dtype == pl.String
        and infer_type(column) == pl.String
        and infer_type(column, decimal_comma=True) == pl.Float64
    ]
    return frame.with_columns(points)


def parse_text(column: pl.Expr, dtype: pl.DataType, *, decimal_comma: bool = False) -> pl.Expr:
    """Text as a value of the type; null where it cannot be parsed."""
    text = column.str.strip_chars()
    if dtype == pl.Null:
        # No plain literal, which has one row whatever the column has.
        return pl.when(column.is_null()).then(None).otherwise(None)
    if dtype == pl.Int64:
        return parse_scalar(column, "int64", decimal_comma=decimal_comma)
    if dtype == pl.Float64:
        return parse_scalar(column, "float64", decimal_comma=decimal_comma)
    if dtype == pl.Boolean:
        return parse_scalar(column, "bool")
    if dtype == UTC_TIME:
        return parse_datetime(text)
    if dtype == LOCAL_TIME:
        time = pl.coalesce(
            text.str.to_datetime(form, time_unit="us", strict=False) for form in _LOCAL_FORMATS
        )
        return pl.when(~text.str.contains(FINER)).then(time)
    if dtype == pl.Date:
        return text.str.to_date("%Y-%m-%d", strict=False)
    return column


def type_name(dtype: pl.DataType) -> str:
    """The type in words, for an error about a value that is not of it."""
    if isinstance(dtype, pl.Datetime):
        return "a date and time with a time zone, such as 2026-01-31T12:00:00Z"
    names = {pl.Int64(): "a whole number", pl.Boolean(): "true or false", pl.Float64(): "a number"}
    return names.get(dtype, f"of type {dtype}")


def _are_whole(values: pl.Series, _decimal_comma: bool) -> bool:
    is_whole = bool(values.str.contains(_WHOLE).all())
    # Beyond 64 bits a number is no value that survives.
    return is_whole and values.cast(pl.Int64, strict=False).null_count() == 0


def _are_numbers(values: pl.Series, decimal_comma: bool) -> bool:
    is_whole = values.str.contains(_WHOLE)
    is_number, no_finite = values.str.contains(_NUMBER), values.str.contains(_NO_FINITE)
    if decimal_comma and not values.str.contains(".", literal=True).any():
        is_number |= values.str.contains(_COMMA_NUMBER)
    has_fraction = is_number & ~values.str.contains(r"^[+-]?\d+$")
    if not has_fraction.any() or not (is_number | no_finite).all():
        return False
    parsed = parse_scalar(pl.col(values.name), "float64", decimal_comma=decimal_comma)
    numbers = values.to_frame().select(parsed).to_series()
    whole = values.filter(is_whole).cast(pl.Int64, strict=False)
    # Neither may a float round a long whole number, nor make an infinite one of 1e999.
    exact = numbers.filter(is_whole).cast(pl.Int64, strict=False) == whole
    return bool(exact.all()) and not numbers.filter(~no_finite).is_infinite().any()


def _have_type(dtype: pl.DataType) -> _Check:
    def check(values: pl.Series, _decimal_comma: bool) -> bool:
        parsed = values.to_frame().select(parse_text(pl.col(values.name), dtype))
        return parsed.to_series().null_count() == 0

    return check


_Check: TypeAlias = Callable[[pl.Series, bool], bool]
_TYPES: Sequence[tuple[pl.DataType, _Check]] = (
    (pl.Int64(), _are_whole),
    (pl.Float64(), _are_numbers),
    (pl.Boolean(), lambda values, _decimal_comma: bool(values.is_in(_TRUTH).all())),
    (UTC_TIME, _have_type(UTC_TIME)),
    (LOCAL_TIME, _have_type(LOCAL_TIME)),
    (pl.Date(), _have_type(pl.Date())),
)
