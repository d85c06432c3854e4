"""Target encodings of each level: for all rows, and out-of-fold for training rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import polars as pl

from sunloom.config.preprocessing.steps import TargetEncoder
from sunloom.preprocessing.accumulators.target_levels import (
    COUNT,
    FOLD,
    LEVEL,
    MEAN,
    SQUARES,
    merge_moments,
)
from sunloom.preprocessing.operations.categories import CategoryLookup


def build_target_lookup(
    step: TargetEncoder, column: str, moments: Mapping[str, pl.DataFrame]
) -> CategoryLookup:
    """The operation of one column.

    Args:
        step: Smoothing and folds.
        column: The column of levels.
        moments: End of an output's name to the target's moments by fold and level.
    """
    tables = {f"{column}{suffix}": table for suffix, table in moments.items()}
    levels = next(iter(tables.values()))[LEVEL].unique().drop_nulls().sort()

    def encode(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
        return pl.DataFrame(
            _encodings(part, levels, step.smooth).alias(name)
            for name, part in zip(tables, parts, strict=True)
        )

    def other_folds(fold: int, table: pl.DataFrame) -> pl.DataFrame:
        others = table.filter(pl.col(FOLD) != fold)
        # All rows may be in one fold of a tiny table: then there is nothing else to learn from.
        return others if others.height else table

    return CategoryLookup(
        column=column,
        names=tuple(tables),
        levels=levels,
        table=encode(tables.values()),
        folds=tuple(
            encode(other_folds(fold, table) for table in tables.values()) for fold in range(step.cv)
        ),
        cv=(step.cv, step.random_state),
    )


def _encodings(table: pl.DataFrame, levels: pl.Series, smooth: float | str) -> pl.Series:
    """One number per level, then one for a missing value and one for an unseen level."""
    overall = merge_moments(table, []).row(0, named=True)
    mean, variance = overall[MEAN], overall[SQUARES] / overall[COUNT]
    count, level_mean = pl.col(COUNT), pl.col(MEAN)
    if smooth == "auto":
        # Empirical Bayes: a level counts the more, the less its targets vary.
        weight = variance * count / (variance * count + pl.col(SQUARES) / count)
        number = weight * level_mean + (1 - weight) * mean
    else:
        number = (level_mean * count + float(smooth) * mean) / (count + float(smooth))
    by_level = merge_moments(table, [LEVEL])
    known = by_level.select(LEVEL, number.fill_nan(mean).alias("number"))
    every = pl.DataFrame({LEVEL: pl.concat([levels, levels.clear().extend_constant(None, 1)])})
    joined = every.join(known, on=LEVEL, how="left", nulls_equal=True, maintain_order="left")
    return pl.concat([joined["number"].fill_null(mean), pl.Series([mean], dtype=pl.Float64)])
