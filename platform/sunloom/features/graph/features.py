"""Degree, components, PageRank, clustering and neighbours' values of every node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl

from sunloom.data.sources import require_columns
from sunloom.errors import DataError
from sunloom.features.graph.matrix import Graph
from sunloom.features.transformers.numbers import FloatArray

Feature = Literal["degree", "strength", "component", "pagerank", "clustering"]
ALL: tuple[Feature, ...] = ("degree", "strength", "component", "pagerank", "clustering")


def graph_features(
    graph: Graph,
    wanted: Sequence[Feature] = ALL,
    values: pl.DataFrame | None = None,
    *,
    key: str = "node",
) -> pl.DataFrame:
    """One row a node.

    ``degree`` counts edges, and those that leave and reach a node where they have a direction;
    one from a node to itself counts twice. ``strength`` sums their weights. ``component`` is the
    number of the connected part, from 0 by its least node, with ``component_size``. ``pagerank``
    sums to 1. ``clustering`` is the share of a node's neighbours that are neighbours of each other,
    without directions and weights.

    Args:
        graph: The graph.
        wanted: Which features.
        values: Numbers of the nodes: for each column ``neighbour_mean_<column>`` and
            ``neighbour_sum_<column>`` over the nodes that an edge leads to; null without any.
        key: Name of the nodes' column, here and in ``values``.

    Raises:
        DataError: ``values`` lacks the key, names a node twice, or holds something but numbers.
    """
    made: dict[str, Any] = {key: graph.nodes}
    for feature in wanted:
        made |= _FEATURES[feature](graph)
    if values is not None:
        made |= _neighbours(graph, values, key)
    return pl.DataFrame(made)


def pagerank(
    graph: Graph, damping: float = 0.85, tolerance: float = 1e-12, most: int = 500
) -> FloatArray:
    """Where a walker is who follows weighted edges, and jumps anywhere else now and then.

    Args:
        graph: The graph.
        damping: Share of steps along an edge.
        tolerance: Change of all ranks together below which it stops.
        most: Steps after which it stops anyway.
    """
    if not graph.size:
        return np.empty(0)
    out = _sums(graph.weights, 1)
    dangling = np.flatnonzero(out == 0)
    share = np.divide(1.0, out, out=np.zeros_like(out), where=out > 0)
    back = graph.weights.T.tocsr()
    ranks: FloatArray = np.full(graph.size, 1.0 / graph.size)
    for _ in range(most):
        lost = ranks[dangling].sum()
        after = damping * (back @ (ranks * share) + lost / graph.size) + (1 - damping) / graph.size
        change = float(np.abs(after - ranks).sum())
        ranks = after
        if change < tolerance:
            break
    return ranks


def clustering(graph: Graph) -> FloatArray:
    """Share of each node's pairs of neighbours that touch; 0 for fewer than two neighbours."""
    simple = graph.simple
    degrees = _sums(simple, 1)
    # From the node with fewer neighbours to the one with more: no row of it is long.
    order = np.lexsort((np.arange(graph.size), degrees))
    rank = np.empty(graph.size, dtype=np.int64)
    rank[order] = np.arange(graph.size)
    rows, columns = simple.nonzero()
    up = rank[rows] < rank[columns]
    upward = _matrix(rows[up], columns[up], graph.size)
    first = (upward @ upward).multiply(upward)
    middle = (upward.T @ upward).multiply(upward)
    triangles = _sums(first, 1) + _sums(first, 0) + _sums(middle, 1)
    pairs = degrees * (degrees - 1) / 2
    found: FloatArray = np.divide(triangles, pairs, out=np.zeros(graph.size), where=pairs > 0)
    return found


def _matrix(rows: Any, columns: Any, size: int) -> Any:
    from scipy import sparse

    return sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=(size, size)).tocsr()


def _sums(matrix: Any, axis: int) -> FloatArray:
    found: FloatArray = np.asarray(matrix.sum(axis=axis)).ravel()
    return found


def _degree(graph: Graph) -> dict[str, Any]:
    return _ends(graph, graph.links, "degree")


def _strength(graph: Graph) -> dict[str, Any]:
    return _ends(graph, graph.weights, "strength")


def _ends(graph: Graph, matrix: Any, name: str) -> dict[str, Any]:
    out = _sums(matrix, 1)
    if not graph.directed:
        return {name: _whole(out + matrix.diagonal(), name)}
    into = _sums(matrix, 0)
    return {
        name: _whole(out + into, name),
        f"out_{name}": _whole(out, name),
        f"in_{name}": _whole(into, name),
    }


def _whole(values: FloatArray, name: str) -> Any:
    return values.astype(np.int64) if name == "degree" else values


def _component(graph: Graph) -> dict[str, Any]:
    from scipy.sparse.csgraph import connected_components

    _, labels = connected_components(graph.weights, directed=True, connection="weak")
    # The library's own numbers depend on its search: ours go by the least node.
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    place = np.empty(len(first), dtype=np.int64)
    place[np.argsort(first, kind="stable")] = np.arange(len(first))
    numbers = place[inverse]
    sizes = np.bincount(numbers, minlength=len(first))
    return {"component": numbers, "component_size": sizes[numbers]}


def _neighbours(graph: Graph, values: pl.DataFrame, key: str) -> dict[str, Any]:
    require_columns(values, [key], "The nodes' values")
    if values[key].is_duplicated().any():
        raise DataError("The nodes' values name a node twice.", param=key)
    names = [name for name in values.columns if name != key]
    if bad := [name for name in names if not values.schema[name].is_numeric()]:
        raise DataError(f"The nodes' value {bad[0]!r} is {values.schema[bad[0]]}, no number.")
    nodes = pl.DataFrame({key: graph.nodes})
    known = nodes.join(values, on=key, how="left", maintain_order="left")
    made: dict[str, Any] = {}
    for name in names:
        column = known[name].cast(pl.Float64).fill_nan(None)
        there = column.is_not_null().cast(pl.Float64).to_numpy()
        count = graph.links @ there
        total = graph.links @ column.fill_null(0.0).to_numpy()
        gone = np.where(count > 0, 0.0, np.nan)
        mean = np.divide(total, count, out=np.full(graph.size, np.nan), where=count > 0)
        made[f"neighbour_mean_{name}"] = pl.Series(mean, nan_to_null=True)
        made[f"neighbour_sum_{name}"] = pl.Series(total + gone, nan_to_null=True)
    return made


_FEATURES: Mapping[Feature, Callable[[Graph], dict[str, Any]]] = {
    "degree": _degree,
    "strength": _strength,
    "component": _component,
    "pagerank": lambda graph: {"pagerank": pagerank(graph)},
    "clustering": lambda graph: {"clustering": clustering(graph)},
}
