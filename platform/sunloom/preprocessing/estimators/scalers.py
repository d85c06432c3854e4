"""Estimators of scalers, quantile and power transformers, and discretizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
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
from sunloom.errors import DataError, DependencyError
from sunloom.preprocessing.accumulators.values import Distribution, MeanVariance
from sunloom.preprocessing.estimators.protocol import (
    Accumulators,
    Builder,
    Estimator,
    FittedStep,
    collect_moments,
    collect_values,
    for_each_column,
)
from sunloom.preprocessing.operations.numeric import (
    Affine,
    Discretize,
    Interpolate,
    Power,
    require_positive,
)
from sunloom.preprocessing.operations.protocol import Operation

# A sketch's points as plain values, for libraries that take no weights.
_EXPANDED_VALUES = 200_000


def _standard_of(step: StandardScaler, name: str, moments: MeanVariance) -> Affine:
    center = moments.mean if step.with_mean else 0.0
    return Affine(name, center, moments.deviation if step.with_std else 1.0)


def _min_max_of(step: MinMaxScaler, name: str, moments: MeanVariance) -> Affine:
    low, high = step.feature_range
    # A column without values has infinite bounds.
    least, greatest = (moments.least, moments.greatest) if moments.count else (0.0, 0.0)
    width = _one_if_zero(greatest - least)
    ends = (low, high) if step.clip else (None, None)
    return Affine(name, least, width / (high - low), low, *ends)


def _max_abs_of(step: MaxAbsScaler, name: str, moments: MeanVariance) -> Affine:
    ends = (-1.0, 1.0) if step.clip else (None, None)
    greatest = max(-moments.least, moments.greatest) if moments.count else 0.0
    return Affine(name, 0.0, _one_if_zero(greatest), 0.0, *ends)


def _one_if_zero(scale: float) -> float:
    """1 for a scale that is zero but for rounding, as in scikit-learn."""
    return 1.0 if scale < 10 * np.finfo(np.float64).eps else scale


def _from_values(
    build: Callable[[Any, str, Distribution], Operation],
    unlearnt: Callable[[str], list[Operation]] = lambda _name: [],
) -> Builder:
    """A builder of one operation per column from its values.

    Args:
        build: Step, column and values to an operation.
        unlearnt: The operations of a column without values, which is noted.
    """

    def build_step(step: Any, columns: Sequence[str], accumulators: Accumulators) -> FittedStep:
        operations: list[Operation] = []
        notes: list[str] = []
        rank_error = 0.0
        for name in columns:
            values: Distribution = accumulators[name].finish()
            rank_error = max(rank_error, values.rank_error)
            if len(values.values):
                operations.append(build(step, name, values))
            else:
                notes.append(f"{name} has no value: nothing was learnt of it")
                operations += unlearnt(name)
        return FittedStep(operations, notes, rank_error)

    return build_step


def _robust_of(step: RobustScaler, name: str, values: Distribution) -> Affine:
    low, high = step.quantile_range
    adjust = 1.0
    if step.unit_variance:
        normal = NormalDist()
        # A normal distribution's distance between the two quantiles.
        adjust = normal.inv_cdf(high / 100) - normal.inv_cdf(low / 100)
    first, median, last = values.percentiles([low, 50.0, high]).tolist()
    scale = _one_if_zero(last - first) / adjust if step.with_scaling else 1.0
    return Affine(name, median if step.with_centering else 0.0, scale)


def _quantiles_of(step: QuantileTransformer, name: str, values: Distribution) -> Interpolate:
    # At most one quantile per row; a sketch has seen more rows than that.
    rows = len(values.values) + values.missing
    count = step.n_quantiles if values.weights is not None else min(step.n_quantiles, rows)
    references = np.linspace(0, 1, count, endpoint=True)
    points = values.percentiles(references * 100)
    return Interpolate(name, pl.Series(points), step.output_distribution)


def _power_of(step: PowerTransformer, name: str, values: Distribution) -> Power:
    plain = values.values
    if values.weights is not None:
        plain = values.percentiles(np.linspace(0, 100, _EXPANDED_VALUES))
    power = _fit_power(name, step, plain)
    if not step.standardize:
        return power
    moments = _moments_of(name, power.powers(values.values), values.weights)
    return replace(power, center=moments.mean, scale=moments.deviation)


def _fit_power(name: str, step: PowerTransformer, values: FloatArray) -> Power:
    from scipy import stats

    is_constant = _moments_of(name, values, None).is_constant
    if step.method == "box-cox":
        require_positive(name, float(values.min()))
        if is_constant:
            raise DataError(
                f"box-cox cannot be fitted to column {name!r}: it is constant.",
                "Leave it out, or use method: yeo-johnson, which leaves it as it is.",
                name,
            )
        return Power(name, "box-cox", float(stats.boxcox(values, lmbda=None)[1]))
    # Any exponent fits a constant column equally well: 1 leaves it as it is.
    exponent = 1.0 if is_constant else float(stats.yeojohnson(values, lmbda=None)[1])
    return Power(name, "yeo-johnson", exponent)


def _moments_of(name: str, values: FloatArray, weights: FloatArray | None) -> MeanVariance:
    mean = float(np.average(values, weights=weights))
    gaps = np.square(values - mean)
    return MeanVariance(
        column=name,
        count=len(values) if weights is None else int(weights.sum()),
        mean=mean,
        squares=float(gaps.sum() if weights is None else (gaps * weights).sum()),
        least=float(values.min()),
        greatest=float(values.max()),
    )


def _bins_of(step: KBinsDiscretizer, name: str, values: Distribution) -> Discretize:
    inner = pl.Series(_edges_of(step, values)[1:-1], dtype=pl.Float64)
    return Discretize(name, inner, step.encode != "ordinal")


def _edges_of(step: KBinsDiscretizer, values: Distribution) -> FloatArray:
    """All edges; two for a constant column."""
    least, greatest = float(values.values.min()), float(values.values.max())
    if least == greatest:
        return np.array([least, greatest])
    even = np.linspace(least, greatest, step.n_bins + 1)
    if step.strategy == "uniform":
        return even
    if step.strategy == "quantile":
        edges = values.percentiles(np.linspace(0, 100, step.n_bins + 1), step.quantile_method)
    else:
        # The outer means are no edges: every value is in some interval.
        edges = np.r_[least, _edges_between_means(values, even), greatest]
    # Edges closer than this are one edge, as in scikit-learn.
    distinct: FloatArray = edges[np.ediff1d(edges, to_begin=np.inf) > 1e-8]
    return distinct


def _edges_between_means(values: Distribution, even: FloatArray) -> FloatArray:
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise DependencyError(
            "strategy kmeans needs scikit-learn.", "pip install 'sunloom[tabular]'"
        ) from error
    # The middles of even intervals to start with: nothing is random.
    start = (even[1:] + even[:-1])[:, None] * 0.5
    model = KMeans(n_clusters=len(start), init=start, n_init=1)
    model.fit(values.values[:, None], sample_weight=values.weights)
    centers = np.sort(model.cluster_centers_[:, 0])
    between: FloatArray = (centers[1:] + centers[:-1]) * 0.5
    return between


def _estimator(
    build: Builder,
    collect: Callable[[Any, Sequence[str], pl.Schema], Accumulators],
    in_place: Callable[[Any], bool] = lambda _step: True,
) -> Estimator:
    return Estimator(("number", "bool"), build, collect, in_place=in_place)


SCALERS: Mapping[str, Estimator] = {
    "standard_scaler": _estimator(for_each_column(_standard_of), collect_moments),
    "min_max_scaler": _estimator(for_each_column(_min_max_of), collect_moments),
    "max_abs_scaler": _estimator(for_each_column(_max_abs_of), collect_moments),
    "robust_scaler": _estimator(
        _from_values(_robust_of, lambda name: [Affine(name)]), collect_values
    ),
    "quantile_transformer": _estimator(_from_values(_quantiles_of), collect_values),
    "power_transformer": _estimator(_from_values(_power_of), collect_values),
    "k_bins_discretizer": _estimator(
        _from_values(_bins_of), collect_values, lambda step: step.encode == "ordinal"
    ),
}
