"""Estimators of imputers: one value per column, predictions, or values of the nearest rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from sunloom.config.preprocessing.steps import IterativeImputer, KNNImputer, SimpleImputer
from sunloom.data.arrays import FloatArray
from sunloom.errors import DataError, DependencyError
from sunloom.preprocessing.accumulators.counts import COUNT, LEVEL, LevelCounts
from sunloom.preprocessing.accumulators.protocol import Accumulator
from sunloom.preprocessing.accumulators.values import ColumnValues, MeanVariance, TableSample
from sunloom.preprocessing.columns import Kind, array_of, column_of, kind_of
from sunloom.preprocessing.estimators.protocol import (
    Accumulators,
    Builder,
    Estimator,
    FittedStep,
    collect_levels,
    collect_moments,
    collect_rows,
    collect_values,
)
from sunloom.preprocessing.operations.combine import ChainedImputation, NeighborImputation
from sunloom.preprocessing.operations.numeric import Drop, Fill, Indicator
from sunloom.preprocessing.operations.protocol import Operation


def _collect_simple(step: SimpleImputer, columns: Sequence[str], schema: pl.Schema) -> Accumulators:
    texts = [name for name in columns if kind_of(schema[name]) == "category"]
    if step.strategy in ("mean", "median") and texts:
        raise DataError(
            f"simple_imputer {step.strategy} needs numbers, but column {texts[0]!r} is "
            f"{schema[texts[0]]}.",
            "Use strategy most_frequent or constant for text.",
            texts[0],
        )
    if step.strategy == "median":
        return collect_values(step, columns, schema)
    if step.strategy == "most_frequent" or texts:
        return collect_levels(step, columns, schema)
    return collect_moments(step, columns, schema)


class _Summary(NamedTuple):
    """What a column's values say of the value to fill in.

    Attributes:
        value: By the step's strategy; None for a column without values.
        missing: Rows without a value.
        is_text: Whether the column is text.
        rank_error: Of a median.
    """

    value: Any
    missing: int
    is_text: bool = False
    rank_error: float = 0.0


def _summarize(accumulator: Accumulator) -> _Summary:
    if isinstance(accumulator, ColumnValues):
        values = accumulator.finish()
        median = float(values.percentiles(50.0)) if len(values.values) else None
        return _Summary(median, accumulator.missing, rank_error=values.rank_error)
    if isinstance(accumulator, LevelCounts):
        levels = accumulator.finish()
        missing = int(levels.filter(pl.col(LEVEL).is_null())[COUNT].sum())
        known = levels.drop_nulls(LEVEL)
        # Sorted by level: among equally frequent ones the least, as in scikit-learn.
        mode = known[LEVEL][known[COUNT].arg_max() or 0] if known.height else None
        return _Summary(mode, missing, is_text=levels[LEVEL].dtype == pl.String)
    assert isinstance(accumulator, MeanVariance)
    return _Summary(accumulator.mean if accumulator.count else None, accumulator.missing)


def _fill_value_of(step: SimpleImputer, summary: _Summary) -> Any:
    """The value to fill in; None for a column without values that is to be left out."""
    value, is_text = summary.value, summary.is_text
    if step.strategy == "constant":
        default: Any = "missing_value" if is_text else 0.0
        constant = default if step.fill_value is None else step.fill_value
        if isinstance(constant, str) != is_text:
            kind = "text" if is_text else "numbers"
            raise DataError(
                f"fill_value {constant!r} does not fit a column of {kind}.",
                "Name the columns it is for with `columns`.",
                "fill_value",
            )
        if value is None:
            return constant if step.keep_empty_features else None
        value = constant
    elif value is None:
        empty: Any = "" if is_text else 0.0
        return empty if step.keep_empty_features else None
    return value if is_text else float(value)


def _build_simple(
    step: SimpleImputer, columns: Sequence[str], accumulators: Accumulators
) -> FittedStep:
    operations: list[Operation] = []
    notes: list[str] = []
    rank_error = 0.0
    for name in columns:
        summary = _summarize(accumulators[name])
        value = _fill_value_of(step, summary)
        rank_error = max(rank_error, summary.rank_error)
        # Before the gap is filled: operations of a step run in order.
        if step.add_indicator and summary.missing:
            operations.append(Indicator(name, f"missingindicator_{name}"))
        if value is not None:
            operations.append(Fill(name, value))
        else:
            operations.append(Drop(name))
            notes.append(f"{name} has no value and was left out (keep_empty_features)")
    return FittedStep(operations, notes, rank_error)


def _kinds_of_simple(step: SimpleImputer) -> tuple[Kind, ...]:
    if step.strategy in ("mean", "median"):
        return ("number",)
    if step.strategy == "constant" and step.fill_value is not None:
        return ("category",) if isinstance(step.fill_value, str) else ("number",)
    return ("number", "category")


def _build_from_rows(
    fit: Callable[[Any, Mapping[str, FloatArray]], Operation],
) -> Builder:
    """A builder of one operation from a sample of rows; columns without a value are left out."""

    def build(step: Any, columns: Sequence[str], accumulators: Accumulators) -> FittedStep:
        sample = accumulators["rows"]
        assert isinstance(sample, TableSample)
        rows = sample.finish()
        arrays = {name: array_of(rows, name) for name in columns}
        empty = [name for name, values in arrays.items() if np.isnan(values).all()]
        operations: list[Operation] = [Drop(name) for name in empty]
        notes = [f"{name} has no value and was left out" for name in empty]
        if sample.total > rows.height:
            notes.append(f"learnt from {rows.height:,} of {sample.total:,} rows")
        kept = {name: values for name, values in arrays.items() if name not in empty}
        if kept:
            operations.append(fit(step, kept))
        return FittedStep(operations, notes)

    return build


def _keep_rows(step: KNNImputer, columns: Mapping[str, FloatArray]) -> NeighborImputation:
    return NeighborImputation(
        sources=tuple(columns),
        table=pl.DataFrame([column_of(name, values) for name, values in columns.items()]),
        count=step.n_neighbors,
        weights=step.weights,
    )


def _fit_chain(step: IterativeImputer, columns: Mapping[str, FloatArray]) -> ChainedImputation:
    table = np.column_stack(list(columns.values()))
    try:
        from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - makes it importable
        from sklearn.impute import IterativeImputer as Model
    except ImportError as error:
        raise DependencyError(
            "iterative_imputer needs scikit-learn.", "pip install 'sunloom[tabular]'"
        ) from error
    model = Model(
        max_iter=step.max_iter,
        tol=step.tol,
        initial_strategy=step.initial_strategy,
        min_value=-np.inf if step.min_value is None else step.min_value,
        max_value=np.inf if step.max_value is None else step.max_value,
    )
    with warnings.catch_warnings():
        # That the rounds ended before the change was small is the recipe's choice of max_iter.
        warnings.simplefilter("ignore")
        model.fit(table)
    order, weights = [], []
    # A table without gaps has no sequence.
    for target, others, regression in getattr(model, "imputation_sequence_", []):
        row = np.zeros(len(columns) + 1)
        row[others], row[-1] = regression.coef_, regression.intercept_
        order.append(int(target))
        weights.append(tuple(row.tolist()))
    return ChainedImputation(
        sources=tuple(columns),
        starts=tuple(float(value) for value in model.initial_imputer_.statistics_),
        order=tuple(order),
        weights=tuple(weights),
        low=step.min_value,
        high=step.max_value,
    )


IMPUTERS: Mapping[str, Estimator] = {
    "simple_imputer": Estimator(
        kinds=("number", "bool", "category"),
        build=_build_simple,
        collect=_collect_simple,
        kinds_by_step=_kinds_of_simple,
        in_place=lambda step: not step.add_indicator,
    ),
    "iterative_imputer": Estimator(
        kinds=("number", "bool"),
        build=_build_from_rows(_fit_chain),
        collect=collect_rows,
        in_place=lambda _step: True,
    ),
    "knn_imputer": Estimator(
        kinds=("number", "bool"),
        build=_build_from_rows(_keep_rows),
        collect=collect_rows,
        in_place=lambda _step: True,
    ),
}
