"""Distances to the nearest of the rows that were seen when fitting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import polars as pl

from sunloom.data.arrays import FloatArray, IntArray
from sunloom.preprocessing.operations.number_columns import array_of, column_of
from sunloom.preprocessing.operations.protocol import RowFunction, Training

Metric = Literal["euclidean", "cosine"]
_CELLS = 1_000_000
_LARGEST = 1e150
_Found: TypeAlias = tuple[FloatArray, IntArray]


@dataclass(frozen=True)
class Nearest:
    """Distances to the nearest rows of a table, and their mean target, appended.

    Attributes:
        sources: The vector's columns.
        prefix: Leading part of the new columns' names.
        count: Neighbours a row.
        metric: What near means.
        table: The rows' vectors, a number column a source.
        target: Name of the target; empty where there is none.
        targets: The rows' targets; empty where there is none.
        rows: The rows' numbers in the table that is being fitted: none is its own neighbour.
    """

    op: ClassVar[str] = "nearest"
    sources: tuple[str, ...]
    prefix: str
    count: int
    metric: Metric
    table: pl.DataFrame
    target: str
    targets: pl.Series
    rows: pl.Series = field(
        default_factory=lambda: pl.Series([], dtype=pl.Int64), metadata={"stored": False}
    )

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return self.sources

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        distances = tuple(f"{self.prefix}_distance_{i}" for i in range(self.count))
        return (*distances, f"{self.prefix}_{self.target}") if self.target else distances

    @property
    def removes(self) -> tuple[str, ...]:
        """Columns that are gone afterwards."""
        return ()

    def columns(self, frame: pl.DataFrame, training: Training = None, /) -> Sequence[pl.Series]:
        """Distances, and the mean target."""
        vectors = np.column_stack([array_of(frame, name) for name in self.sources])
        there = usable(vectors)
        own = None if training is None else self._own(training.first, frame.height)[there]
        made = np.full((frame.height, len(self.outputs)), np.nan)
        made[there] = self._figures(vectors[there], own)
        return [column_of(name, made[:, i]) for i, name in enumerate(self.outputs)]

    def scalar(self) -> RowFunction:
        """The same for one row."""
        sources, names = self.sources, self.outputs

        def search(row: dict[str, Any]) -> None:
            values = [row[name] for name in sources]
            vector = np.array([values], dtype=np.float64)
            if not usable(vector)[0]:
                row.update(dict.fromkeys(names))
                return
            row.update(zip(names, self._figures(vector)[0].tolist(), strict=True))

        return search

    def _own(self, first: int, height: int) -> IntArray:
        """Each row's place in the table, -1 for one that is not in it; shape [height]."""
        own = np.full(height, -1, dtype=np.int64)
        numbers = self.rows.to_numpy() - first
        here = np.flatnonzero((numbers >= 0) & (numbers < height))
        own[numbers[here]] = here
        return own

    def _figures(self, vectors: FloatArray, own: IntArray | None = None) -> FloatArray:
        distances, places = self._index(vectors, own)
        if not self.target:
            return distances
        means = self.targets.to_numpy()[places].mean(axis=1, keepdims=True)
        return np.hstack([distances, means])

    @cached_property
    def _index(self) -> Callable[[FloatArray, IntArray | None], _Found]:
        return neighbours_of(self.table.to_numpy(), self.count, self.metric)


def usable(vectors: FloatArray) -> Any:
    """Which vectors have every number, and none whose square overflows; bool, [Q]."""
    return (np.abs(vectors) < _LARGEST).all(axis=1)


def neighbours_of(
    table: FloatArray, count: int, metric: Metric
) -> Callable[[FloatArray, IntArray | None], _Found]:
    """A function that finds the nearest rows of a table, exactly.

    It takes vectors [Q, D] and for each the row that does not count (-1: all count), and gives
    distances [Q, count], rising, and rows of the table [Q, count]; of equally near rows the first.

    A matrix product ranks the rows; those that may be near enough, its rounding allowed for, are
    measured one by one, so that the result depends neither on the size of a batch nor on the
    library.

    Args:
        table: Shape [N, D] with N > count.
        count: Neighbours of each vector.
        metric: What near means.
    """
    known = _scaled(table) if metric == "cosine" else table
    ranking = _Ranking.of(known, count, metric)
    step = max(1, _CELLS // len(table))

    def part(queries: FloatArray, own: IntArray | None) -> _Found:
        rows, places = ranking.candidates(queries, own)
        exact = _measured(queries, known, rows, places, metric)
        order = np.lexsort((places, exact, rows))
        starts = np.searchsorted(rows, np.arange(len(queries)))
        chosen = order[starts[:, None] + np.arange(count)]
        return exact[chosen], places[chosen]

    def search(vectors: FloatArray, own: IntArray | None = None) -> _Found:
        queries = _scaled(vectors) if metric == "cosine" else vectors
        parts = [
            part(queries[i : i + step], None if own is None else own[i : i + step])
            for i in range(0, len(queries), step)
        ]
        if not parts:
            return np.zeros((0, count)), np.zeros((0, count), dtype=np.int64)
        return np.vstack([one for one, _ in parts]), np.vstack([one for _, one in parts])

    return search


@dataclass(frozen=True)
class _Ranking:
    """A table laid out so that a product tells which of its rows may be near.

    Attributes:
        table: Rows without their mean and then what each adds to -2 times the product, infinite
            for those that fill up the last block; [D + 1, N].
        center: The mean.
        count: Neighbours that are wanted.
        width: Rows of a block.
        reach: Greatest squared length of a row.
    """

    table: FloatArray
    center: FloatArray
    count: int
    width: int
    reach: float

    @classmethod
    def of(cls, table: FloatArray, count: int, metric: Metric) -> _Ranking:
        width = max(1, min(64, len(table) // (2 * count)))
        center = table.mean(axis=0) if metric == "euclidean" else np.zeros(table.shape[1])
        moved = table - center
        lengths = np.square(moved).sum(axis=1)
        # Vectors of length 1 are ranked by the product alone; one of zeros has no other length.
        squares = lengths if metric == "euclidean" else np.zeros(len(table))
        more = -len(table) % width
        rows = np.pad(moved, ((0, more), (0, 0))).T
        laid = np.vstack([rows, np.pad(squares, (0, more), constant_values=np.inf)])
        return cls(laid, center, count, width, float(lengths.max()))

    def candidates(self, queries: FloatArray, own: IntArray | None) -> tuple[IntArray, IntArray]:
        """Pairs of a query, rising, and a row: among them each query's nearest rows."""
        moved = queries - self.center
        gaps = np.column_stack([-2 * moved, np.ones(len(moved))]) @ self.table
        if own is not None:
            gaps[np.flatnonzero(own >= 0), own[own >= 0]] = np.inf
        blocks = gaps.reshape(len(queries), -1, self.width)
        least = blocks.min(axis=2)
        # So many blocks have a row at least as near: no farther row can be among the nearest.
        last = np.partition(least, self.count - 1, axis=1)[:, self.count - 1]
        bound = last + self._rounding(np.square(moved).sum(axis=1))
        rows, hit = np.nonzero(least <= bound[:, None])
        pairs, inside = np.nonzero(blocks[rows, hit] <= bound[rows, None])
        return rows[pairs], hit[pairs] * self.width + inside

    def _rounding(self, lengths: FloatArray) -> FloatArray:
        """More than the product's error, for queries of these squared lengths."""
        size = 8 * (len(self.table) + 4) * np.finfo(np.float64).eps
        found: FloatArray = size * (self.reach + lengths)
        return found


def _scaled(vectors: FloatArray) -> FloatArray:
    """Each to length 1; a vector of zeros stays one, as in scikit-learn."""
    lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    found: FloatArray = vectors / np.where(lengths == 0, 1.0, lengths)
    return found


def _measured(
    queries: FloatArray, table: FloatArray, rows: IntArray, places: IntArray, metric: Metric
) -> FloatArray:
    """The distance of each pair, each by itself; shape [pairs]."""
    found = np.empty(len(rows))
    step = max(1, _CELLS // table.shape[1])
    for i in range(0, len(rows), step):
        left, right = queries[rows[i : i + step]], table[places[i : i + step]]
        if metric == "cosine":
            found[i : i + step] = np.clip(1 - (left * right).sum(axis=1), 0, 2)
        else:
            found[i : i + step] = np.sqrt(np.square(left - right).sum(axis=1))
    return found
