"""Operations on one number column."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from sunloom.preprocessing.operations.number_columns import array_of, as_numbers, column_of
from sunloom.preprocessing.operations.protocol import RowFunction, Training


@dataclass(frozen=True)
class InPlace:
    """A column that keeps its name and place."""

    column: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return (self.column,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return (self.column,)

    @property
    def removes(self) -> tuple[str, ...]:
        """Columns that are gone afterwards."""
        return ()


@dataclass(frozen=True)
class Affine(InPlace):
    """``(x - center) / scale + shift``, held between ``low`` and ``high`` where they are given."""

    op: ClassVar[str] = "affine"
    center: float = 0.0
    scale: float = 1.0
    shift: float = 0.0
    low: float | None = None
    high: float | None = None

    def columns(self, _frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Expr]:
        """The scaled column."""
        found = (as_numbers(self.column) - self.center) / self.scale
        if self.shift:
            found = found + self.shift
        if self.low is not None and self.high is not None:
            found = found.clip(self.low, self.high)
        return [found.alias(self.column)]

    def scalar(self) -> RowFunction:
        """The same for one row."""
        name, center, scale, shift = self.column, self.center, self.scale, self.shift
        low, high = self.low, self.high
        if low is not None and high is not None:

            def clipped(row: dict[str, Any]) -> None:
                if (x := row[name]) is not None:
                    row[name] = min(max((x - center) / scale + shift, low), high)

            return clipped

        def scaled(row: dict[str, Any]) -> None:
            if (x := row[name]) is not None:
                row[name] = (x - center) / scale + shift

        return scaled


@dataclass(frozen=True)
class Fill(InPlace):
    """A value in place of a missing one."""

    op: ClassVar[str] = "fill"
    value: str | float | bool = 0.0

    def columns(self, _frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Expr]:
        """The filled column; numbers become float64."""
        text = isinstance(self.value, str)
        column = pl.col(self.column).cast(pl.String) if text else as_numbers(self.column)
        return [column.fill_null(self.value).alias(self.column)]

    def scalar(self) -> RowFunction:
        """The same for one row."""
        name, value = self.column, self.value

        def fill(row: dict[str, Any]) -> None:
            if row[name] is None:
                row[name] = value

        return fill


@dataclass(frozen=True)
class Indicator:
    """1 where a value is missing, in a column at the end."""

    op: ClassVar[str] = "indicator"
    column: str
    name: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return (self.column,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return (self.name,)

    @property
    def removes(self) -> tuple[str, ...]:
        """Columns that are gone afterwards."""
        return ()

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Expr]:
        """The indicator's column."""
        column = pl.col(self.column)
        column = column.fill_nan(None) if frame.schema[self.column].is_float() else column
        return [column.is_null().cast(pl.Float64).alias(self.name)]

    def scalar(self) -> RowFunction:
        """The same for one row."""
        column, name = self.column, self.name

        def mark(row: dict[str, Any]) -> None:
            row[name] = 1.0 if row[column] is None else 0.0

        return mark


@dataclass(frozen=True)
class Drop:
    """A column that is left out: it had no value when fitting."""

    op: ClassVar[str] = "drop"
    column: str

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

    def scalar(self) -> RowFunction:
        """The same for one row."""
        name = self.column

        def drop(row: dict[str, Any]) -> None:
            row.pop(name, None)

        return drop


@dataclass(frozen=True)
class Discretize(InPlace):
    """The number of the interval that a value lies in; inner edges only."""

    op: ClassVar[str] = "bins"
    edges: pl.Series
    one_hot: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """The column, or one an interval."""
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
        found = np.searchsorted(self.edges.to_numpy(), values, side="right").astype(np.float64)
        found[np.isnan(values)] = np.nan
        if not self.one_hot:
            return [column_of(self.column, found)]
        gone = np.where(np.isnan(found), np.nan, 0.0)
        return [column_of(name, (found == i) + gone) for i, name in enumerate(self.outputs)]

    def scalar(self) -> RowFunction:
        """The same for one row."""
        name, names, edges = self.column, self.outputs, self.edges.to_list()

        def number(row: dict[str, Any]) -> None:
            if (x := row[name]) is not None:
                row[name] = float(bisect_right(edges, x))

        def spread(row: dict[str, Any]) -> None:
            x = row.pop(name)
            place = None if x is None else bisect_right(edges, x)
            for i, one in enumerate(names):
                row[one] = None if place is None else float(place == i)

        return spread if self.one_hot else number
