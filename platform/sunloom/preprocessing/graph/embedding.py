"""Coordinates of nodes: near where their surroundings are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from sunloom.data.arrays import FloatArray
from sunloom.preprocessing.graph.adjacency import Graph

# Relative error of the eigenvalues. Ten times less takes up to five times as long, and neither
# communities nor predicted links come out better.
_TOLERANCE = 1e-2
_DENSE_SIZE = 64


def graph_embedding(graph: Graph, dimensions: int = 16, *, key: str = "node") -> pl.DataFrame:
    """``embedding_0`` … of each node, one row a node.

    The leading eigenvectors of the symmetric normalised adjacency, each times the root of its
    eigenvalue and of the number of nodes: the product of two nodes' coordinates is great where the
    weight between them is great for their degrees. Degrees are raised by their mean first, which
    keeps small parts and long tails of a sparse graph from taking the leading places (Zhang and
    Rohe, 2018). Weights count, directions do not. A column's greatest entry is positive. The same
    table gives the same coordinates: nothing is left to chance.

    Args:
        graph: The graph.
        dimensions: Coordinates. Those beyond the number of nodes, or of a negative eigenvalue,
            are 0; so are all of a node without edges.
        key: Name of the nodes' column.
    """
    made = np.zeros((graph.size, dimensions))
    if graph.size and graph.mutual.nnz:
        values, vectors = _leading(_normalised(graph.mutual), min(dimensions, graph.size))
        scale = np.sqrt(np.maximum(values, 0.0) * graph.size)
        made[:, : len(values)] = _signed(vectors) * scale + 0.0  # no column of -0
    columns = {f"embedding_{number}": made[:, number] for number in range(dimensions)}
    return pl.DataFrame({key: graph.nodes, **columns})


def _normalised(adjacency: Any) -> Any:
    from scipy import sparse

    degrees = np.asarray(adjacency.sum(axis=1)).ravel()
    root = sparse.diags_array(1.0 / np.sqrt(degrees + degrees.mean()))
    return (root @ adjacency @ root).tocsr()


def _leading(matrix: Any, count: int) -> tuple[FloatArray, FloatArray]:
    """The greatest eigenvalues, falling, and their vectors [nodes, count]."""
    size = matrix.shape[0]
    if size <= max(_DENSE_SIZE, 2 * count):
        values, vectors = np.linalg.eigh(matrix.toarray())
    else:
        from scipy.sparse.linalg import eigsh

        # ARPACK begins somewhere by chance unless told where.
        start = np.random.default_rng(0).standard_normal(size)
        values, vectors = eigsh(matrix, count, which="LA", v0=start, tol=_TOLERANCE)
    order = np.argsort(-values, kind="stable")[:count]
    return values[order], vectors[:, order]


def _signed(vectors: FloatArray) -> FloatArray:
    sizes = np.abs(vectors)
    # Among entries that rounding alone tells apart, the first one counts.
    first = np.argmax(sizes >= sizes.max(axis=0) * (1 - 1e-6), axis=0)
    leading = vectors[first, np.arange(vectors.shape[1])]
    signed: FloatArray = np.where(leading < 0, -1.0, 1.0) * vectors
    return signed
