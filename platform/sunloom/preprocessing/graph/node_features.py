"""Degree, components, PageRank and clustering of every node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from sunloom.config.preprocessing.graph import NodeFeature
from sunloom.data.arrays import FloatArray, IntArray
from sunloom.errors import DataError
from sunloom.preprocessing.graph.adjacency import Graph


def graph_features(
    graph: Graph,
    wanted: Sequence[NodeFeature] | None = None,
    *,
    key: str = "node",
    damping: float = 0.85,
    tolerance: float = 1e-12,
    most: int = 1000,
) -> pl.DataFrame:
    """One row a node, one column a feature.

    ``degree`` counts edges to different nodes, and ``out_degree`` and ``in_degree`` those that
    leave and reach a node; one from a node to itself counts twice. ``strength`` sums weights.
    ``component`` is the number of the connected part, from 0 by its least node. ``pagerank`` sums
    to 1. ``clustering`` is the share of a node's neighbours that are neighbours of each other,
    without directions and weights.

    Args:
        graph: The graph.
        wanted: Which features; all that the graph has by default.
        key: Name of the nodes' column.
        damping: Of ``pagerank``, as the others.
        tolerance: As there.
        most: As there.

    Raises:
        DataError: ``pagerank`` has not settled after ``most`` steps.
    """
    names = features_of(graph) if wanted is None else wanted
    made: dict[str, Any] = {key: graph.nodes}
    for name in names:
        if name == "pagerank":
            made[name] = pagerank(graph, damping, tolerance, most)
        elif name not in made:
            made |= _FEATURES[name](graph, name)
    return pl.DataFrame(made).select(key, *names)


def features_of(graph: Graph) -> list[NodeFeature]:
    """Which features the graph's nodes have: a direction's only where edges have one."""
    every: list[NodeFeature] = [*_FEATURES, "pagerank"]
    return [name for name in every if graph.directed or not name.startswith(("in_", "out_"))]


def pagerank(
    graph: Graph, damping: float = 0.85, tolerance: float = 1e-12, most: int = 1000
) -> FloatArray:
    """Where a walker is who follows weighted edges, and jumps anywhere else now and then.

    Args:
        graph: The graph.
        damping: Share of steps along an edge.
        tolerance: Change of all ranks together below which it stops, if rounding lets it.
        most: Steps.

    Raises:
        DataError: It has not stopped after so many steps.
    """
    if not graph.size:
        return np.empty(0)
    out = _sums(graph.weights, 1)
    dangling = np.flatnonzero(out == 0)
    share = np.divide(damping, out, out=np.zeros_like(out), where=out > 0)
    back = graph.arrivals
    # A sum of so many terms may be off by so much, one way in one step and the other in the next.
    rounding = np.diff(back.indptr) * np.finfo(np.float64).eps
    ranks: FloatArray = np.full(graph.size, 1.0 / graph.size)
    change = np.inf
    for _ in range(most):
        lost = ranks[dangling].sum()
        after: FloatArray = back @ (ranks * share)
        after += (damping * lost + 1 - damping) / graph.size
        before, change = change, float(np.abs(after - ranks).sum())
        ranks = after
        if change < tolerance or (change >= before and change < (rounding * ranks).sum()):
            return ranks
    raise DataError(
        f"PageRank changes by {change:.2g} still after {most} steps.",
        "Raise graph.pagerank.max_iter or tol, or lower damping.",
        "graph.pagerank.max_iter",
    )


def clustering(graph: Graph) -> FloatArray:
    """Share of each node's pairs of neighbours that touch; 0 for fewer than two neighbours."""
    simple = graph.simple
    degrees = np.diff(simple.indptr)
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
    pairs = degrees * (degrees - 1.0) / 2
    found: FloatArray = np.divide(triangles, pairs, out=np.zeros(graph.size), where=pairs > 0)
    return found


def _matrix(rows: Any, columns: Any, size: int) -> Any:
    from scipy import sparse

    return sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=(size, size)).tocsr()


def _sums(matrix: Any, axis: int) -> FloatArray:
    found: FloatArray = np.asarray(matrix.sum(axis=axis)).ravel()
    return found


def _ends(graph: Graph, name: str) -> dict[str, Any]:
    """The edges of each node: counted, or their weights summed; out, in, or both."""
    counted = name.endswith("degree")
    matrix = graph.links if counted else graph.weights
    if name.startswith("in_"):
        found = _sums(matrix, 0)
    else:
        found = _sums(matrix, 1)
        if not name.startswith("out_"):
            # Without directions the row holds both ends, but of an edge to itself only one.
            found = found + (_sums(matrix, 0) if graph.directed else matrix.diagonal())
    return {name: found.astype(np.int64) if counted else found}


def _component(graph: Graph, _name: str) -> dict[str, Any]:
    from scipy.sparse.csgraph import connected_components

    if not graph.size:
        nothing: IntArray = np.empty(0, dtype=np.int64)
        return {"component": nothing, "component_size": nothing}
    _, labels = connected_components(graph.weights, directed=graph.directed, connection="weak")
    # The library's own numbers depend on its search: ours go by the least node.
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    place = np.empty(len(first), dtype=np.int64)
    place[np.argsort(first, kind="stable")] = np.arange(len(first))
    numbers = place[inverse]
    sizes = np.bincount(numbers, minlength=len(first))
    return {"component": numbers, "component_size": sizes[numbers]}


_END_FEATURES: tuple[NodeFeature, ...] = (
    "degree",
    "in_degree",
    "out_degree",
    "strength",
    "in_strength",
    "out_strength",
)
_FEATURES: Mapping[NodeFeature, Callable[[Graph, str], dict[str, Any]]] = {
    **dict.fromkeys(_END_FEATURES, _ends),
    "component": _component,
    "component_size": _component,
    "clustering": lambda graph, name: {name: clustering(graph)},
}
