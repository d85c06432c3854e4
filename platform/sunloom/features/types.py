"""Types of plans and their forms in Polars, Arrow and Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from sunloom.features.plan import DType

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NUMBERS: Sequence[DType] = ("int64", "float64")

POLARS: Mapping[DType, pl.DataType] = {
    "int64": pl.Int64(),
    "float64": pl.Float64(),
    "bool": pl.Boolean(),
    "string": pl.String(),
    "datetime": pl.Datetime("us", "UTC"),
    "duration": pl.Duration("us"),
    "null": pl.Null(),
}


def unify(types: Sequence[DType]) -> DType | None:
    """The one type that all have, numbers widened and nulls fitting anything; else None."""
    known = {t for t in types if t != "null"}
    if not known:
        return "null" if types else None
    if len(known) == 1:
        return next(iter(known))
    return "float64" if known <= set(NUMBERS) else None


def arrow_dtype(arrow: Any) -> DType | None:
    """The plan's type of an Arrow type, or None where there is none.

    Datetimes without a time zone are Chalk's way to say UTC in a definition; data is checked
    apart.
    """
    import pyarrow as pa

    if pa.types.is_integer(arrow):
        return "int64"
    if pa.types.is_floating(arrow):
        return "float64"
    if pa.types.is_boolean(arrow):
        return "bool"
    if pa.types.is_string(arrow) or pa.types.is_large_string(arrow):
        return "string"
    if pa.types.is_timestamp(arrow):
        return "datetime"
    return "duration" if pa.types.is_duration(arrow) else None
