"""Encoders of categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from sunloom.config.preprocessing.steps import (
    FeatureHasher,
    FrequencyEncoder,
    OneHotEncoder,
    OrdinalEncoder,
    TargetEncoder,
)
from sunloom.data.arrays import IntArray
from sunloom.errors import DataError
from sunloom.preprocessing.accumulators.counts import COUNT, LEVEL, Counts
from sunloom.preprocessing.accumulators.target_levels import TargetLevels
from sunloom.preprocessing.estimators.imputers import level_type
from sunloom.preprocessing.estimators.protocol import Estimator, FittedStep, Learnt, Schema, always
from sunloom.preprocessing.estimators.target_encoding import encoded
from sunloom.preprocessing.operations.categories import CategoryLookup, OneHot
from sunloom.preprocessing.operations.hashing import Hash

_INFREQUENT = "infrequent_sklearn"


def _counts(_step: Any, columns: Sequence[str], schema: Schema) -> Learnt:
    return {name: Counts(name, level_type(schema[name])) for name in columns}


def _table(step: OneHotEncoder | OrdinalEncoder, place: int, counts: Counts) -> pl.DataFrame:
    """Levels and counts: those seen, or those that the step names in its order."""
    seen = counts.finish()
    if step.categories == "auto":
        return seen
    if place >= len(step.categories):
        raise DataError(f"categories has no entry for column {counts.column!r}.", param=LEVEL)
    named = pl.Series(LEVEL, list(step.categories[place]), dtype=seen[LEVEL].dtype)
    kept = pl.DataFrame({LEVEL: named}).join(seen, on=LEVEL, how="left", maintain_order="left")
    unseen = seen.join(kept, on=LEVEL, how="anti").drop_nulls(LEVEL)
    if step.handle_unknown == "error" and unseen.height:
        raise DataError(
            f"Column {counts.column!r} holds {unseen[LEVEL][0]!r}, which categories lacks.",
            "Add it, or set handle_unknown.",
            counts.column,
        )
    missing = seen.filter(pl.col(LEVEL).is_null())
    return pl.concat([kept.with_columns(pl.col(COUNT).fill_null(0)), missing])


def infrequent(step: OneHotEncoder | OrdinalEncoder, counts: IntArray, rows: int) -> Any:
    """Which levels share one place; bool, [levels]."""
    mask = np.zeros(len(counts), dtype=bool)
    if isinstance(step.min_frequency, int):
        mask = counts < step.min_frequency
    elif step.min_frequency is not None:
        mask = counts < step.min_frequency * rows
    places = len(counts) - mask.sum() + 1
    if step.max_categories is not None and step.max_categories < places:
        frequent = step.max_categories - 1
        # A stable sort: among equals the first levels go, as scikit-learn has it.
        order = np.argsort(counts, kind="stable")
        mask[order[:-frequent] if frequent else order] = True
    return mask


def _one_hot(step: OneHotEncoder, columns: Sequence[str], learnt: Learnt) -> FittedStep:
    fitted = FittedStep()
    for place, name in enumerate(columns):
        counts = learnt[name]
        assert isinstance(counts, Counts)
        fitted.operations.append(_one_hot_column(step, name, _table(step, place, counts)))
    return fitted


def _one_hot_column(step: OneHotEncoder, name: str, table: pl.DataFrame) -> OneHot:
    rare = infrequent(step, table[COUNT].to_numpy(), int(table[COUNT].sum()))
    order = [*np.flatnonzero(~rare).tolist(), *([None] if rare.any() else [])]
    dropped = 0 if step.drop == "first" or (step.drop and len(order) == 2) else None
    kept = [place for i, place in enumerate(order) if i != dropped]
    names = [_INFREQUENT if p is None else _level_name(table[LEVEL][p], table) for p in kept]
    of_level = {place: i for i, place in enumerate(kept) if place is not None}
    shared = kept.index(None) if None in kept else -1
    places = [shared if rare[i] else of_level.get(i, -1) for i in range(table.height)]
    # -2: a missing value was never seen, so it is as unknown as any other.
    places += [] if table[LEVEL].null_count() else [-2]
    places.append(shared if step.handle_unknown == "infrequent_if_exist" else -1)
    return OneHot(
        column=name,
        names=tuple(f"{name}_{one}" for one in names),
        levels=table[LEVEL].drop_nulls(),
        places=pl.Series(places, dtype=pl.Int64),
        unseen="error" if step.handle_unknown == "error" else "value",
        dtype=step.dtype,
    )


def _level_name(level: Any, table: pl.DataFrame) -> str:
    if level is None:
        return "None" if table[LEVEL].dtype == pl.String else "nan"
    return str(level)


def _ordinal(step: OrdinalEncoder, columns: Sequence[str], learnt: Learnt) -> FittedStep:
    fitted = FittedStep()
    for place, name in enumerate(columns):
        counts = learnt[name]
        assert isinstance(counts, Counts)
        every = _table(step, place, counts)
        table = every.drop_nulls(LEVEL)
        rare = infrequent(step, table[COUNT].to_numpy(), int(every[COUNT].sum()))
        numbers = np.where(rare, (~rare).sum(), np.cumsum(~rare) - 1).astype(np.float64)
        values = [*numbers.tolist(), step.encoded_missing_value, step.unknown_value]
        fitted.operations.append(_lookup(name, table[LEVEL], values, step.handle_unknown))
    return fitted


def _lookup(name: str, levels: pl.Series, values: list[Any], handle_unknown: str) -> CategoryLookup:
    table = pl.DataFrame({name: pl.Series(values, dtype=pl.Float64)})
    unseen = "error" if handle_unknown == "error" else "value"
    return CategoryLookup(name, (name,), levels, table, unseen)  # type: ignore[arg-type]


def _frequency(step: FrequencyEncoder, columns: Sequence[str], learnt: Learnt) -> FittedStep:
    fitted = FittedStep()
    for name in columns:
        table = learnt[name].finish()
        rows = max(int(table[COUNT].sum()), 1) if step.normalize else 1
        missing = int(table.filter(pl.col(LEVEL).is_null())[COUNT].sum())
        known = table.drop_nulls(LEVEL)
        values = [*(count / rows for count in known[COUNT]), missing / rows, 0.0]
        fitted.operations.append(_lookup(name, known[LEVEL], values, "value"))
    return fitted


def _targets(step: TargetEncoder, columns: Sequence[str], _schema: Schema) -> Learnt:
    return {
        name: TargetLevels(name, step.target, step.cv, step.random_state, step.target_type)
        for name in columns
    }


def _target(step: TargetEncoder, columns: Sequence[str], learnt: Learnt) -> FittedStep:
    fitted = FittedStep()
    for name in columns:
        statistic = learnt[name]
        assert isinstance(statistic, TargetLevels)
        classes, tables = statistic.finish()
        names = tuple(f"{name}{suffix}" for suffix in classes)
        fitted.operations.append(encoded(step, name, names, tables))
        if statistic.without_target and not fitted.notes:
            fitted.notes.append(f"{statistic.without_target:,} rows without a target do not count")
    return fitted


def _nothing(_step: Any, _columns: Sequence[str], _schema: Schema) -> Learnt:
    return {}


def _hash(step: FeatureHasher, columns: Sequence[str], _learnt: Learnt) -> FittedStep:
    return FittedStep([Hash(tuple(columns), step.n_features, step.alternate_sign, step.prefix)])


def _rule(observe: Any, settle: Any, in_place: Any = lambda _step: False) -> Estimator:
    return Estimator(("category", "number", "bool"), observe, settle, always("category"), in_place)


CATEGORICAL: Mapping[str, Estimator] = {
    "one_hot_encoder": _rule(_counts, _one_hot),
    "ordinal_encoder": _rule(_counts, _ordinal),
    "target_encoder": _rule(_targets, _target),
    "frequency_encoder": _rule(_counts, _frequency),
    "feature_hasher": _rule(_nothing, _hash),
}
