"""Scalers, quantiles, powers and intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from sunloom.config.preprocessing.steps import (
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sunloom.data.arrays import FloatArray
from sunloom.errors import DataError
from sunloom.preprocessing.accumulators.moments import MeanVariance
from sunloom.preprocessing.accumulators.values import Ordered, Values
from sunloom.preprocessing.estimators.protocol import Estimator, FittedStep, Learnt, Schema, always
from sunloom.preprocessing.operations.nonlinear import Interpolate, Power
from sunloom.preprocessing.operations.numeric import Affine, Discretize
from sunloom.preprocessing.operations.protocol import Operation

# Memory of a statistic is set by the pass that it belongs to.
_UNLIMITED = 1 << 60


def moments(_step: Any, columns: Sequence[str], _schema: Schema) -> Learnt:
    """Moments of each column."""
    return {name: MeanVariance(name) for name in columns}


def values(_step: Any, columns: Sequence[str], _schema: Schema) -> Learnt:
    """The values of each column."""
    return {name: Values(name, _UNLIMITED) for name in columns}


def _standard(step: StandardScaler, columns: Sequence[str], learnt: Learnt) -> FittedStep:
    fitted = FittedStep()
    for name in columns:
        found: MeanVariance = learnt[name].finish()
        center = found.mean if step.with_mean else 0.0
        scale = found.deviation if step.with_std else 1.0
        fitted.operations.append(Affine(name, center, scale))
    return fitted


def _min_max(step: MinMaxScaler, columns: Sequence[str], learnt: Learnt) -> FittedStep:
    low, high = step.feature_range
    fitted = FittedStep()
    for name in columns:
        found: MeanVariance = learnt[name].finish()
        least, greatest = (found.least, found.greatest) if found.count else (0.0, 0.0)
        width = _unless_zero(greatest - least)
        ends = (low, high) if step.clip else (None, None)
        fitted.operations.append(Affine(name, least, width / (high - low), low, *ends))
    return fitted


def _max_abs(step: MaxAbsScaler, columns: Sequence[str], learnt: Learnt) -> FittedStep:
    fitted = FittedStep()
    for name in columns:
        found: MeanVariance = learnt[name].finish()
        most = max(-found.least, found.greatest) if found.count else 0.0
        ends = (-1.0, 1.0) if step.clip else (None, None)
        fitted.operations.append(Affine(name, 0.0, _unless_zero(most), 0.0, *ends))
    return fitted


def _unless_zero(scale: float) -> float:
    """1 for a scale that is zero but for rounding, as scikit-learn has it."""
    return 1.0 if scale < 10 * np.finfo(np.float64).eps else scale


def _robust(step: RobustScaler, columns: Sequence[str], learnt: Learnt) -> FittedStep:
    from statistics import NormalDist

    low, high = step.quantile_range
    adjust = 1.0
    if step.unit_variance:
        normal = NormalDist()
        adjust = normal.inv_cdf(high / 100) - normal.inv_cdf(low / 100)

    def settle(name: str, found: Ordered) -> list[Operation]:
        if not len(found.values):
            return [Affine(name)]
        first, median, last = found.percentiles([low, 50.0, high]).tolist()
        scale = _unless_zero(last - first) / adjust if step.with_scaling else 1.0
        return [Affine(name, median if step.with_centering else 0.0, scale)]

    return _ordered(columns, learnt, settle)


def _ordered(
    columns: Sequence[str], learnt: Learnt, settle: Callable[[str, Ordered], list[Operation]]
) -> FittedStep:
    fitted = FittedStep()
    for name in columns:
        found: Ordered = learnt[name].finish()
        fitted.rank_error = max(fitted.rank_error, found.rank_error)
        if not len(found.values):
            fitted.notes.append(f"{name} has no value: nothing was learnt of it")
        fitted.operations += settle(name, found)
    return fitted


def _quantile(step: QuantileTransformer, columns: Sequence[str], learnt: Learnt) -> FittedStep:
    def settle(name: str, found: Ordered) -> list[Operation]:
        statistic = learnt[name]
        assert isinstance(statistic, Values)
        if not len(found.values):
            return []
        rows = len(found.values) + statistic.missing if found.weights is None else step.n_quantiles
        references = np.linspace(0, 1, max(1, min(step.n_quantiles, rows)), endpoint=True)
        points = found.percentiles(references * 100)
        return [Interpolate(name, pl.Series(points), step.output_distribution)]

    return _ordered(columns, learnt, settle)


def _power(step: PowerTransformer, columns: Sequence[str], learnt: Learnt) -> FittedStep:
    def settle(name: str, found: Ordered) -> list[Operation]:
        if not len(found.values):
            return []
        operation = _fitted_power(name, step, _expanded(found))
        if not step.standardize:
            return [operation]
        moved = MeanVariance(name)
        moved.merge(_moments_of(name, operation.powers(found.values), found.weights))
        return [replace(operation, center=moved.mean, scale=moved.deviation)]

    return _ordered(columns, learnt, settle)


def _expanded(found: Ordered, most: int = 200_000) -> FloatArray:
    """A sketch's points, evenly spread by rank, as plain values."""
    if found.weights is None:
        return found.values
    return found.percentiles(np.linspace(0, 100, most))


def _fitted_power(name: str, step: PowerTransformer, values: FloatArray) -> Power:
    from scipy import stats

    spread = _moments_of(name, values, None)
    if step.method == "box-cox":
        if values.min() <= 0:
            raise DataError(
                f"box-cox takes positive values; column {name!r} holds {float(values.min())!r}.",
                "Use method: yeo-johnson.",
                name,
            )
        if spread.is_constant:
            raise DataError(
                f"box-cox cannot be fitted to column {name!r}: it is constant.",
                "Leave it out, or use method: yeo-johnson, which leaves it as it is.",
                name,
            )
        return Power(name, "box-cox", float(stats.boxcox(values, lmbda=None)[1]))
    if spread.is_constant:
        return Power(name, "yeo-johnson", 1.0)
    return Power(name, "yeo-johnson", float(stats.yeojohnson(values, lmbda=None)[1]))


def _moments_of(name: str, values: FloatArray, weights: FloatArray | None) -> MeanVariance:
    mean = float(np.average(values, weights=weights))
    gaps = np.square(values - mean)
    squares = float(gaps.sum() if weights is None else (gaps * weights).sum())
    count = len(values) if weights is None else int(weights.sum())
    return MeanVariance(name, count, 0, mean, squares, float(values.min()), float(values.max()))


def _bins(step: KBinsDiscretizer, columns: Sequence[str], learnt: Learnt) -> FittedStep:
    def settle(name: str, found: Ordered) -> list[Operation]:
        if not len(found.values):
            return []
        edges = _edges(step, found)
        return [
            Discretize(name, pl.Series(edges[1:-1], dtype=pl.Float64), step.encode != "ordinal")
        ]

    return _ordered(columns, learnt, settle)


def _edges(step: KBinsDiscretizer, found: Ordered) -> FloatArray:
    """All edges; two for a constant column."""
    least, greatest = float(found.values.min()), float(found.values.max())
    if least == greatest:
        return np.array([least, greatest])
    even = np.linspace(least, greatest, step.n_bins + 1)
    if step.strategy == "uniform":
        return even
    if step.strategy == "quantile":
        edges = found.percentiles(np.linspace(0, 100, step.n_bins + 1), step.quantile_method)
    else:
        edges = np.r_[least, _between_means(found, even), greatest]
    # Edges closer than this are one edge, as scikit-learn has it.
    kept: FloatArray = edges[np.ediff1d(edges, to_begin=np.inf) > 1e-8]
    return kept


def _between_means(found: Ordered, even: FloatArray) -> FloatArray:
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        from sunloom.errors import DependencyError

        raise DependencyError(
            "strategy kmeans needs scikit-learn.", "pip install 'sunloom[tabular]'"
        ) from error
    start = (even[1:] + even[:-1])[:, None] * 0.5
    model = KMeans(n_clusters=len(start), init=start, n_init=1)
    model.fit(found.values[:, None], sample_weight=found.weights)
    centers = np.sort(model.cluster_centers_[:, 0])
    between: FloatArray = (centers[1:] + centers[:-1]) * 0.5
    return between


def _rule(observe: Any, settle: Any, in_place: Any = lambda _step: True) -> Estimator:
    return Estimator(("number", "bool"), observe, settle, always("number"), in_place)


NUMERIC: Mapping[str, Estimator] = {
    "standard_scaler": _rule(moments, _standard),
    "min_max_scaler": _rule(moments, _min_max),
    "max_abs_scaler": _rule(moments, _max_abs),
    "robust_scaler": _rule(values, _robust),
    "quantile_transformer": _rule(values, _quantile),
    "power_transformer": _rule(values, _power),
    "k_bins_discretizer": _rule(values, _bins, lambda step: step.encode == "ordinal"),
}
