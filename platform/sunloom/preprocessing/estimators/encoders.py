"""Estimators of category encoders: one-hot, ordinal, target, frequency, hashing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sunloom.config.preprocessing.steps import (
    FeatureHasher,
    FrequencyEncoder,
    OneHotEncoder,
    OrdinalEncoder,
    TargetEncoder,
)
from sunloom.data.arrays import IntArray
from sunloom.errors import DataError
from sunloom.preprocessing.accumulators.counts import (
    COUNT,
    FOLD,
    LEVEL,
    MEAN,
    SQUARES,
    TargetLevels,
    merge_moments,
)
from sunloom.preprocessing.columns import Kind
from sunloom.preprocessing.estimators.protocol import (
    Accumulators,
    Builder,
    Estimator,
    FittedStep,
    collect_levels,
    for_each_column,
)
from sunloom.preprocessing.operations.categories import CategoryLookup, FeatureHash, OneHot
from sunloom.preprocessing.operations.protocol import Operation

_INFREQUENT = "infrequent_sklearn"


def _levels_of(
    step: OneHotEncoder | OrdinalEncoder, column: str, counted: pl.DataFrame
) -> pl.DataFrame:
    """Levels and counts: those counted, or those that the step names in its order."""
    if step.categories == "auto":
        return counted
    if column not in (step.columns or ()):
        raise DataError(
            f"categories has no list for column {column!r}.",
            "Name the step's columns, one list each.",
            "categories",
        )
    # By the step's own columns: an earlier step may have removed one of them, but not its list.
    values = list(step.categories[(step.columns or ()).index(column)])
    dtype = counted[LEVEL].dtype
    try:
        is_decimal = isinstance(dtype, pl.Decimal)
        typed = [_as_level(value, dtype) for value in values] if is_decimal else values
        named = pl.Series(LEVEL, typed, dtype=dtype)
    except (TypeError, ValueError, ArithmeticError, pl.exceptions.PolarsError):
        raise DataError(
            f"The categories {values} of column {column!r} are not all {counted[LEVEL].dtype}.",
            "Write them as the column has them: numbers plain, text in quotes.",
            "categories",
        ) from None
    levels = pl.DataFrame({LEVEL: named}).join(counted, on=LEVEL, how="left", maintain_order="left")
    unnamed = counted.join(levels, on=LEVEL, how="anti").drop_nulls(LEVEL)
    if step.handle_unknown == "error" and unnamed.height:
        raise DataError(
            f"Column {column!r} holds {unnamed[LEVEL][0]!r}, which categories lacks.",
            "Add it, or set handle_unknown.",
            column,
        )
    missing = counted.filter(pl.col(LEVEL).is_null())
    return pl.concat([levels.with_columns(pl.col(COUNT).fill_null(0)), missing])


def _as_level(value: Any, dtype: pl.DataType) -> Decimal:
    assert isinstance(dtype, pl.Decimal)
    # Polars itself would drop digits that the column's scale has no place for.
    decimal = Decimal(str(value))
    if decimal != round(decimal, dtype.scale):
        raise ValueError(value)
    return decimal


def infrequent_levels(
    step: OneHotEncoder | OrdinalEncoder, counts: IntArray, rows: int
) -> NDArray[np.bool_]:
    """Which levels share one output; [levels]."""
    mask = np.zeros(len(counts), dtype=bool)
    if isinstance(step.min_frequency, int):
        mask = counts < step.min_frequency
    elif step.min_frequency is not None:
        mask = counts < step.min_frequency * rows
    outputs = len(counts) - mask.sum() + 1
    if step.max_categories is not None and step.max_categories < outputs:
        frequent = step.max_categories - 1
        # A stable sort: among equals the first levels go, as in scikit-learn.
        order = np.argsort(counts, kind="stable")
        mask[order[:-frequent] if frequent else order] = True
    return mask


def _from_levels(build: Callable[[Any, str, pl.DataFrame], Operation]) -> Builder:
    """A builder of one operation per column from its levels and their counts."""

    def build_step(step: Any, columns: Sequence[str], accumulators: Accumulators) -> FittedStep:
        levels = [_levels_of(step, name, accumulators[name].finish()) for name in columns]
        return FittedStep([build(step, *pair) for pair in zip(columns, levels, strict=True)])

    return build_step


def _one_hot_of(step: OneHotEncoder, name: str, levels: pl.DataFrame) -> OneHot:
    rare = infrequent_levels(step, levels[COUNT].to_numpy(), int(levels[COUNT].sum()))
    # None stands for the output that all rare levels share.
    candidates = [*np.flatnonzero(~rare).tolist(), *([None] if rare.any() else [])]
    dropped = 0 if step.drop == "first" or (step.drop and len(candidates) == 2) else None
    outputs = [level for i, level in enumerate(candidates) if i != dropped]
    names = [
        _INFREQUENT if level is None else _level_name(levels[LEVEL][level], levels[LEVEL].dtype)
        for level in outputs
    ]
    place_of_level = {level: i for i, level in enumerate(outputs) if level is not None}
    shared = outputs.index(None) if None in outputs else -1
    places = [shared if rare[i] else place_of_level.get(i, -1) for i in range(levels.height)]
    # -2: a missing value was never seen, so it is as unknown as any other.
    places += [] if levels[LEVEL].null_count() else [-2]
    places.append(shared if step.handle_unknown == "infrequent_if_exist" else -1)
    return OneHot(
        column=name,
        names=tuple(f"{name}_{level}" for level in names),
        levels=levels[LEVEL].drop_nulls(),
        places=pl.Series(places, dtype=pl.Int64),
        unseen="error" if step.handle_unknown == "error" else "value",
        dtype=step.dtype,
    )


def _level_name(level: Any, dtype: pl.DataType) -> str:
    # A missing level as scikit-learn prints it.
    if level is None:
        return "None" if dtype == pl.String else "nan"
    return str(level)


def _ordinal_of(step: OrdinalEncoder, name: str, levels: pl.DataFrame) -> CategoryLookup:
    known = levels.drop_nulls(LEVEL)
    rare = infrequent_levels(step, known[COUNT].to_numpy(), int(levels[COUNT].sum()))
    numbers = np.where(rare, (~rare).sum(), np.cumsum(~rare) - 1).astype(np.float64)
    values = [*numbers.tolist(), step.encoded_missing_value, step.unknown_value]
    unseen: Literal["value", "error"] = "error" if step.handle_unknown == "error" else "value"
    return _lookup_of(name, known[LEVEL], values, unseen)


def _lookup_of(
    name: str, levels: pl.Series, values: list[Any], unseen: Literal["value", "error"]
) -> CategoryLookup:
    table = pl.DataFrame({name: pl.Series(values, dtype=pl.Float64)})
    return CategoryLookup(name, (name,), levels, table, unseen)


def _frequency_of(step: FrequencyEncoder, name: str, levels: pl.DataFrame) -> CategoryLookup:
    divisor = max(int(levels[COUNT].sum()), 1) if step.normalize else 1
    missing = int(levels.filter(pl.col(LEVEL).is_null())[COUNT].sum())
    known = levels.drop_nulls(LEVEL)
    values = [*(count / divisor for count in known[COUNT]), missing / divisor, 0.0]
    return _lookup_of(name, known[LEVEL], values, "value")


def _collect_targets(
    step: TargetEncoder, columns: Sequence[str], _schema: pl.Schema
) -> Accumulators:
    return {
        name: TargetLevels(name, step.target, step.cv, step.random_state, step.target_type)
        for name in columns
    }


def _build_target(
    step: TargetEncoder, columns: Sequence[str], accumulators: Accumulators
) -> FittedStep:
    fitted = FittedStep(
        [build_target_lookup(step, name, accumulators[name].finish()) for name in columns]
    )
    targets = (one for one in accumulators.values() if isinstance(one, TargetLevels))
    # The same rows lack a target whatever the column: one note is enough.
    if missing := max((one.without_target for one in targets), default=0):
        fitted.notes.append(f"{missing:,} rows without a target do not count")
    return fitted


def _build_hash(
    step: FeatureHasher, columns: Sequence[str], _accumulators: Accumulators
) -> FittedStep:
    return FittedStep(
        [FeatureHash(tuple(columns), step.n_features, step.alternate_sign, step.prefix)]
    )


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


_KINDS: tuple[Kind, ...] = ("category", "number", "bool")
ENCODERS: Mapping[str, Estimator] = {
    "one_hot_encoder": Estimator(_KINDS, _from_levels(_one_hot_of), collect_levels),
    "ordinal_encoder": Estimator(_KINDS, _from_levels(_ordinal_of), collect_levels),
    "target_encoder": Estimator(_KINDS, _build_target, _collect_targets),
    "frequency_encoder": Estimator(_KINDS, for_each_column(_frequency_of), collect_levels),
    "feature_hasher": Estimator(_KINDS, _build_hash),
}
