"""Node features: degrees, PageRank, clustering, spectral embedding, aggregates of neighbours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from sunloom.config.preprocessing.graph import Aggregation, Direction, NodeFeature
from sunloom.data.arrays import FloatArray
from sunloom.data.sources.table_files import require_columns
from sunloom.errors import DataError
from sunloom.preprocessing.graph.edges import Graph, binarize


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


# Relative error of the eigenvalues. Ten times less takes up to five times as long, and neither
# communities nor predicted links come out better.
_TOLERANCE = 1e-2
_DENSE_SIZE = 64


def graph_embedding(graph: Graph, dimensions: int = 16, *, key: str = "node") -> pl.DataFrame:
    """``embedding_0`` … of each node, one row a node.

    The leading eigenvectors of the symmetric normalised adjacency, each times the root of its
    eigenvalue and of the number of nodes: the product of two nodes' coordinates is great where the
    weight between them is great for their degrees. Degrees are raised by their mean first, which
    keeps small components and long tails of a sparse graph from dominating (Zhang and
    Rohe, 2018). Weights count, directions do not. A column's greatest entry is positive. The same
    table gives the same coordinates: nothing is random.

    Args:
        graph: The graph.
        dimensions: Coordinates. Those beyond the number of nodes, or of a negative eigenvalue,
            are 0; so are all of a node without edges.
        key: Name of the nodes' column.
    """
    table = np.zeros((graph.size, dimensions))
    if graph.size and graph.mutual.nnz:
        values, vectors = _eigenvectors(_normalise(graph.mutual), min(dimensions, graph.size))
        scale = np.sqrt(np.maximum(values, 0.0) * graph.size)
        # Adding 0 makes -0 of a zero scale 0.
        table[:, : len(values)] = _fix_signs(vectors) * scale + 0.0
    columns = {f"embedding_{number}": table[:, number] for number in range(dimensions)}
    return pl.DataFrame({key: graph.nodes, **columns})


def _normalise(adjacency: Any) -> Any:
    from scipy import sparse

    degrees = np.asarray(adjacency.sum(axis=1)).ravel()
    # The mean degree added to each: the regularisation that the docstring describes.
    root = sparse.diags_array(1.0 / np.sqrt(degrees + degrees.mean()))
    return (root @ adjacency @ root).tocsr()


def _eigenvectors(matrix: Any, count: int) -> tuple[FloatArray, FloatArray]:
    """The greatest eigenvalues, falling, and their vectors [nodes, count]."""
    size = matrix.shape[0]
    # ARPACK needs more nodes than vectors, and a small matrix is faster without it.
    if size <= max(_DENSE_SIZE, 2 * count):
        values, vectors = np.linalg.eigh(matrix.toarray())
    else:
        from scipy.sparse.linalg import eigsh

        # ARPACK starts from a random vector of its own unless it is given one.
        start = np.random.default_rng(0).standard_normal(size)
        values, vectors = eigsh(matrix, count, which="LA", v0=start, tol=_TOLERANCE)
    order = np.argsort(-values, kind="stable")[:count]
    return values[order], vectors[:, order]


def _fix_signs(vectors: FloatArray) -> FloatArray:
    """The vectors, each with the sign that makes its greatest entry positive."""
    sizes = np.abs(vectors)
    # Among entries that differ by rounding only, the first one counts.
    first = np.argmax(sizes >= sizes.max(axis=0) * (1 - 1e-6), axis=0)
    leading = vectors[first, np.arange(vectors.shape[1])]
    return np.where(leading < 0, -1.0, 1.0) * vectors


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
