"""Target encodings of each level, for all rows and for each fold's rows."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from sunloom.config.preprocessing.steps import TargetEncoder
from sunloom.preprocessing.accumulators.target_levels import (
    COUNT,
    FOLD,
    LEVEL,
    MEAN,
    SQUARES,
    merged_moments,
)
from sunloom.preprocessing.operations.categories import CategoryLookup


def encoded(
    step: TargetEncoder, column: str, names: tuple[str, ...], tables: Sequence[pl.DataFrame]
) -> CategoryLookup:
    """The operation of one column.

    Args:
        step: Smoothing and folds.
        column: The column of levels.
        names: One an output.
        tables: For each output the target's moments by fold and level.
    """
    levels = tables[0][LEVEL].unique().drop_nulls().sort()
    whole = [_encodings(table, levels, step.smooth) for table in tables]
    folds = []
    for fold in range(step.cv):
        # A fold's rows are encoded by what the others tell.
        others = [table.filter(pl.col(FOLD) != fold) for table in tables]
        parts = [
            _encodings(other if other.height else table, levels, step.smooth)
            for other, table in zip(others, tables, strict=True)
        ]
        folds.append(_as_table(names, parts))
    return CategoryLookup(
        column=column,
        names=names,
        levels=levels,
        table=_as_table(names, whole),
        folds=tuple(folds),
        cv=(step.cv, step.random_state),
    )


def _as_table(names: Sequence[str], columns: Sequence[pl.Series]) -> pl.DataFrame:
    return pl.DataFrame([column.alias(name) for name, column in zip(names, columns, strict=True)])


def _encodings(table: pl.DataFrame, levels: pl.Series, smooth: float | str) -> pl.Series:
    """One number a level, then one for a missing value and one for a level never seen."""
    overall = merged_moments(table, []).row(0, named=True)
    mean, variance = overall[MEAN], overall[SQUARES] / overall[COUNT]
    by_level = merged_moments(table, [LEVEL])
    count, own = pl.col(COUNT), pl.col(MEAN)
    if smooth == "auto":
        weight = variance * count / (variance * count + pl.col(SQUARES) / count)
        number = weight * own + (1 - weight) * mean
    else:
        number = (own * count + float(smooth) * mean) / (count + float(smooth))
    known = by_level.select(LEVEL, number.fill_nan(mean).alias("number"))
    every = pl.DataFrame({LEVEL: pl.concat([levels, levels.clear().extend_constant(None, 1)])})
    joined = every.join(known, on=LEVEL, how="left", nulls_equal=True, maintain_order="left")
    return pl.concat([joined["number"].fill_null(mean), pl.Series([mean], dtype=pl.Float64)])
