"""Node features: degree, strength, components, PageRank and clustering."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from sunloom.config.preprocessing.graph import NodeFeature
from sunloom.data.arrays import FloatArray
from sunloom.errors import DataError
from sunloom.preprocessing.graph.adjacency import Graph


def graph_features(
    graph: Graph,
    names: Sequence[NodeFeature] | None = None,
    *,
    key: str = "node",
    damping: float = 0.85,
    tolerance: float = 1e-12,
    most: int = 1000,
) -> pl.DataFrame:
    """One row per node, one column per feature.

    ``degree`` counts edges to different nodes, and ``out_degree`` and ``in_degree`` those that
    leave and reach a node; one from a node to itself counts twice. ``strength`` sums weights.
    ``component`` is the number of the connected component, from 0 by its least node. ``pagerank``
    sums to 1. ``clustering`` is the share of a node's neighbours that are neighbours of each other,
    without directions and weights.

    Args:
        graph: The graph.
        names: Which features; all that the graph has by default.
        key: Name of the nodes' column.
        damping: As in ``pagerank``.
        tolerance: As in ``pagerank``.
        most: As in ``pagerank``.

    Raises:
        DataError: ``pagerank`` has not converged after ``most`` steps.
    """
    names = features_of(graph) if names is None else names
    columns = {key: graph.nodes}
    for name in names:
        if name == "pagerank":
            columns[name] = pl.Series(pagerank(graph, damping, tolerance, most))
        elif name not in columns:
            # Components come with their sizes: both are of one search.
            columns |= {column.name: column for column in _FEATURES[name](graph, name)}
    return pl.DataFrame(columns).select(key, *names)


def features_of(graph: Graph) -> list[NodeFeature]:
    """Which features the graph's nodes have: a direction's only where edges have one."""
    names: list[NodeFeature] = [*_FEATURES, "pagerank"]
    return [name for name in names if graph.directed or not name.startswith(("in_", "out_"))]


def pagerank(
    graph: Graph, damping: float = 0.85, tolerance: float = 1e-12, most: int = 1000
) -> FloatArray:
    """Stationary probabilities of a random walk along weighted edges with jumps to any node.

    Args:
        graph: The graph.
        damping: Share of steps along an edge.
        tolerance: Total change of the ranks below which it stops, if rounding lets it.
        most: Steps.

    Raises:
        DataError: It has not converged after so many steps.
    """
    if not graph.size:
        return np.empty(0)
    # Weights out of a node, which divide its rank among its neighbours.
    out = _sums(graph.weights, 1)
    dangling = np.flatnonzero(out == 0)
    share = np.divide(damping, out, out=np.zeros_like(out), where=out > 0)
    back = graph.arrivals
    # Rounding error of a row's sum: ranks may change by that much, back and forth, in each step.
    rounding = np.diff(back.indptr) * np.finfo(np.float64).eps
    ranks: FloatArray = np.full(graph.size, 1.0 / graph.size)
    change = np.inf
    for _ in range(most):
        # A walker at a node without outgoing edges jumps to any node.
        lost = ranks[dangling].sum()
        after: FloatArray = back @ (ranks * share)
        after += (damping * lost + 1 - damping) / graph.size
        before, change = change, float(np.abs(after - ranks).sum())
        ranks = after
        if change < tolerance or (change >= before and change < (rounding * ranks).sum()):
            return ranks
    raise DataError(
        f"PageRank still changes by {change:.2g} after {most} steps.",
        "Raise graph.pagerank.max_iter or tol, or lower damping.",
        "graph.pagerank.max_iter",
    )


def clustering_of(graph: Graph) -> FloatArray:
    """Share of each node's pairs of neighbours with an edge; 0 for fewer than two neighbours."""
    from scipy import sparse

    simple = graph.simple
    degrees = np.diff(simple.indptr)
    # Edges from the node with fewer neighbours to the one with more: no row is long, so that the
    # products below stay small for a node with very many neighbours.
    order = np.lexsort((np.arange(graph.size), degrees))
    rank = np.empty(graph.size, dtype=np.int64)
    rank[order] = np.arange(graph.size)
    rows, columns = simple.nonzero()
    up = rank[rows] < rank[columns]
    shape = (graph.size, graph.size)
    entries = (np.ones(int(up.sum())), (rows[up], columns[up]))
    upward = sparse.coo_array(entries, shape=shape).tocsr()
    # Each triangle once for each of its three nodes: as the lowest, the middle, the highest.
    first = (upward @ upward).multiply(upward)
    middle = (upward.T @ upward).multiply(upward)
    triangles = _sums(first, 1) + _sums(first, 0) + _sums(middle, 1)
    pairs = degrees * (degrees - 1.0) / 2
    shares: FloatArray = np.divide(triangles, pairs, out=np.zeros(graph.size), where=pairs > 0)
    return shares


def _sums(matrix: Any, axis: int) -> FloatArray:
    sums: FloatArray = np.asarray(matrix.sum(axis=axis)).ravel()
    return sums


def _degree(graph: Graph, name: str) -> list[pl.Series]:
    """The edges of each node: counted, or their weights summed; out, in, or both."""
    is_count = name.endswith("degree")
    matrix = graph.links if is_count else graph.weights
    sums = _sums(matrix, 0 if name.startswith("in_") else 1)
    if not name.startswith(("in_", "out_")):
        # Without directions the row holds both ends, but of an edge to itself only one.
        sums = sums + (_sums(matrix, 0) if graph.directed else matrix.diagonal())
    return [pl.Series(name, sums.astype(np.int64) if is_count else sums)]


def _components(graph: Graph, _name: str) -> list[pl.Series]:
    from scipy.sparse.csgraph import connected_components

    _, labels = connected_components(graph.weights, directed=graph.directed, connection="weak")
    # scipy's labels depend on its search: these numbers go by the least node.
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    place = np.empty(len(first), dtype=np.int64)
    place[np.argsort(first, kind="stable")] = np.arange(len(first))
    numbers = place[inverse]
    sizes = np.bincount(numbers, minlength=len(first))
    return [pl.Series("component", numbers), pl.Series("component_size", sizes[numbers])]


_DEGREES: tuple[NodeFeature, ...] = (
    "degree",
    "in_degree",
    "out_degree",
    "strength",
    "in_strength",
    "out_strength",
)
_FEATURES: Mapping[NodeFeature, Callable[[Graph, str], list[pl.Series]]] = {
    **dict.fromkeys(_DEGREES, _degree),
    "component": _components,
    "component_size": _components,
    "clustering": lambda graph, name: [pl.Series(name, clustering_of(graph))],
}
