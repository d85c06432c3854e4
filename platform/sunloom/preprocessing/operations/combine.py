"""Operations on several number columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from sunloom.preprocessing.operations.column_shapes import Pairing
from sunloom.preprocessing.operations.number_columns import array_of, as_numbers, column_of
from sunloom.preprocessing.operations.protocol import RowFunction, Training


@dataclass(frozen=True)
class Polynomial:
    """Products of powers; null where a factor is.

    Attributes:
        sources: The columns, whose place the products take.
        names: One a product.
        powers: For each product, each column's exponent.
    """

    op: ClassVar[str] = "polynomial"
    sources: tuple[str, ...]
    names: tuple[str, ...]
    powers: tuple[tuple[int, ...], ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return self.sources

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return self.names

    @property
    def removes(self) -> tuple[str, ...]:
        """The columns; a product may bear the name of one."""
        return self.sources

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """The products."""
        arrays = [array_of(frame, name) for name in self.sources]
        found = []
        for name, exponents in zip(self.names, self.powers, strict=True):
            value = np.ones(frame.height)
            for array, exponent in zip(arrays, exponents, strict=True):
                for _ in range(exponent):
                    value = value * array
            found.append(column_of(name, value))
        return found

    def scalar(self) -> RowFunction:
        """The same for one row."""
        factors = [
            (name, [i for i, exponent in enumerate(exponents) for _ in range(exponent)])
            for name, exponents in zip(self.names, self.powers, strict=True)
        ]
        sources = self.sources

        def multiply(row: dict[str, Any]) -> None:
            values = [row[name] for name in sources]
            for name in sources:
                del row[name]
            for name, places in factors:
                chosen = [values[i] for i in places]
                row[name] = None if None in chosen else float(math.prod(chosen))

        return multiply


@dataclass(frozen=True)
class Product(Pairing):
    """``a*b`` in a column at the end."""

    op: ClassVar[str] = "product"
    sign: ClassVar[str] = "*"

    def columns(self, _frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Expr]:
        """The product."""
        return [(as_numbers(self.left) * as_numbers(self.right)).alias(self.outputs[0])]

    def scalar(self) -> RowFunction:
        """The same for one row."""
        left, right, name = self.left, self.right, self.outputs[0]

        def multiply(row: dict[str, Any]) -> None:
            a, b = row[left], row[right]
            row[name] = None if a is None or b is None else float(a) * b

        return multiply


@dataclass(frozen=True)
class Ratio(Pairing):
    """``a/b`` in a column at the end; null where b is 0."""

    op: ClassVar[str] = "ratio"
    sign: ClassVar[str] = "/"

    def columns(self, _frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Expr]:
        """The ratio."""
        left, right = as_numbers(self.left), as_numbers(self.right)
        return [pl.when(right != 0).then(left / right).alias(self.outputs[0])]

    def scalar(self) -> RowFunction:
        """The same for one row."""
        left, right, name = self.left, self.right, self.outputs[0]

        def divide(row: dict[str, Any]) -> None:
            a, b = row[left], row[right]
            row[name] = None if a is None or not b else a / b

        return divide


@dataclass(frozen=True)
class Chain:
    """Missing values predicted from the other columns, in the order in which they were learnt.

    Attributes:
        sources: The columns.
        starts: What stands in for a missing value at first.
        order: Column predicted in each step.
        weights: A row a step: one weight a column, 0 for the predicted one, then the intercept.
        low: Least value that is filled in, if there is one.
        high: Greatest value that is filled in, if there is one.
    """

    op: ClassVar[str] = "chain"
    sources: tuple[str, ...]
    starts: tuple[float, ...]
    order: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]
    low: float | None = None
    high: float | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return self.sources

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return self.sources

    @property
    def removes(self) -> tuple[str, ...]:
        """Columns that are gone afterwards."""
        return ()

    @property
    def _range(self) -> tuple[float, float]:
        low, high = self.low, self.high
        return -math.inf if low is None else low, math.inf if high is None else high

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """The columns without gaps."""
        table = np.column_stack([array_of(frame, name) for name in self.sources])
        missing = np.isnan(table)
        table = np.where(missing, np.asarray(self.starts), table)
        for target, weights in zip(self.order, self.weights, strict=True):
            rows = np.flatnonzero(missing[:, target])
            if rows.size:
                predicted = table[rows] @ np.asarray(weights[:-1]) + weights[-1]
                table[rows, target] = np.clip(predicted, *self._range)
        return [pl.Series(name, table[:, i]) for i, name in enumerate(self.sources)]

    def scalar(self) -> RowFunction:
        """The same for one row."""
        sources, starts = self.sources, self.starts
        steps = list(zip(self.order, self.weights, strict=True))
        low, high = self._range

        def impute(row: dict[str, Any]) -> None:
            given = [row[name] for name in sources]
            values = [s if v is None else float(v) for v, s in zip(given, starts, strict=True)]
            if None in given:
                for target, weights in steps:
                    if given[target] is None:
                        found = sum(w * v for w, v in zip(weights, values, strict=False))
                        values[target] = min(max(found + weights[-1], low), high)
            row.update(zip(sources, values, strict=True))

        return impute
