"""Columns made of several columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations, combinations_with_replacement

import numpy as np
import polars as pl

from sunloom.config.preprocessing.steps import Interactions, PolynomialFeatures
from sunloom.data.arrays import FloatArray, IntArray
from sunloom.preprocessing.accumulators.moments import MeanVariance
from sunloom.preprocessing.accumulators.sample import Sample
from sunloom.preprocessing.column_kinds import levels_of
from sunloom.preprocessing.estimators.protocol import Estimator, FittedStep, Learnt, Schema, always
from sunloom.preprocessing.operations.combine import Polynomial, Product, Ratio
from sunloom.preprocessing.operations.number_columns import array_of
from sunloom.preprocessing.operations.protocol import Operation


def _moments(_step: PolynomialFeatures, columns: Sequence[str], _schema: Schema) -> Learnt:
    """Nothing is learnt, but an infinite value is refused."""
    return {name: MeanVariance(name) for name in columns}


def _polynomial(step: PolynomialFeatures, columns: Sequence[str], _learnt: Learnt) -> FittedStep:
    low, high = (0, step.degree) if isinstance(step.degree, int) else step.degree
    pick = combinations if step.interaction_only else combinations_with_replacement
    degrees = range(max(1, low), high + 1)
    chosen = chain.from_iterable(pick(range(len(columns)), degree) for degree in degrees)
    terms = ([()] if step.include_bias and low <= 0 else []) + list(chosen)
    powers = tuple(tuple(term.count(i) for i in range(len(columns))) for term in terms)
    names = tuple(_product_name(columns, exponents) for exponents in powers)
    return FittedStep([Polynomial(tuple(columns), names, powers)])


def _product_name(columns: Sequence[str], exponents: Sequence[int]) -> str:
    parts = [
        name if exponent == 1 else f"{name}^{exponent}"
        for name, exponent in zip(columns, exponents, strict=True)
        if exponent
    ]
    return " ".join(parts) or "1"


def _sample(step: Interactions, columns: Sequence[str], _schema: Schema) -> Learnt:
    names = tuple(columns) + ((step.target,) if step.target else ())
    return {"rows": Sample(names, step.max_rows, tuple(columns))}


def _interactions(step: Interactions, columns: Sequence[str], learnt: Learnt) -> FittedStep:
    pairs = list(_candidates(step, columns))
    if step.target is None:
        return FittedStep(pairs)
    rows = learnt["rows"].finish()
    classes = _codes_of_target(rows[step.target], step.bins)
    scores = [_told(rows, operation, classes, step.bins) for operation in pairs]
    # The first of equals wins: the choice does not depend on the machine.
    best = sorted(range(len(pairs)), key=lambda i: (-scores[i], i))[: step.top_k]
    notes = [f"{pairs[i].outputs[0]}: {scores[i]:.4f} nats about {step.target}" for i in best]
    return FittedStep([pairs[i] for i in sorted(best)], notes)


def _candidates(step: Interactions, columns: Sequence[str]) -> Iterator[Operation]:
    for left, right in combinations(columns, 2):
        if "product" in step.operations:
            yield Product(left, right)
        if "ratio" in step.operations:
            yield Ratio(left, right)
            yield Ratio(right, left)


def _told(rows: pl.DataFrame, operation: Operation, classes: IntArray, bins: int) -> float:
    made = rows.select(operation.columns(rows))
    return mutual_information(_codes(array_of(made, made.columns[0]), bins), classes)


def _codes_of_target(target: pl.Series, bins: int) -> IntArray:
    levels = levels_of(target)
    if levels.dtype == pl.Float64 or (levels.n_unique() > bins and levels.dtype == pl.Int64):
        return _codes(levels.cast(pl.Float64).to_numpy(), bins)
    codes: IntArray = levels.rank("dense").fill_null(0).to_numpy().astype(np.int64)
    return codes


def _codes(values: FloatArray, bins: int) -> IntArray:
    """Numbers of equally filled bins; 0 for a missing value."""
    there = values[np.isfinite(values)]
    if not there.size:
        return np.zeros(len(values), dtype=np.int64)
    edges = np.unique(np.quantile(there, np.linspace(0, 1, bins + 1)[1:-1]))
    codes = np.searchsorted(edges, values, side="right") + 1
    return np.where(np.isfinite(values), codes, 0).astype(np.int64)


def mutual_information(left: IntArray, right: IntArray) -> float:
    """Mutual information of two columns of codes, nats."""
    table = np.zeros((left.max() + 1, right.max() + 1))
    np.add.at(table, (left, right), 1.0)
    share = table / table.sum()
    expected = share.sum(axis=1, keepdims=True) * share.sum(axis=0, keepdims=True)
    there = share > 0
    return float((share[there] * np.log(share[there] / expected[there])).sum())


COMBINING: Mapping[str, Estimator] = {
    "polynomial_features": Estimator(("number", "bool"), _moments, _polynomial, always("number")),
    "interactions": Estimator(("number", "bool"), _sample, _interactions, always("number")),
}
