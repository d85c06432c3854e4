"""Repeats of an event: rows with the id of another row, counted or left out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

from sunloom.config.data import Deduplication

_ROW = "row"
_TIME = "time"


def drop_repeats(rows: pl.DataFrame, rule: Deduplication, time: str | None) -> pl.DataFrame:
    """The rows without repeats, in their order.

    Args:
        rows: A class's rows in order of insertion, all that may repeat each other.
        rule: Columns that identify an event, and which of its rows is kept.
        time: The event time's column; without it the order of insertion alone decides.
    """
    names = [f"by{number}" for number in range(len(rule.by))]
    columns = [pl.col(own).alias(name) for own, name in zip(rule.by, names, strict=True)]
    if time is not None:
        columns.append(pl.col(time).alias(_TIME))
    events = rows.select(columns).with_row_index(_ROW).drop_nulls(names)
    if time is not None:
        # Stable, so that rows of equal times keep their order of insertion.
        events = events.sort(_TIME, maintain_order=True)
    kept = events.unique(names, keep=rule.keep)[_ROW]
    if len(kept) == events.height:
        return rows
    is_kept = np.ones(rows.height, dtype=bool)
    is_kept[events[_ROW].to_numpy()] = False
    is_kept[kept.to_numpy()] = True
    return rows.filter(pl.Series(is_kept))


def id_number(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Numbers of 64 bits that are equal where ids are; null where the id is.

    Args:
        column: The ids as they were read: a count of repeats must not refuse a source for the type
            of a column that nothing else reads.
        dtype: Their type.
    """
    if dtype.is_integer():
        return column.cast(pl.Int64, wrap_numerical=True).reinterpret(signed=False)
    text = column.cast(pl.String) if isinstance(dtype, pl.Categorical | pl.Enum) else column
    # A fixed seed: workers number the ids of their own splits.
    return pl.when(column.is_not_null()).then(text.hash(seed=0))


def count_repeats(numbers: Iterable[pl.Series]) -> int:
    """Rows whose id an earlier row has.

    Args:
        numbers: Of ``id_number``, in parts.
    """
    ids = pl.concat([pl.Series("id", [], pl.UInt64), *numbers]).drop_nulls()
    # Most tables are written in the order of their ids, and a pass is cheaper than a hash table.
    if ids.is_sorted():
        return int((ids == ids.shift(1)).sum())
    return len(ids) - ids.n_unique()
