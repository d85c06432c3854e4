"""A table as the offline store keeps it: canonical types, their names, what is refused."""

from __future__ import annotations

import polars as pl

from sunloom.data.sources.table_files import require_columns
from sunloom.errors import StoreError
from sunloom.feature_store.stores.online.protocol import Field
from sunloom.feature_store.stores.online.type_codec import canonical, spell


def prepared(
    feature_set: str, table: pl.DataFrame, key: str, time: str
) -> tuple[pl.DataFrame, dict[str, Field]]:
    """The rows in canonical types, and every column by its name.

    Raises:
        DataError: Key or time is missing.
        StoreError: A type has no stored form, or key or time is null.
    """
    require_columns(table, (key, time), f"The table for feature set {feature_set!r}")
    moment = table.schema[time]
    if not isinstance(moment, pl.Datetime) or moment.time_zone is None or table[time].null_count():
        raise StoreError(f"The time {time!r} must be UTC datetimes without nulls.")
    if table[key].null_count():
        raise StoreError(f"The key {key!r} must not be null.")
    # A column of nothing but nulls has no type to keep, and reads as null without being kept.
    unknown = [n for n, t in table.schema.items() if t == pl.Null and n not in (key, time)]
    table = table.drop(unknown)
    fields = {name: Field(name, _named(name, dtype)) for name, dtype in table.schema.items()}
    return pl.DataFrame([_cast(column) for column in table]), fields


def _named(name: str, dtype: pl.DataType) -> str:
    spelled = spell(dtype)
    if spelled is None:
        raise StoreError(
            f"Column {name!r} has type {dtype}, which the offline store does not keep.",
            "It keeps integers, floats, booleans, strings, UTC datetimes, dates, durations, and "
            "lists and structs of these.",
            name,
        )
    return spelled


def _cast(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.Datetime):
        return column.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    try:
        return column.cast(canonical(column.dtype))
    except pl.exceptions.InvalidOperationError as error:
        raise StoreError(
            f"Column {column.name!r} holds a whole number beyond 64 bits with sign.",
            "Store it as text or as a float.",
            column.name,
        ) from error
