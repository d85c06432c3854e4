"""What stands in for a missing value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from sunloom.config.preprocessing.steps import IterativeImputer, SimpleImputer
from sunloom.errors import DataError, DependencyError
from sunloom.preprocessing.accumulators.counts import COUNT, LEVEL, Counts
from sunloom.preprocessing.accumulators.moments import MeanVariance
from sunloom.preprocessing.accumulators.sample import Sample
from sunloom.preprocessing.accumulators.values import Values
from sunloom.preprocessing.column_kinds import Kind, kind_of, levels_of
from sunloom.preprocessing.estimators.protocol import Estimator, FittedStep, Learnt, Schema, always
from sunloom.preprocessing.estimators.scalers import values
from sunloom.preprocessing.operations.combine import Chain
from sunloom.preprocessing.operations.number_columns import array_of
from sunloom.preprocessing.operations.numeric import Drop, Fill, Indicator


def _observe(step: SimpleImputer, columns: Sequence[str], schema: Schema) -> Learnt:
    text = [name for name in columns if kind_of(schema[name]) == "category"]
    if step.strategy in ("mean", "median") and text:
        raise DataError(
            f"simple_imputer {step.strategy} needs numbers, but column {text[0]!r} is "
            f"{schema[text[0]]}.",
            "Use strategy most_frequent or constant for text.",
            text[0],
        )
    if step.strategy == "median":
        return values(step, columns, schema)
    if step.strategy == "most_frequent" or text:
        return {name: _counts(name, schema) for name in columns}
    return {name: MeanVariance(name) for name in columns}


def _counts(name: str, schema: Schema) -> Counts:
    text = kind_of(schema[name]) == "category"
    return Counts(name, pl.String() if text else level_type(schema[name]))


def level_type(dtype: pl.DataType) -> pl.DataType:
    """The type of a column's levels."""
    return levels_of(pl.Series([], dtype=dtype)).dtype


def _settle(step: SimpleImputer, columns: Sequence[str], learnt: Learnt) -> FittedStep:
    fitted = FittedStep()
    for name in columns:
        value, missing, error = _figure(step, learnt[name])
        fitted.rank_error = max(fitted.rank_error, error)
        # Before the gap is filled: operations of a step run in order.
        if step.add_indicator and missing:
            fitted.operations.append(Indicator(name, f"missingindicator_{name}"))
        if value is not None:
            fitted.operations.append(Fill(name, value))
        else:
            fitted.operations.append(Drop(name))
            fitted.notes.append(f"{name} has no value and was left out (keep_empty_features)")
    return fitted


def _figure(step: SimpleImputer, statistic: Any) -> tuple[Any, int, float]:
    """The figure (None where there is no value), rows without a value, and the rank error."""
    error, is_text = 0.0, False
    found: Any = None
    if isinstance(statistic, Values):
        ordered = statistic.finish()
        error, missing, any_value = ordered.rank_error, statistic.missing, len(ordered.values) > 0
        found = float(ordered.percentiles(50.0)) if any_value else None
    elif isinstance(statistic, Counts):
        table = statistic.finish()
        is_text = table[LEVEL].dtype == pl.String
        missing = int(table.filter(pl.col(LEVEL).is_null())[COUNT].sum())
        known = table.drop_nulls(LEVEL)
        any_value = known.height > 0
        found = known[LEVEL][known[COUNT].arg_max() or 0] if any_value else None
    else:
        missing, any_value = statistic.missing, statistic.count > 0
        found = statistic.mean if any_value else None
    empty: Any = "" if is_text else 0.0
    if step.strategy == "constant":
        given = step.fill_value
        found = ("missing_value" if is_text else 0.0) if given is None else given
        _require_type(found, is_text)
        empty = found
    if not any_value:
        return (empty if step.keep_empty_features else None), missing, error
    return found if is_text else float(found), missing, error


def _require_type(value: Any, is_text: bool) -> None:
    if isinstance(value, str) != is_text:
        raise DataError(
            f"fill_value {value!r} does not fit a column of {'text' if is_text else 'numbers'}.",
            "Name the columns it is for with `columns`.",
            "fill_value",
        )


def _default_kinds(step: SimpleImputer) -> tuple[Kind, ...]:
    if step.strategy in ("mean", "median"):
        return ("number",)
    if step.strategy == "constant" and step.fill_value is not None:
        return ("category",) if isinstance(step.fill_value, str) else ("number",)
    return ("number", "category")


def _sample(step: IterativeImputer, columns: Sequence[str], _schema: Schema) -> Learnt:
    names = tuple(columns)
    return {"rows": Sample(names, step.max_rows, names)}


def _iterative(step: IterativeImputer, columns: Sequence[str], learnt: Learnt) -> FittedStep:
    statistic = learnt["rows"]
    assert isinstance(statistic, Sample)
    rows = statistic.finish()
    table = np.column_stack([array_of(rows, name) for name in columns])
    empty = [name for i, name in enumerate(columns) if np.isnan(table[:, i]).all()]
    kept = [name for name in columns if name not in empty]
    fitted = FittedStep([Drop(name) for name in empty])
    fitted.notes = [f"{name} has no value and was left out" for name in empty]
    if statistic.total > rows.height:
        fitted.notes.append(f"learnt from {rows.height:,} of {statistic.total:,} rows")
    if kept:
        places = [list(columns).index(name) for name in kept]
        fitted.operations.append(_chain(step, tuple(kept), table[:, places]))
    return fitted


def _chain(step: IterativeImputer, columns: tuple[str, ...], table: Any) -> Chain:
    low = -np.inf if step.min_value is None else step.min_value
    high = np.inf if step.max_value is None else step.max_value
    model = _imputer()(
        max_iter=step.max_iter,
        tol=step.tol,
        initial_strategy=step.initial_strategy,
        min_value=low,
        max_value=high,
    )
    _quietly(model, table)
    starts = tuple(float(value) for value in model.initial_imputer_.statistics_)
    sequence = getattr(model, "imputation_sequence_", [])
    order, weights = [], []
    for target, others, estimator in sequence:
        row = np.zeros(len(columns) + 1)
        row[others], row[-1] = estimator.coef_, estimator.intercept_
        order.append(int(target))
        weights.append(tuple(row.tolist()))
    return Chain(columns, starts, tuple(order), tuple(weights), step.min_value, step.max_value)


def _imputer() -> Any:
    try:
        from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - makes it importable
        from sklearn.impute import IterativeImputer as Model
    except ImportError as error:
        raise DependencyError(
            "iterative_imputer needs scikit-learn.", "pip install 'sunloom[tabular]'"
        ) from error
    return Model


def _quietly(model: Any, table: Any) -> None:
    import warnings

    with warnings.catch_warnings():
        # That the rounds ended before the change was small is the recipe's choice of max_iter.
        warnings.simplefilter("ignore")
        model.fit(table)


IMPUTING: Mapping[str, Estimator] = {
    "simple_imputer": Estimator(
        ("number", "bool", "category"),
        _observe,
        _settle,
        _default_kinds,
        lambda step: not step.add_indicator,
    ),
    "iterative_imputer": Estimator(
        ("number", "bool"), _sample, _iterative, always("number"), lambda _step: True
    ),
}
