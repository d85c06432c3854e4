"""Spectral embedding of nodes: near for nodes with the same neighbourhoods."""

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
