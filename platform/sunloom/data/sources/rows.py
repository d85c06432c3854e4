"""Rows as a database driver gives them, as frames."""

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


def is_query(wanted: str) -> bool:
    """Whether this is a query rather than a table's name."""
    return _QUERY.match(wanted) is not None


def frame_of(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> pl.DataFrame:
    """Rows as a frame; a column of nothing but nulls has no type yet.

    Datetimes with a zone become UTC microseconds; exact decimals become whole numbers where all
    are, else floats; identifiers and times of day become text.

    Raises:
        DataError: Two columns share a name, or a column's values are of kinds that do not mix.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"The query gives two columns of the name {twice[0]!r}.",
            "Name each column once, with AS.",
            twice[0],
        )
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
        made = pl.Series(name, values)
    except (TypeError, pl.exceptions.PolarsError, OverflowError) as error:
        shown = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(
            f"Column {name!r} mixes values that fit no one type ({shown}).",
            "Cast it in a query.",
            name,
        ) from error
    return _in_utc(made)


def _in_utc(made: pl.Series) -> pl.Series:
    if not isinstance(made.dtype, pl.Datetime):
        return made
    made = made.dt.cast_time_unit("us")
    return made if made.dtype == pl.Datetime("us") else made.dt.convert_time_zone("UTC")


def _moments(values: list[Any]) -> list[Any]:
    # A driver may give each row an offset of its own.
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


_CONVERSIONS: Sequence[tuple[type | tuple[type, ...], Callable[[list[Any]], list[Any]]]] = (
    (bool, list),
    (int, list),
    (datetime, _moments),
    (Decimal, _decimals),
    ((uuid.UUID, time), _texts),
    ((int, float, Decimal), _numbers),
)
