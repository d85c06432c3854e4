"""Operations that bend one number column: ranks and powers."""

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
from sunloom.preprocessing.operations.number_columns import array_of, map_column
from sunloom.preprocessing.operations.numeric import InPlace
from sunloom.preprocessing.operations.protocol import RowFunction, Training

_BOUNDS_THRESHOLD = 1e-7


@dataclass(frozen=True)
class Interpolate(InPlace):
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
        # At a step of the ranks the two directions differ: the ends are exact by rule.
        edge = _BOUNDS_THRESHOLD if self.distribution == "normal" else 0.0
        ranks[(values >= points[-1]) | (values + edge > points[-1])] = 1.0
        ranks[(values <= points[0]) | (values - edge < points[0])] = 0.0
        ranks[np.isnan(values)] = np.nan
        return ranks if self.distribution == "uniform" else _as_normal(ranks)

    def scalar(self) -> RowFunction:
        """The same for one row."""
        points, references = (array.tolist() for array in self._points)
        mirrored = [-point for point in reversed(points)]
        back = [-reference for reference in reversed(references)]
        normal = self.distribution == "normal"
        edge = _BOUNDS_THRESHOLD if normal else 0.0
        name, first, last = self.column, points[0], points[-1]

        def rank(x: float) -> float:
            if x <= first or x - edge < first:
                return 0.0
            if x >= last or x + edge > last:
                return 1.0
            return 0.5 * (_interpolated(x, points, references) - _interpolated(-x, mirrored, back))

        def interpolate(row: dict[str, Any]) -> None:
            if (x := row[name]) is not None:
                row[name] = _normal_of(rank(x)) if normal else rank(x)

        return interpolate


_NORMAL = NormalDist()


def _as_normal(ranks: FloatArray) -> FloatArray:
    from scipy.special import ndtri

    low, high = (float(ndtri(bound)) for bound in _normal_bounds())
    found: FloatArray = np.clip(ndtri(ranks), low, high)
    return found


def _normal_bounds() -> tuple[float, float]:
    least = _BOUNDS_THRESHOLD - float(np.spacing(1))
    return least, 1 - least


def _normal_of(rank: float) -> float:
    low, high = _normal_bounds()
    return _NORMAL.inv_cdf(min(max(rank, low), high))


def _interpolated(x: float, points: list[float], values: list[float]) -> float:
    after = bisect_right(points, x)
    if after == 0:
        return values[0]
    if after == len(points):
        return values[-1]
    before = after - 1
    slope = (values[after] - values[before]) / (points[after] - points[before])
    return slope * (x - points[before]) + values[before]


@dataclass(frozen=True)
class Power(InPlace):
    """Yeo-Johnson's or Box and Cox's transform with a fitted exponent, then scaled."""

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
        values = array_of(frame, self.column)
        if self.method == "box-cox":
            self._require_positive(float(np.nanmin(values, initial=np.inf)))
        return [
            map_column(frame, self.column, lambda x: (self.powers(x) - self.center) / self.scale)
        ]

    def powers(self, values: FloatArray) -> FloatArray:
        """The transform alone; NaN stays."""
        if self.method == "yeo-johnson":
            return yeo_johnson(values, self.exponent)
        logs = np.log(values)
        return logs if self.exponent == 0 else np.expm1(self.exponent * logs) / self.exponent

    def _require_positive(self, least: float) -> None:
        if least <= 0:
            raise DataError(
                f"box-cox takes positive values; column {self.column!r} holds {least!r}.",
                "Use method: yeo-johnson.",
                self.column,
            )

    def scalar(self) -> RowFunction:
        """The same for one row."""
        name, center, scale = self.column, self.center, self.scale
        function = self._positive() if self.method == "box-cox" else _yeo_johnson(self.exponent)

        def power(row: dict[str, Any]) -> None:
            if (x := row[name]) is not None:
                row[name] = (function(x) - center) / scale

        return power

    def _positive(self) -> Callable[[float], float]:
        exponent = self.exponent

        def box_cox(x: float) -> float:
            self._require_positive(x)
            return math.log(x) if exponent == 0 else math.expm1(exponent * math.log(x)) / exponent

        return box_cox


def yeo_johnson(values: FloatArray, exponent: float) -> FloatArray:
    """Yeo and Johnson's transform; NaN stays."""
    found = np.full_like(values, np.nan)
    up = values >= 0
    down = values < 0
    if abs(exponent) < np.spacing(1.0):
        found[up] = np.log1p(values[up])
    else:
        found[up] = np.expm1(exponent * np.log1p(values[up])) / exponent
    if abs(exponent - 2) > np.spacing(1.0):
        found[down] = -np.expm1((2 - exponent) * np.log1p(-values[down])) / (2 - exponent)
    else:
        found[down] = -np.log1p(-values[down])
    return found


def _yeo_johnson(exponent: float) -> Callable[[float], float]:
    eps, rest = float(np.spacing(1.0)), 2 - exponent

    def transform(x: float) -> float:
        if x >= 0:
            log = math.log1p(x)
            return log if abs(exponent) < eps else math.expm1(exponent * log) / exponent
        log = math.log1p(-x)
        return -math.expm1(rest * log) / rest if abs(rest) > eps else -log

    return transform
