"""Operations on vectors: lookup in a table, and exact search of the nearest fitted rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sunloom.data.arrays import FloatArray, IntArray
from sunloom.errors import DataError
from sunloom.preprocessing.columns import array_of, column_of, level_dtype
from sunloom.preprocessing.operations.categories import codes_of
from sunloom.preprocessing.operations.protocol import (
    Expansion,
    RowFunction,
    SeveralColumns,
    Training,
)


@dataclass(frozen=True)
class VectorLookup(Expansion):
    """The vector of each key, in the column's place.

    Attributes:
        column: The column of keys.
        names: One per dimension.
        keys: Unique keys without null.
        table: A row per key, a number column per dimension.
        unseen: What a missing or unknown key gets: zero, or null.
    """

    op: ClassVar[str] = "vector_lookup"
    keys: pl.Series
    table: pl.DataFrame
    unseen: float | None = None

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """One column per dimension.

        Raises:
            DataError: The column is text and the keys are numbers, or the other way round.
        """
        codes = codes_of(self._as_keys(frame[self.column]), self.keys)
        is_known = (codes >= 0) & (codes < len(self.keys))
        # Gathering at null gives null.
        places = pl.Series(np.where(is_known, codes, 0)).set(pl.Series(~is_known), None)
        columns = []
        for i, name in enumerate(self.names):
            values = self.table.to_series(i).gather(places).cast(pl.Float64).alias(name)
            columns.append(values if self.unseen is None else values.fill_null(self.unseen))
        return columns

    def _as_keys(self, values: pl.Series) -> pl.Series:
        dtype = level_dtype(values.dtype)
        if values.dtype == pl.Null or dtype == self.keys.dtype:
            return values
        if (dtype.is_float() or dtype.is_decimal()) and self.keys.dtype == pl.Int64:
            # 7.0 is the key 7, as a nullable integer column may be read; 7.5 is none.
            return values
        raise DataError(
            f"Column {self.column!r} is {values.dtype}, but the table's keys are "
            f"{self.keys.dtype}.",
            "Cast one of them, or name the right key.",
            self.column,
        )

    @cached_property
    def _places(self) -> Mapping[Any, int]:
        return {key: place for place, key in enumerate(self.keys)}

    def row_function(self) -> RowFunction:
        """The same for one row."""
        column, names, table, places = self.column, self.names, self.table, self._places
        missing = dict.fromkeys(names, self.unseen)

        def look_up(row: dict[str, Any]) -> None:
            place = places.get(row.pop(column))
            row.update(missing if place is None else zip(names, table.row(place), strict=True))

        return look_up


Metric = Literal["euclidean", "cosine"]
# Numbers of a distance matrix that are in memory at a time: 8 MB.
_MATRIX_CELLS = 1_000_000
# The square of a greater number, summed over the dimensions, may be infinite.
_LARGEST = 1e150


class Neighbours(NamedTuple):
    """Nearest rows of each query; both [Q, count]."""

    distances: FloatArray
    places: IntArray


Search: TypeAlias = Callable[[FloatArray, IntArray | None], Neighbours]


@dataclass(frozen=True)
class NearestRows(SeveralColumns):
    """Distances to the nearest rows of a table, and their mean target, appended.

    Attributes:
        sources: The vector's columns.
        prefix: Leading part of the new columns' names.
        count: Neighbours per row.
        metric: Distance.
        table: The rows' vectors, a number column per source.
        target: Name of the target; empty where there is none.
        targets: The rows' targets; empty where there is none.
        rows: The rows' numbers in the table that is being fitted: none is its own neighbour.
    """

    op: ClassVar[str] = "nearest"
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
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        distances = tuple(f"{self.prefix}_distance_{i}" for i in range(self.count))
        return (*distances, f"{self.prefix}_{self.target}") if self.target else distances

    def columns(self, frame: pl.DataFrame, training: Training = None, /) -> Sequence[pl.Series]:
        """Distances, and the mean target."""
        vectors = np.column_stack([array_of(frame, name) for name in self.sources])
        usable = is_usable(vectors)
        own = None if training is None else self._own_places(training.first, frame.height)[usable]
        table = np.full((frame.height, len(self.outputs)), np.nan)
        table[usable] = self._figures(vectors[usable], own)
        return [column_of(name, table[:, i]) for i, name in enumerate(self.outputs)]

    def row_function(self) -> RowFunction:
        """The same for one row."""
        sources, names = self.sources, self.outputs

        def search(row: dict[str, Any]) -> None:
            values = [row[name] for name in sources]
            vector = np.array([values], dtype=np.float64)
            if not is_usable(vector)[0]:
                row.update(dict.fromkeys(names))
                return
            row.update(zip(names, self._figures(vector)[0].tolist(), strict=True))

        return search

    def _own_places(self, first: int, height: int) -> IntArray:
        """Each row's place in the table, -1 for one that is not in it; shape [height]."""
        own = np.full(height, -1, dtype=np.int64)
        numbers = self.rows.to_numpy() - first
        inside = np.flatnonzero((numbers >= 0) & (numbers < height))
        own[numbers[inside]] = inside
        return own

    def _figures(self, vectors: FloatArray, own: IntArray | None = None) -> FloatArray:
        distances, places = self._search(vectors, own)
        if not self.target:
            return distances
        means = self.targets.to_numpy()[places].mean(axis=1, keepdims=True)
        return np.hstack([distances, means])

    @cached_property
    def _search(self) -> Search:
        return build_search(self.table.to_numpy(), self.count, self.metric)


def is_usable(vectors: FloatArray) -> NDArray[np.bool_]:
    """Which vectors have every number, and none whose square overflows; [Q]."""
    return np.asarray((np.abs(vectors) < _LARGEST).all(axis=1))


def build_search(table: FloatArray, count: int, metric: Metric) -> Search:
    """A function that finds the nearest rows of a table, exactly.

    It takes queries [Q, D] and for each the row that does not count (-1: all count), and gives
    distances, rising, and rows of the table; of equally near rows the first.

    A matrix product ranks the rows; those that may be near enough, its rounding allowed for, are
    measured one by one, so that the result depends neither on the size of a batch nor on the
    library.

    Args:
        table: Shape [N, D] with N > count.
        count: Neighbours of each query.
        metric: Distance.
    """
    known = to_unit_length(table) if metric == "cosine" else table
    ranking = _rank(known, count, metric)
    step = max(1, _MATRIX_CELLS // len(table))

    def search_batch(queries: FloatArray, own: IntArray | None) -> Neighbours:
        rows, places = ranking.candidates(queries, own)
        exact = _distances(queries, known, rows, places, metric)
        # By query, then distance, then row: equally near rows come in the table's order.
        order = np.lexsort((places, exact, rows))
        starts = np.searchsorted(rows, np.arange(len(queries)))
        nearest = order[starts[:, None] + np.arange(count)]
        return Neighbours(exact[nearest], places[nearest])

    def search(vectors: FloatArray, own: IntArray | None = None) -> Neighbours:
        queries = to_unit_length(vectors) if metric == "cosine" else vectors
        batches = [
            search_batch(queries[i : i + step], None if own is None else own[i : i + step])
            for i in range(0, len(queries), step)
        ]
        if not batches:
            return Neighbours(np.zeros((0, count)), np.zeros((0, count), dtype=np.int64))
        return Neighbours(
            np.vstack([batch.distances for batch in batches]),
            np.vstack([batch.places for batch in batches]),
        )

    return search


@dataclass(frozen=True)
class _Ranking:
    """A table laid out so that a matrix product bounds the distance of each of its rows.

    Attributes:
        table: Rows without their mean, and a last line with what each adds to -2 times the product,
            infinite for those that fill up the last block; [D + 1, N].
        center: The mean; [D].
        count: Neighbours per query.
        width: Rows of a block.
        reach: Greatest squared length of a row.
    """

    table: FloatArray
    center: FloatArray
    count: int
    width: int
    reach: float

    def candidates(self, queries: FloatArray, own: IntArray | None) -> tuple[IntArray, IntArray]:
        """Pairs of a query, rising, and a row: among them each query's nearest rows."""
        moved = queries - self.center
        gaps = np.column_stack([-2 * moved, np.ones(len(moved))]) @ self.table
        if own is not None:
            gaps[np.flatnonzero(own >= 0), own[own >= 0]] = np.inf
        blocks = gaps.reshape(len(queries), -1, self.width)
        least = blocks.min(axis=2)
        # ``count`` blocks have a row at least as near: no farther row can be among the nearest.
        last = np.partition(least, self.count - 1, axis=1)[:, self.count - 1]
        # More than the product's rounding error, for queries of these squared lengths.
        rounding = 8 * (len(self.table) + 4) * np.finfo(np.float64).eps
        bound = last + rounding * (self.reach + np.square(moved).sum(axis=1))
        rows, hit = np.nonzero(least <= bound[:, None])
        pairs, inside = np.nonzero(blocks[rows, hit] <= bound[rows, None])
        return rows[pairs], hit[pairs] * self.width + inside


def _rank(table: FloatArray, count: int, metric: Metric) -> _Ranking:
    width = max(1, min(64, len(table) // (2 * count)))
    # Without the mean lengths are small, and so is the product's rounding error.
    center = table.mean(axis=0) if metric == "euclidean" else np.zeros(table.shape[1])
    moved = table - center
    lengths = np.square(moved).sum(axis=1)
    # Vectors of length 1 are ranked by the product alone; one of zeros has no other length.
    squares = lengths if metric == "euclidean" else np.zeros(len(table))
    padding = -len(table) % width
    rows = np.pad(moved, ((0, padding), (0, 0))).T
    lines = np.vstack([rows, np.pad(squares, (0, padding), constant_values=np.inf)])
    return _Ranking(
        table=lines, center=center, count=count, width=width, reach=float(lengths.max())
    )


def to_unit_length(vectors: FloatArray) -> FloatArray:
    """Each at length 1; a vector of zeros stays one, as in scikit-learn."""
    lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    scaled: FloatArray = vectors / np.where(lengths == 0, 1.0, lengths)
    return scaled


def _distances(
    queries: FloatArray, table: FloatArray, rows: IntArray, places: IntArray, metric: Metric
) -> FloatArray:
    """The distance of each pair, each by itself; shape [pairs]."""
    distances = np.empty(len(rows))
    step = max(1, _MATRIX_CELLS // table.shape[1])
    for i in range(0, len(rows), step):
        left, right = queries[rows[i : i + step]], table[places[i : i + step]]
        if metric == "cosine":
            distances[i : i + step] = np.clip(1 - (left * right).sum(axis=1), 0, 2)
        else:
            distances[i : i + step] = np.sqrt(np.square(left - right).sum(axis=1))
    return distances
