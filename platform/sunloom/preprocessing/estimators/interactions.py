"""Estimators of columns made of several columns: polynomials, products and ratios."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations, combinations_with_replacement

import numpy as np
import polars as pl

from sunloom.config.preprocessing.steps import Interactions, PolynomialFeatures
from sunloom.data.arrays import FloatArray, IntArray
from sunloom.preprocessing.columns import array_of, levels_of
from sunloom.preprocessing.estimators.protocol import (
    Accumulators,
    Estimator,
    FittedStep,
    collect_moments,
    collect_rows,
)
from sunloom.preprocessing.operations.combine import Polynomial, Product, Ratio
from sunloom.preprocessing.operations.protocol import Operation


def _build_polynomial(
    step: PolynomialFeatures, columns: Sequence[str], _accumulators: Accumulators
) -> FittedStep:
    low, high = (0, step.degree) if isinstance(step.degree, int) else step.degree
    combine = combinations if step.interaction_only else combinations_with_replacement
    degrees = range(max(1, low), high + 1)
    products = chain.from_iterable(combine(range(len(columns)), degree) for degree in degrees)
    terms = ([()] if step.include_bias and low <= 0 else []) + list(products)
    powers = tuple(tuple(term.count(i) for i in range(len(columns))) for term in terms)
    names = tuple(_product_name(columns, exponents) for exponents in powers)
    return FittedStep([Polynomial(tuple(columns), names, powers)])


def _product_name(columns: Sequence[str], exponents: Sequence[int]) -> str:
    """A product's name as scikit-learn writes it: ``a^2 b``, ``1`` for the bias."""
    parts = [
        name if exponent == 1 else f"{name}^{exponent}"
        for name, exponent in zip(columns, exponents, strict=True)
        if exponent
    ]
    return " ".join(parts) or "1"


def _build_interactions(
    step: Interactions, columns: Sequence[str], accumulators: Accumulators
) -> FittedStep:
    candidates = list(_candidates(step, columns))
    if step.target is None:
        return FittedStep(candidates)
    rows = accumulators["rows"].finish()
    classes = _codes_of_target(rows[step.target], step.bins)
    scores = []
    for operation in candidates:
        values = array_of(rows.select(operation.columns(rows)), operation.outputs[0])
        scores.append(mutual_information(_bin_codes(values, step.bins), classes))
    # The first of equals wins: the choice does not depend on the machine.
    best = sorted(range(len(candidates)), key=lambda i: (-scores[i], i))[: step.top_k]
    notes = [f"{candidates[i].outputs[0]}: {scores[i]:.4f} nats about {step.target}" for i in best]
    return FittedStep([candidates[i] for i in sorted(best)], notes)


def _candidates(step: Interactions, columns: Sequence[str]) -> Iterator[Operation]:
    for left, right in combinations(columns, 2):
        if "product" in step.operations:
            yield Product(left, right)
        if "ratio" in step.operations:
            # A product is symmetric, a ratio is not.
            yield Ratio(left, right)
            yield Ratio(right, left)


def _codes_of_target(target: pl.Series, bins: int) -> IntArray:
    levels = levels_of(target)
    is_fraction = levels.dtype.is_float() or levels.dtype.is_decimal()
    if is_fraction or (levels.n_unique() > bins and levels.dtype == pl.Int64):
        return _bin_codes(levels.cast(pl.Float64).to_numpy(), bins)
    codes: IntArray = levels.rank("dense").fill_null(0).to_numpy().astype(np.int64)
    return codes


def _bin_codes(values: FloatArray, bins: int) -> IntArray:
    """Numbers of equally filled bins; 0 for a missing value."""
    is_finite = np.isfinite(values)
    if not is_finite.any():
        return np.zeros(len(values), dtype=np.int64)
    quantiles = np.quantile(values[is_finite], np.linspace(0, 1, bins + 1)[1:-1])
    codes = np.searchsorted(np.unique(quantiles), values, side="right") + 1
    return np.where(is_finite, codes, 0).astype(np.int64)


def mutual_information(left: IntArray, right: IntArray) -> float:
    """Mutual information of two columns of codes, nats."""
    table = np.zeros((left.max() + 1, right.max() + 1))
    # add.at counts repeated pairs; ``table[left, right] += 1`` would count them once.
    np.add.at(table, (left, right), 1.0)
    share = table / table.sum()
    expected = share.sum(axis=1, keepdims=True) * share.sum(axis=0, keepdims=True)
    occurs = share > 0
    return float((share[occurs] * np.log(share[occurs] / expected[occurs])).sum())


INTERACTIONS: Mapping[str, Estimator] = {
    # Nothing is learnt of the moments, but an infinite value is refused.
    "polynomial_features": Estimator(("number", "bool"), _build_polynomial, collect_moments),
    "interactions": Estimator(("number", "bool"), _build_interactions, collect_rows),
}
