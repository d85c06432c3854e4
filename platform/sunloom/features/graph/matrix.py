"""A graph as a sparse matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from sunloom.data.sources import require_columns
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
        found = self.weights.copy()
        found.data = np.ones_like(found.data)
        return found

    @cached_property
    def simple(self) -> Any:
        """1 where two nodes touch, whatever the direction; none touches itself."""
        both = (self.links + self.links.T).tocsr()
        both.setdiag(0)
        both.eliminate_zeros()
        both.data = np.ones_like(both.data)
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
        source: Column with the node that it leaves.
        target: Column with the node that it reaches.
        weight: Column with its weight; 1 by default.
        directed: Whether edges have a direction.
        nodes: Further nodes, which may have no edge.

    Raises:
        DataError: A column is missing, an end is null, or a weight is not a finite number above 0.
        DependencyError: scipy is not installed.
    """
    sparse = _sparse()
    require_columns(edges, [source, target, *([weight] if weight else [])], "The edges")
    for end in (source, target):
        if edges[end].null_count():
            raise DataError(f"An edge has no {end!r}.", "Drop such rows.", end)
    named = [edges[source], edges[target]]
    if nodes is not None:
        named.append(pl.Series(list(nodes), dtype=edges[source].dtype))
    every = pl.concat([one.rename("node").cast(named[0].dtype) for one in named]).unique().sort()
    rows, columns = (_places(edges[end], every) for end in (source, target))
    values = np.ones(edges.height) if weight is None else _weights(edges[weight])
    shape = (len(every), len(every))
    matrix = sparse.coo_array((values, (rows, columns)), shape=shape)
    if not directed:
        # An edge from a node to itself is one entry, not two.
        apart = rows != columns
        back = sparse.coo_array((values[apart], (columns[apart], rows[apart])), shape=shape)
        matrix = matrix + back
    return Graph(every, matrix.tocsr(), directed)


def _places(ends: pl.Series, nodes: pl.Series) -> Any:
    if nodes.dtype.is_numeric():
        return np.searchsorted(nodes.to_numpy(), ends.to_numpy())
    codes = pl.int_range(len(nodes), dtype=pl.Int64, eager=True)
    return ends.replace_strict(nodes, codes, return_dtype=pl.Int64).to_numpy()


def _weights(column: pl.Series) -> Any:
    values = column.cast(pl.Float64).to_numpy()
    if not (np.isfinite(values) & (values > 0)).all():
        raise DataError(
            f"The weight {column.name!r} of an edge is not a finite number above 0.",
            "Drop or correct such rows.",
            column.name,
        )
    return values


def _sparse() -> Any:
    try:
        from scipy import sparse
    except ImportError as error:
        raise DependencyError("Graph features need scipy.", "pip install scipy") from error
    return sparse
