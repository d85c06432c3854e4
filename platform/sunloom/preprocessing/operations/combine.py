"""Operations on several number columns: products, ratios, imputation from columns and rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl

from sunloom.data.arrays import FloatArray
from sunloom.preprocessing.columns import array_of, as_numbers, column_of
from sunloom.preprocessing.operations.protocol import Pairing, RowFunction, SeveralColumns, Training


@dataclass(frozen=True)
class Polynomial(SeveralColumns):
    """Products of powers; null where a factor is.

    Attributes:
        sources: The columns, whose place the products take.
        names: One per product.
        powers: For each product, each column's exponent.
    """

    op: ClassVar[str] = "polynomial"
    names: tuple[str, ...]
    powers: tuple[tuple[int, ...], ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return self.names

    @property
    def removes(self) -> tuple[str, ...]:
        """The columns; a product may have the name of one."""
        return self.sources

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """The products."""
        arrays = [array_of(frame, name) for name in self.sources]
        products = []
        for name, exponents in zip(self.names, self.powers, strict=True):
            product = np.ones(frame.height)
            # Repeated multiplication, as for one row: pow() rounds differently.
            for array, exponent in zip(arrays, exponents, strict=True):
                for _ in range(exponent):
                    product = product * array
            products.append(column_of(name, product))
        return products

    def row_function(self) -> RowFunction:
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

    def row_function(self) -> RowFunction:
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

    def row_function(self) -> RowFunction:
        """The same for one row."""
        left, right, name = self.left, self.right, self.outputs[0]

        def divide(row: dict[str, Any]) -> None:
            a, b = row[left], row[right]
            row[name] = None if a is None or not b else a / b

        return divide


@dataclass(frozen=True)
class ChainedImputation(SeveralColumns):
    """Missing values predicted from the other columns, in the order of fitting.

    Attributes:
        sources: The columns.
        starts: Initial value of each column where it is missing.
        order: Column predicted in each step.
        weights: A row per step: one weight per column, 0 for the predicted one, then the intercept.
        low: Lower bound of a filled value, if there is one.
        high: Upper bound of a filled value, if there is one.
    """

    op: ClassVar[str] = "chain"
    starts: tuple[float, ...]
    order: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]
    low: float | None = None
    high: float | None = None

    @property
    def _bounds(self) -> tuple[float, float]:
        low, high = self.low, self.high
        return -math.inf if low is None else low, math.inf if high is None else high

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """The columns without missing values."""
        table = np.column_stack([array_of(frame, name) for name in self.sources])
        missing = np.isnan(table)
        table = np.where(missing, np.asarray(self.starts), table)
        # A step reads what earlier steps have filled in: the order is part of the model.
        for target, weights in zip(self.order, self.weights, strict=True):
            rows = np.flatnonzero(missing[:, target])
            if rows.size:
                predicted = table[rows] @ np.asarray(weights[:-1]) + weights[-1]
                table[rows, target] = np.clip(predicted, *self._bounds)
        return [pl.Series(name, table[:, i]) for i, name in enumerate(self.sources)]

    def row_function(self) -> RowFunction:
        """The same for one row."""
        sources, starts = self.sources, self.starts
        steps = list(zip(self.order, self.weights, strict=True))
        low, high = self._bounds

        def impute(row: dict[str, Any]) -> None:
            raw = [row[name] for name in sources]
            values = [s if v is None else float(v) for v, s in zip(raw, starts, strict=True)]
            if None in raw:
                for target, weights in steps:
                    if raw[target] is None:
                        # The intercept is one weight more than there are values.
                        product = sum(w * v for w, v in zip(weights, values, strict=False))
                        values[target] = min(max(product + weights[-1], low), high)
            row.update(zip(sources, values, strict=True))

        return impute


# Distances computed at once: 16 MB of float64.
_MATRIX_CELLS = 2_000_000


@dataclass(frozen=True)
class NeighborImputation(SeveralColumns):
    """Missing values as the mean of the nearest fitted rows that have them.

    Attributes:
        sources: The columns.
        table: The fitted rows, a column per source; each has a value somewhere.
        count: Neighbours per value.
        weights: Whether neighbours count equally, or by the inverse of their distance.
    """

    op: ClassVar[str] = "neighbors"
    table: pl.DataFrame
    count: int
    weights: Literal["uniform", "distance"]

    @cached_property
    def _fitted_rows(self) -> FloatArray:
        return np.column_stack([array_of(self.table, name) for name in self.sources])

    @cached_property
    def _donors(self) -> list[FloatArray]:
        """The fitted rows that have a value, column by column."""
        known = self._fitted_rows
        return [known[~np.isnan(known[:, i])] for i in range(len(self.sources))]

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """The columns without missing values."""
        table = np.column_stack([array_of(frame, name) for name in self.sources])
        missing = np.isnan(table)
        filled = table.copy()
        step = max(1, _MATRIX_CELLS // self.table.height)
        for i in range(len(self.sources)):
            rows = np.flatnonzero(missing[:, i])
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                filled[part, i] = self._impute(table[part], i)
        return [pl.Series(name, filled[:, i]) for i, name in enumerate(self.sources)]

    def row_function(self) -> RowFunction:
        """The same for one row."""
        sources = self.sources

        def impute(row: dict[str, Any]) -> None:
            values = [None if row[name] is None else float(row[name]) for name in sources]
            if None in values:
                query = np.array([values], dtype=np.float64)
                for i, value in enumerate(values):
                    if value is None:
                        values[i] = float(self._impute(query, i)[0])
            row.update(zip(sources, values, strict=True))

        return impute

    def _impute(self, queries: FloatArray, column: int) -> FloatArray:
        """The column's value for rows that lack it; [Q, D] to [Q]."""
        donors = self._donors[column]
        distances = _nan_distances(queries, donors)
        count = min(self.count, len(donors))
        # scikit-learn's own selection: of equally far rows it must take the same ones.
        nearest = np.argpartition(distances, count - 1, axis=1)[:, :count]
        chosen = np.take_along_axis(distances, nearest, axis=1)
        weights = np.ones_like(chosen)
        if self.weights == "distance":
            with np.errstate(divide="ignore"):
                weights = 1.0 / chosen
            # Rows at distance 0 count alone.
            equal = np.isinf(weights)
            weights = np.where(equal.any(axis=1, keepdims=True), equal.astype(np.float64), weights)
        weights = np.where(np.isnan(chosen), 0.0, weights)
        totals = weights.sum(axis=1)
        values = donors[nearest, column]
        # Without a column in common with any donor, no row is nearer than another.
        return np.where(
            totals == 0,
            donors[:, column].mean(),
            (weights * values).sum(axis=1) / np.where(totals == 0, 1.0, totals),
        )


def _nan_distances(queries: FloatArray, table: FloatArray) -> FloatArray:
    """Euclidean distances over the columns that both rows have, scaled to all; [Q, D] to [Q, N].

    NaN where two rows have no column in common. Column by column, so that a row's distances do not
    depend on the rows beside it, as they would after a matrix product.
    """
    squares = np.zeros((len(queries), len(table)))
    common = np.zeros_like(squares)
    for i in range(table.shape[1]):
        gaps = queries[:, i, None] - table[None, :, i]
        both = ~np.isnan(gaps)
        squares += np.where(both, gaps * gaps, 0.0)
        common += both
    squares = np.where(common == 0, np.nan, squares / np.maximum(common, 1) * table.shape[1])
    distances: FloatArray = np.sqrt(squares)
    return distances
