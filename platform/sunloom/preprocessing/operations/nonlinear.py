"""Operations on one number column by a curve: quantile ranks and power transforms."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl

from sunloom.data.arrays import FloatArray
from sunloom.errors import DataError
from sunloom.preprocessing.operations.column_shapes import OneColumn
from sunloom.preprocessing.operations.number_columns import array_of, map_column
from sunloom.preprocessing.operations.protocol import RowFunction, Training

# scikit-learn's bound: values this near to the outer quantiles get exactly rank 0 or 1, and
# normal scores are clipped at the quantiles of this rank, where they would be infinite.
_BOUNDS_THRESHOLD = 1e-7
_LOWEST_RANK = _BOUNDS_THRESHOLD - float(np.spacing(1))
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interpolate(OneColumn):
    """The value's rank among ``quantiles``, mean of both directions where they repeat."""

    op: ClassVar[str] = "interpolate"
    quantiles: pl.Series
    distribution: Literal["uniform", "normal"] = "uniform"

    @cached_property
    def _points(self) -> tuple[FloatArray, FloatArray]:
        points = self.quantiles.to_numpy()
        return points, np.linspace(0, 1, len(points), endpoint=True)

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """The ranks."""
        return [map_column(frame, self.column, self._ranks)]

    def _ranks(self, values: FloatArray) -> FloatArray:
        points, references = self._points
        up = np.interp(values, points, references)
        down = np.interp(-values, -points[::-1], -references[::-1])
        ranks: FloatArray = 0.5 * (up - down)
        # Where quantiles repeat the two directions differ: the ends are exact by definition.
        edge = _BOUNDS_THRESHOLD if self.distribution == "normal" else 0.0
        ranks[(values >= points[-1]) | (values + edge > points[-1])] = 1.0
        ranks[(values <= points[0]) | (values - edge < points[0])] = 0.0
        ranks[np.isnan(values)] = np.nan
        if self.distribution == "uniform":
            return ranks
        from scipy.special import ndtri

        low, high = float(ndtri(_LOWEST_RANK)), float(ndtri(1 - _LOWEST_RANK))
        scores: FloatArray = np.clip(ndtri(ranks), low, high)
        return scores

    def row_function(self) -> RowFunction:
        """The same for one row."""
        points, references = (array.tolist() for array in self._points)
        mirrored = [-point for point in reversed(points)]
        back = [-reference for reference in reversed(references)]
        is_normal = self.distribution == "normal"
        edge = _BOUNDS_THRESHOLD if is_normal else 0.0
        name, first, last = self.column, points[0], points[-1]

        def rank_of(x: float) -> float:
            if x <= first or x - edge < first:
                return 0.0
            if x >= last or x + edge > last:
                return 1.0
            return 0.5 * (_interpolate(x, points, references) - _interpolate(-x, mirrored, back))

        def interpolate(row: dict[str, Any]) -> None:
            if (x := row[name]) is not None:
                rank = rank_of(x)
                if is_normal:
                    rank = _NORMAL.inv_cdf(min(max(rank, _LOWEST_RANK), 1 - _LOWEST_RANK))
                row[name] = rank

        return interpolate


def _interpolate(x: float, points: list[float], values: list[float]) -> float:
    """``numpy.interp`` of one value, without the cost of an array."""
    after = bisect_right(points, x)
    if after == 0:
        return values[0]
    if after == len(points):
        return values[-1]
    before = after - 1
    slope = (values[after] - values[before]) / (points[after] - points[before])
    return slope * (x - points[before]) + values[before]


@dataclass(frozen=True)
class Power(OneColumn):
    """The Yeo-Johnson or Box-Cox transform with a fitted exponent, then scaled."""

    op: ClassVar[str] = "power"
    method: Literal["yeo-johnson", "box-cox"] = "yeo-johnson"
    exponent: float = 1.0
    center: float = 0.0
    scale: float = 1.0

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """The transformed column.

        Raises:
            DataError: Box-Cox meets a value that is not positive.
        """
        if self.method == "box-cox":
            values = array_of(frame, self.column)
            self._require_positive(float(np.nanmin(values, initial=np.inf)))
        return [
            map_column(frame, self.column, lambda x: (self.powers(x) - self.center) / self.scale)
        ]

    def powers(self, values: FloatArray) -> FloatArray:
        """The transform alone; NaN stays."""
        if self.method == "yeo-johnson":
            return yeo_johnson(values, self.exponent)
        logs = np.log(values)
        # expm1 keeps the digits that x**e - 1 loses for a small exponent.
        return logs if self.exponent == 0 else np.expm1(self.exponent * logs) / self.exponent

    def _require_positive(self, least: float) -> None:
        if least <= 0:
            raise DataError(
                f"box-cox takes positive values; column {self.column!r} holds {least!r}.",
                "Use method: yeo-johnson.",
                self.column,
            )

    def row_function(self) -> RowFunction:
        """The same for one row."""
        name, center, scale = self.column, self.center, self.scale
        is_box_cox = self.method == "box-cox"
        transform = self._box_cox() if is_box_cox else _yeo_johnson_of(self.exponent)

        def power(row: dict[str, Any]) -> None:
            if (x := row[name]) is not None:
                row[name] = (transform(x) - center) / scale

        return power

    def _box_cox(self) -> Callable[[float], float]:
        exponent = self.exponent

        def box_cox(x: float) -> float:
            self._require_positive(x)
            return math.log(x) if exponent == 0 else math.expm1(exponent * math.log(x)) / exponent

        return box_cox


def yeo_johnson(values: FloatArray, exponent: float) -> FloatArray:
    """The Yeo-Johnson transform; NaN stays."""
    transformed = np.full_like(values, np.nan)
    up, down = values >= 0, values < 0
    # Both formulas have a limit of their own, at the exponents 0 and 2: a logarithm.
    if abs(exponent) < np.spacing(1.0):
        transformed[up] = np.log1p(values[up])
    else:
        transformed[up] = np.expm1(exponent * np.log1p(values[up])) / exponent
    if abs(exponent - 2) > np.spacing(1.0):
        transformed[down] = -np.expm1((2 - exponent) * np.log1p(-values[down])) / (2 - exponent)
    else:
        transformed[down] = -np.log1p(-values[down])
    return transformed


def _yeo_johnson_of(exponent: float) -> Callable[[float], float]:
    eps, rest = float(np.spacing(1.0)), 2 - exponent

    def transform(x: float) -> float:
        if x >= 0:
            log = math.log1p(x)
            return log if abs(exponent) < eps else math.expm1(exponent * log) / exponent
        log = math.log1p(-x)
        return -math.expm1(rest * log) / rest if abs(rest) > eps else -log

    return transform
