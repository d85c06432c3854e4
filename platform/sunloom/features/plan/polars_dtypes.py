"""Polars and Arrow types of a plan's types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from sunloom.features.plan.dtypes import DType, ListType, ScalarType, StructField, StructType

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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


# Names of predicates in pyarrow.types.
_ARROW_KINDS: Mapping[ScalarType, Sequence[str]] = {
    "int64": ("integer",),
    "float64": ("floating",),
    "bool": ("boolean",),
    "string": ("string", "large_string"),
    "datetime": ("timestamp",),
    "duration": ("duration",),
    "bytes": ("binary", "large_binary"),
}


def unify(types: Sequence[DType]) -> DType | None:
    """The common type: numbers are widened and null fits any type; None if there is none."""
    # Null is the type of the literal None alone, which any type has.
    known = {t for t in types if t != "null"}
    if not known:
        return "null" if types else None
    if len(known) == 1:
        return next(iter(known))
    if known <= set(NUMBERS):
        return "float64"
    items = {t.item for t in known if isinstance(t, ListType)}
    # The literal of an empty list has no item type of its own, and fits any list.
    typed = [t for t in known if t != ListType(item="null")]
    return typed[0] if len(items) == len(known) and len(typed) == 1 else None


def is_scalar(dtype: DType) -> bool:
    """Whether it is neither a list nor a struct."""
    return isinstance(dtype, str)


def arrow_dtype(arrow: Any) -> DType | None:
    """The plan type of an Arrow type, or None if there is none.

    Datetimes without a time zone are Chalk's way to say UTC in a definition; the time zones of
    data are checked where it is read.
    """
    # Imported late for its weight: most readers of a plan never meet an Arrow type.
    import pyarrow as pa

    if pa.types.is_list(arrow) or pa.types.is_large_list(arrow):
        item = arrow_dtype(arrow.value_type)
        return ListType(item=item) if item is not None else None
    if pa.types.is_struct(arrow):
        dtypes = [(field.name, arrow_dtype(field.type)) for field in arrow.fields]
        fields = [StructField(name=name, dtype=dtype) for name, dtype in dtypes if dtype]
        return StructType(fields=tuple(fields)) if len(fields) == len(dtypes) else None
    return next(
        (
            dtype
            for dtype, kinds in _ARROW_KINDS.items()
            if any(getattr(pa.types, f"is_{kind}")(arrow) for kind in kinds)
        ),
        None,
    )
