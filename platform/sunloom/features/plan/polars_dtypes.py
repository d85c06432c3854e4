"""Polars types of a plan's types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import polars as pl

from sunloom.features.plan.dtypes import DType, ListType, StructType

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_DAY = EPOCH.date()
_MICROSECOND = timedelta(microseconds=1)
NUMBERS: Sequence[DType] = ("int64", "float64")


class _PolarsTypes(dict[DType, pl.DataType]):
    """Scalars as listed; lists and structs built from their parts on first use."""

    def __missing__(self, dtype: DType) -> pl.DataType:
        if isinstance(dtype, ListType):
            self[dtype] = pl.List(self[dtype.item])
        elif isinstance(dtype, StructType):
            self[dtype] = pl.Struct([pl.Field(f.name, self[f.dtype]) for f in dtype.fields])
        else:
            raise KeyError(dtype)
        return self[dtype]


POLARS: Mapping[DType, pl.DataType] = _PolarsTypes(
    {
        "int64": pl.Int64(),
        "float64": pl.Float64(),
        "bool": pl.Boolean(),
        "string": pl.String(),
        # Microseconds, which Python's datetimes and the stored records have too.
        "datetime": pl.Datetime("us", "UTC"),
        "date": pl.Date(),
        "duration": pl.Duration("us"),
        "bytes": pl.Binary(),
        "null": pl.Null(),
    }
)
"""The Polars type of any plan type, nested ones included."""


def epoch_us(time: datetime) -> int:
    """Microseconds since the epoch, exactly."""
    # A float of seconds could not hold them: whole durations divide without rounding.
    return (time - EPOCH) // _MICROSECOND


def epoch_days(day: date) -> int:
    """Days since the epoch."""
    return (day - EPOCH_DAY).days


def is_scalar(dtype: DType) -> bool:
    """Whether it is neither a list nor a struct."""
    return isinstance(dtype, str)
