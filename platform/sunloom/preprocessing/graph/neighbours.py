"""What the values of a node's neighbours are like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from sunloom.config.preprocessing.graph import Aggregation, Direction
from sunloom.data.arrays import FloatArray
from sunloom.data.sources.table_files import require_columns
from sunloom.errors import DataError
from sunloom.preprocessing.graph.adjacency import Graph

DEFAULT: tuple[Aggregation, ...] = ("mean", "sum")


def neighbour_features(
    graph: Graph,
    values: pl.DataFrame,
    aggregations: Sequence[Aggregation] = DEFAULT,
    *,
    key: str = "node",
    direction: Direction = "out",
) -> pl.DataFrame:
    """``neighbour_<aggregation>_<column>`` of each node, one row a node.

    A neighbour counts once however many edges lead there, and a node with an edge to itself is its
    own. Missing values and NaN do not count: ``count`` is 0 where none is left, the others null.

    Args:
        graph: The graph.
        values: A row a node: the key, and columns of numbers, true and false.
        aggregations: What is computed.
        key: Name of the nodes' column, here and in ``values``.
        direction: Neighbours that an edge leads to, comes from, or both.

    Raises:
        DataError: ``values`` lacks the key, names a node twice, or holds something but finite
            numbers.
    """
    require_columns(values, [key], "The nodes' values")
    if values[key].is_duplicated().any():
        raise DataError("The nodes' values name a node twice.", "Keep one row of each.", key)
    nodes = pl.DataFrame({key: graph.nodes})
    known = nodes.join(_with_key(values, key, graph), on=key, how="left", maintain_order="left")
    links = _LINKS[direction](graph) if graph.directed else graph.links
    made: dict[str, Any] = {key: graph.nodes}
    for name in (name for name in values.columns if name != key):
        column = _NeighbourColumn(links, _numbers(known[name]))
        for wanted in aggregations:
            figures = _AGGREGATIONS[wanted](column)
            made[f"neighbour_{wanted}_{name}"] = pl.Series(figures, nan_to_null=True)
    return pl.DataFrame(made)


class _NeighbourColumn:
    """One column's values at the neighbours; figures that several aggregations need, once."""

    def __init__(self, links: Any, values: FloatArray) -> None:
        self.links, self.values = links, values
        self.there = ~np.isnan(values)
        self.count: FloatArray = links @ self.there.astype(np.float64)
        self.total: FloatArray = links @ np.where(self.there, values, 0.0)

    def mean(self) -> FloatArray:
        return np.divide(self.total, self.count, out=self._nothing(), where=self.count > 0)

    def sum(self) -> FloatArray:
        return np.where(self.count > 0, self.total, np.nan)

    def extreme(self, ufunc: np.ufunc) -> FloatArray:
        found, starts = self._nothing(), self.links.indptr
        filled = np.flatnonzero(np.diff(starts))
        if len(filled):
            around = self.values[self.links.indices]
            found[filled] = ufunc.reduceat(around, starts[filled])
        return found

    def _nothing(self) -> FloatArray:
        return np.full(len(self.values), np.nan)


def _with_key(values: pl.DataFrame, key: str, graph: Graph) -> pl.DataFrame:
    dtype = graph.nodes.dtype
    if values[key].dtype.is_integer() != dtype.is_integer():
        raise DataError(
            f"The nodes' {key!r} is {values[key].dtype}, the edges' nodes are {dtype}.",
            "Cast one of them.",
            key,
        )
    return values.with_columns(pl.col(key).cast(dtype))


def _numbers(column: pl.Series) -> FloatArray:
    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise DataError(
            f"The nodes' value {column.name!r} is {column.dtype}, no number.",
            "Leave it out of graph.nodes.columns, or encode it first.",
            column.name,
        )
    values: FloatArray = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
    if np.isinf(values).any():
        raise DataError(
            f"The nodes' value {column.name!r} is infinite somewhere.",
            "Replace it, or make it null.",
            column.name,
        )
    return values


def _both(graph: Graph) -> Any:
    both = (graph.links + graph.links.T).tocsr()
    both.data = np.ones_like(both.data)
    return both


_LINKS: Mapping[Direction, Callable[[Graph], Any]] = {
    "out": lambda graph: graph.links,
    "in": lambda graph: graph.links.T.tocsr(),
    "both": _both,
}
_AGGREGATIONS: Mapping[Aggregation, Callable[[_NeighbourColumn], Any]] = {
    "mean": _NeighbourColumn.mean,
    "sum": _NeighbourColumn.sum,
    # fmin and fmax pass over NaN, which stands for a missing value.
    "min": lambda column: column.extreme(np.fmin),
    "max": lambda column: column.extreme(np.fmax),
    "count": lambda column: column.count.astype(np.int64),
}
