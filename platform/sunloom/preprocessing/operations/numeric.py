"""Operations on one number column: scaling, filling, indicators, intervals."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from sunloom.preprocessing.operations.column_shapes import OneColumn
from sunloom.preprocessing.operations.number_columns import array_of, as_numbers, column_of
from sunloom.preprocessing.operations.protocol import RowFunction, Training


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
    def outputs(self) -> tuple[str, ...]:
        """Nothing."""
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
