"""Rows of a database driver as frames."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, time
from decimal import Decimal
from typing import Any

import polars as pl

from sunloom.errors import DataError

BATCH_ROWS = 50_000
_QUERY = re.compile(r"\s*(select|with|values|\()\b", re.IGNORECASE)


def is_query(text: str) -> bool:
    """Whether this is a query rather than a table's name."""
    return _QUERY.match(text) is not None


def frame_of(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> pl.DataFrame:
    """Rows as a frame; a column of nothing but nulls has no type yet.

    Datetimes with a zone become UTC microseconds; exact decimals become whole numbers where all
    are, else floats; identifiers and times of day become text.

    Raises:
        DataError: Two columns share a name, or a column's values have types that do not mix.
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(
            f"The query gives two columns of the name {repeated[0]!r}.",
            "Name each column once, with AS.",
            repeated[0],
        )
    # No rows transpose to no columns at all, but the names must stay.
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    return pl.DataFrame([_series(n, list(c)) for n, c in zip(names, columns, strict=True)])


def _series(name: str, values: list[Any]) -> pl.Series:
    kinds = {type(value) for value in values if value is not None}
    for matches, convert in _CONVERSIONS:
        if kinds and all(issubclass(kind, matches) for kind in kinds):
            values = convert(values)
            break
    if not kinds:
        return pl.Series(name, values, dtype=pl.Null)
    try:
        series = pl.Series(name, values)
    except (TypeError, pl.exceptions.PolarsError, OverflowError) as error:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(
            f"Column {name!r} mixes values that fit no one type ({names}).",
            "Cast it in a query.",
            name,
        ) from error
    return _to_utc(series)


def _to_utc(series: pl.Series) -> pl.Series:
    if not isinstance(series.dtype, pl.Datetime):
        return series
    series = series.dt.cast_time_unit("us")
    return series if series.dtype == pl.Datetime("us") else series.dt.convert_time_zone("UTC")


def _datetimes(values: list[Any]) -> list[Any]:
    # A driver may give each row a UTC offset of its own, which Polars does not mix.
    return [v if v is None or v.tzinfo is None else v.astimezone(UTC) for v in values]


def _decimals(values: list[Any]) -> list[Any]:
    known = [value for value in values if value is not None]
    if all(value.is_finite() and value == value.to_integral_value() for value in known):
        return [None if value is None else int(value) for value in values]
    return [None if value is None else float(value) for value in values]


def _texts(values: list[Any]) -> list[Any]:
    return [None if value is None else str(value) for value in values]


def _numbers(values: list[Any]) -> list[Any]:
    return [None if value is None else float(value) for value in values]


# The first entry that holds all of a column's types wins: bool stands before int, its base.
_CONVERSIONS: Sequence[tuple[type | tuple[type, ...], Callable[[list[Any]], list[Any]]]] = (
    (bool, list),
    (int, list),
    (datetime, _datetimes),
    (Decimal, _decimals),
    ((uuid.UUID, time), _texts),
    ((int, float, Decimal), _numbers),
)
