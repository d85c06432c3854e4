"""Aggregates of the values of a node's neighbours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from sunloom.config.preprocessing.graph import Aggregation, Direction
from sunloom.data.arrays import FloatArray
from sunloom.data.sources.table_files import require_columns
from sunloom.errors import DataError
from sunloom.preprocessing.graph.adjacency import Graph, binarize

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
    own neighbour. Missing values and NaN do not count: without any value ``count`` is 0, and the
    others are null.

    Args:
        graph: The graph.
        values: A row per node: the key, and columns of numbers, true and false.
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
    # A node without a row has null values, which do not count.
    known = nodes.join(_with_key(values, key, graph), on=key, how="left", maintain_order="left")
    links = _LINKS[direction](graph) if graph.directed else graph.links
    columns = {key: graph.nodes}
    for name in (name for name in values.columns if name != key):
        column = _NeighbourColumn(links, _numbers(known[name]))
        for aggregation in aggregations:
            aggregates = _AGGREGATIONS[aggregation](column)
            columns[f"neighbour_{aggregation}_{name}"] = pl.Series(aggregates, nan_to_null=True)
    return pl.DataFrame(columns)


class _NeighbourColumn:
    """One column's values at the neighbours; sums that several aggregations need, once."""

    def __init__(self, links: Any, values: FloatArray) -> None:
        self.links, self.values = links, values
        is_known = ~np.isnan(values)
        self.count: FloatArray = links @ is_known.astype(np.float64)
        self.total: FloatArray = links @ np.where(is_known, values, 0.0)

    def mean(self) -> FloatArray:
        return np.divide(self.total, self.count, out=self._nans(), where=self.count > 0)

    def sum(self) -> FloatArray:
        return np.where(self.count > 0, self.total, np.nan)

    def extreme(self, ufunc: np.ufunc) -> FloatArray:
        extremes, starts = self._nans(), self.links.indptr
        # reduceat of an empty range would give its first value.
        filled = np.flatnonzero(np.diff(starts))
        if len(filled):
            values = self.values[self.links.indices]
            extremes[filled] = ufunc.reduceat(values, starts[filled])
        return extremes

    def _nans(self) -> FloatArray:
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


_LINKS: Mapping[Direction, Callable[[Graph], Any]] = {
    "out": lambda graph: graph.links,
    "in": lambda graph: graph.links.T.tocsr(),
    "both": lambda graph: binarize((graph.links + graph.links.T).tocsr()),
}
_AGGREGATIONS: Mapping[Aggregation, Callable[[_NeighbourColumn], Any]] = {
    "mean": _NeighbourColumn.mean,
    "sum": _NeighbourColumn.sum,
    # fmin and fmax pass over NaN, which stands for a missing value.
    "min": lambda column: column.extreme(np.fmin),
    "max": lambda column: column.extreme(np.fmax),
    "count": lambda column: column.count.astype(np.int64),
}
