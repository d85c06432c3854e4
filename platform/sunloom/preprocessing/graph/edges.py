"""Edges of a graph: read from files as of a time, and as sparse adjacency matrices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars import selectors

from sunloom.config.preprocessing.graph import GraphConfig, NodesConfig
from sunloom.data.sources.table_files import read_table, require_columns
from sunloom.data.sources.text_types import parse_datetime
from sunloom.errors import DataError, DependencyError


def read_edges(graph: GraphConfig) -> pl.DataFrame:
    """The edges that exist by ``as_of``: source, target and weight.

    Raises:
        UsageError: A file is not there.
        DataError: It cannot be read, lacks a column, or holds no edge.
    """
    ends = [graph.source, graph.target, *([graph.weight] if graph.weight else [])]
    names = [*ends, *([graph.time] if graph.time else [])]
    rows = _read(graph.edge_files(), list(dict.fromkeys(names)))
    # Categories of two columns cannot be compared.
    rows = rows.with_columns(selectors.by_dtype(pl.Categorical, pl.Enum).cast(pl.String))
    if not rows.height:
        raise DataError("The table of edges is empty.", "Nothing was written.", "graph.edges")
    if graph.time is None or graph.as_of is None:
        return rows
    existing = rows.filter(_times(rows[graph.time], "The edges") <= graph.as_of)
    if not existing.height:
        raise DataError(
            f"None of {rows.height} edges is there by {graph.as_of.isoformat()}.",
            "Choose a later time; nothing was written.",
            "graph.as_of",
        )
    return existing.select(list(dict.fromkeys(ends)))


def read_nodes(nodes: NodesConfig, key: str, as_of: datetime | None) -> pl.DataFrame:
    """The nodes' values by ``as_of``, the key's column named ``key``.

    Raises:
        UsageError: The file is not there.
        DataError: It cannot be read, lacks a column, or a row names no node.
    """
    own_key = nodes.key or key
    required = [own_key, *([nodes.time] if nodes.time else [])]
    columns = None if nodes.columns is None else list(dict.fromkeys([*required, *nodes.columns]))
    rows = _read([nodes.table], columns)
    require_columns(rows, required, str(nodes.table))
    if missing := rows[own_key].null_count():
        raise DataError(
            f"{nodes.table}: {own_key!r} is missing in {missing} of {rows.height} rows.",
            "Drop such rows.",
            own_key,
        )
    if nodes.time is not None and as_of is not None:
        rows = rows.with_columns(_times(rows[nodes.time], str(nodes.table)))
        ordered = rows.filter(pl.col(nodes.time) <= as_of).sort(nodes.time, maintain_order=True)
        # Of rows with the same timestamp the later one in the file counts.
        rows = ordered.unique(own_key, keep="last", maintain_order=True).drop(nodes.time)
    return rows.rename({own_key: key}) if own_key != key else rows


def _read(paths: Sequence[Path], columns: list[str] | None) -> pl.DataFrame:
    table = read_table(paths, columns)
    for row in table.damaged:
        raise DataError(f"{row.source}, line {row.position}: {row.reason}.", "Correct the line.")
    return table.rows


def _times(column: pl.Series, label: str) -> pl.Series:
    """Timestamps in UTC."""
    name, dtype = column.name, column.dtype
    if dtype == pl.String:
        text = column.to_frame().select(pl.col(name).str.strip_chars())
        times = text.select(parse_datetime(pl.col(name)).alias(name)).to_series()
    elif isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        times = column.dt.convert_time_zone("UTC")
    elif dtype == pl.Null:
        times = column.cast(pl.Datetime("us", "UTC"))
    else:
        raise DataError(
            f"{label}: {name!r} is {dtype}, no timestamp with a time zone.",
            "Write it in UTC, such as 2026-01-31T12:00:00Z in a text file.",
            name,
        )
    if missing := times.null_count():
        raise DataError(
            f"{label}: {name!r} is missing or no timestamp with a time zone in {missing} of "
            f"{len(times)} rows.",
            "Correct or drop such rows.",
            name,
        )
    return times


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
