"""Adjacency of a graph as sparse matrices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sunloom.data.sources.table_files import require_columns
from sunloom.errors import DataError, DependencyError


@dataclass(frozen=True)
class Graph:
    """Nodes and the weights of their edges.

    Attributes:
        nodes: Each node once, sorted.
        weights: Sparse [nodes, nodes]: row to column; symmetric where edges have no direction.
        directed: Whether edges have a direction.
    """

    nodes: pl.Series
    weights: Any
    directed: bool

    @property
    def size(self) -> int:
        """Number of nodes."""
        return len(self.nodes)

    @cached_property
    def links(self) -> Any:
        """1 where there is an edge."""
        return binarize(self.weights.copy())

    @cached_property
    def arrivals(self) -> Any:
        """The weights by the node that an edge reaches: column to row."""
        # A transpose for each step of PageRank would cost more than the step.
        return self.weights.T.tocsr() if self.directed else self.weights

    @cached_property
    def simple(self) -> Any:
        """1 where two nodes are neighbours, whatever the direction; no node is its own."""
        return binarize(self.mutual.copy())

    @cached_property
    def mutual(self) -> Any:
        """The weights without directions; none of a node to itself."""
        both = (self.weights + self.weights.T).tocsr() if self.directed else self.weights.copy()
        # Setting a diagonal writes it where it was not: an entry of 0 is taken out instead.
        rows = np.repeat(np.arange(self.size), np.diff(both.indptr))
        both.data[both.indices == rows] = 0.0
        both.eliminate_zeros()
        return both


def graph_of(
    edges: pl.DataFrame,
    source: str = "source",
    target: str = "target",
    weight: str | None = None,
    *,
    directed: bool = False,
    nodes: Iterable[Any] | None = None,
) -> Graph:
    """The graph of a table of edges; weights of repeated ones add up.

    Args:
        edges: One row an edge.
        source: Column with the node that it leaves: whole numbers or text.
        target: Column with the node that it reaches.
        weight: Column with its weight; 1 by default.
        directed: Whether edges have a direction.
        nodes: Further nodes, which may have no edge.

    Raises:
        DataError: A column is missing, an end is null or neither whole number nor text, the two
            ends are of different types, or a weight is not a finite number above 0.
        DependencyError: scipy is not installed.
    """
    try:
        from scipy import sparse
    except ImportError as error:
        raise DependencyError("Graph features need scipy.", "pip install scipy") from error
    require_columns(edges, [source, target, *([weight] if weight else [])], "The edges")
    ends = [_ids(edges[end], f"The edges' {end!r}") for end in (source, target)]
    if nodes is not None:
        further = nodes if isinstance(nodes, pl.Series) else pl.Series("nodes", list(nodes))
        ends.append(_ids(further, "A further node"))
    unique, codes = _encode(_concat(ends))
    rows, columns = codes[: edges.height], codes[edges.height : 2 * edges.height]
    values = np.ones(edges.height) if weight is None else _weights(edges[weight])
    shape = (len(unique), len(unique))
    # Converting to CSR adds up repeated edges.
    matrix = sparse.coo_array((values, (rows, columns)), shape=shape).tocsr()
    if not directed:
        # An edge from a node to itself is one entry, not two.
        between = rows != columns
        back = sparse.coo_array((values[between], (columns[between], rows[between])), shape=shape)
        matrix = (matrix + back.tocsr()).tocsr()
    return Graph(unique, matrix, directed)


def _ids(ends: pl.Series, label: str) -> pl.Series:
    """Nodes as int64 or text."""
    if missing := ends.null_count():
        raise DataError(
            f"{label} is missing in {missing} of {len(ends)} rows.", "Drop such rows.", ends.name
        )
    if ends.dtype.is_integer():
        wide = ends.cast(pl.Int64, strict=False)
        if not wide.null_count():
            return wide
    elif ends.dtype in (pl.String, pl.Categorical, pl.Enum):
        return ends.cast(pl.String)
    elif not len(ends):
        return ends.cast(pl.Int64)
    raise DataError(
        f"{label} is {ends.dtype}; nodes are whole numbers (64 bits) or text.",
        "Cast the column.",
        ends.name,
    )


def _concat(ends: list[pl.Series]) -> pl.Series:
    filled = [column for column in ends if len(column)] or ends[:1]
    first = filled[0]
    for column in filled[1:]:
        if column.dtype != first.dtype:
            raise DataError(
                f"Nodes are {first.dtype} in {first.name!r}, {column.dtype} in {column.name!r}.",
                "Cast one of them: the same node would be two.",
                column.name,
            )
    return pl.concat([column.alias("node") for column in filled])


def _encode(ends: pl.Series) -> tuple[pl.Series, NDArray[np.int32]]:
    """The unique nodes, sorted, and each end's index among them."""
    # 32 bits: scipy's matrices keep their indices so, at half the memory.
    if ends.dtype == pl.Int64:
        unique, codes = np.unique(ends.to_numpy(), return_inverse=True)
        return pl.Series("node", unique), codes.astype(np.int32)
    nodes = ends.unique().sort()
    numbers = pl.int_range(len(nodes), dtype=pl.Int32, eager=True)
    return nodes, ends.replace_strict(nodes, numbers, return_dtype=pl.Int32).to_numpy()


def _weights(column: pl.Series) -> Any:
    is_number = column.dtype.is_numeric() or column.dtype == pl.Null
    values = column.cast(pl.Float64).to_numpy() if is_number else np.full(len(column), np.nan)
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"The weight {column.name!r} of an edge is not a finite number above 0: "
            f"{column[row]!r} (row {row}).",
            "Drop or correct such rows.",
            column.name,
        )
    return values


def binarize(matrix: Any) -> Any:
    """The matrix with 1 for every entry, in place."""
    matrix.data = np.ones_like(matrix.data)
    return matrix
