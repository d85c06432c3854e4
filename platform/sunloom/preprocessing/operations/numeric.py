"""Operations on one number column: scaling, filling, intervals, ranks, power transforms."""

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
from sunloom.preprocessing.columns import array_of, as_numbers, column_of, map_column
from sunloom.preprocessing.operations.protocol import OneColumn, RowFunction, Training


@dataclass(frozen=True)
class Affine(OneColumn):
    """``(x - center) / scale + shift``, clipped to ``low`` and ``high`` where both are set."""

    op: ClassVar[str] = "affine"
    center: float = 0.0
    scale: float = 1.0
    shift: float = 0.0
    low: float | None = None
    high: float | None = None

    def columns(self, _frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Expr]:
        """The scaled column."""
        value = (as_numbers(self.column) - self.center) / self.scale
        if self.shift:
            value = value + self.shift
        if self.low is not None and self.high is not None:
            value = value.clip(self.low, self.high)
        return [value.alias(self.column)]

    def row_function(self) -> RowFunction:
        """The same for one row."""
        # Locals of the closure: attributes of a dataclass would be looked up anew for each row.
        name, center, scale, shift = self.column, self.center, self.scale, self.shift
        low, high = self.low, self.high
        if low is not None and high is not None:

            def scale_and_clip(row: dict[str, Any]) -> None:
                if (x := row[name]) is not None:
                    row[name] = min(max((x - center) / scale + shift, low), high)

            return scale_and_clip

        def scale_value(row: dict[str, Any]) -> None:
            if (x := row[name]) is not None:
                row[name] = (x - center) / scale + shift

        return scale_value


@dataclass(frozen=True)
class Fill(OneColumn):
    """A value in place of a missing one."""

    op: ClassVar[str] = "fill"
    value: str | float | bool = 0.0

    def columns(self, _frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Expr]:
        """The filled column; numbers become float64."""
        is_text = isinstance(self.value, str)
        column = pl.col(self.column).cast(pl.String) if is_text else as_numbers(self.column)
        return [column.fill_null(self.value).alias(self.column)]

    def row_function(self) -> RowFunction:
        """The same for one row."""
        name, value = self.column, self.value

        def fill(row: dict[str, Any]) -> None:
            if row[name] is None:
                row[name] = value

        return fill


@dataclass(frozen=True)
class Indicator(OneColumn):
    """1 where a value is missing, in a column at the end."""

    op: ClassVar[str] = "indicator"
    name: str

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return (self.name,)

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Expr]:
        """The indicator's column."""
        column = pl.col(self.column)
        column = column.fill_nan(None) if frame.schema[self.column].is_float() else column
        return [column.is_null().cast(pl.Float64).alias(self.name)]

    def row_function(self) -> RowFunction:
        """The same for one row."""
        column, name = self.column, self.name

        def mark(row: dict[str, Any]) -> None:
            row[name] = 1.0 if row[column] is None else 0.0

        return mark


@dataclass(frozen=True)
class Drop(OneColumn):
    """A column that is left out: it had no value when fitting."""

    op: ClassVar[str] = "drop"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Nothing: the column may be missing."""
        return ()

    @property
    def removes(self) -> tuple[str, ...]:
        """The column."""
        return (self.column,)

    def columns(self, _frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Expr]:
        """Nothing."""
        return []

    def row_function(self) -> RowFunction:
        """The same for one row."""
        name = self.column

        def drop(row: dict[str, Any]) -> None:
            row.pop(name, None)

        return drop


@dataclass(frozen=True)
class Discretize(OneColumn):
    """The number of the interval that a value falls into.

    Attributes:
        column: The column.
        edges: Inner edges only: values outside the fitted range fall into the outer intervals.
        one_hot: Whether each interval is a column of its own.
    """

    op: ClassVar[str] = "bins"
    edges: pl.Series
    one_hot: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """The column, or one per interval."""
        if not self.one_hot:
            return (self.column,)
        return tuple(f"{self.column}_{float(i)}" for i in range(len(self.edges) + 1))

    @property
    def removes(self) -> tuple[str, ...]:
        """The column where intervals become columns."""
        return (self.column,) if self.one_hot else ()

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """Interval numbers, or zeros and ones; null where the value is."""
        values = array_of(frame, self.column)
        numbers = np.searchsorted(self.edges.to_numpy(), values, side="right").astype(np.float64)
        # searchsorted sorts NaN behind every edge: it would be in the last interval.
        numbers[np.isnan(values)] = np.nan
        if not self.one_hot:
            return [column_of(self.column, numbers)]
        missing = np.where(np.isnan(numbers), np.nan, 0.0)
        return [column_of(name, (numbers == i) + missing) for i, name in enumerate(self.outputs)]

    def row_function(self) -> RowFunction:
        """The same for one row."""
        name, names, edges = self.column, self.outputs, self.edges.to_list()

        def number(row: dict[str, Any]) -> None:
            if (x := row[name]) is not None:
                row[name] = float(bisect_right(edges, x))

        def spread(row: dict[str, Any]) -> None:
            x = row.pop(name)
            place = None if x is None else bisect_right(edges, x)
            for i, output in enumerate(names):
                row[output] = None if place is None else float(place == i)

        return spread if self.one_hot else number


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
            require_positive(self.column, float(np.nanmin(values, initial=np.inf)))
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

    def row_function(self) -> RowFunction:
        """The same for one row."""
        name, center, scale = self.column, self.center, self.scale
        exponent = self.exponent

        def box_cox(x: float) -> float:
            require_positive(name, x)
            return math.log(x) if exponent == 0 else math.expm1(exponent * math.log(x)) / exponent

        transform = box_cox if self.method == "box-cox" else _yeo_johnson_of(exponent)

        def power(row: dict[str, Any]) -> None:
            if (x := row[name]) is not None:
                row[name] = (transform(x) - center) / scale

        return power


def require_positive(column: str, least: float) -> None:
    """Check the least value that Box-Cox meets.

    Raises:
        DataError: It is not positive.
    """
    if least <= 0:
        raise DataError(
            f"box-cox takes positive values; column {column!r} holds {least!r}.",
            "Use method: yeo-johnson.",
            column,
        )


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
