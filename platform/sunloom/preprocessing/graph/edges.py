"""Edges and nodes of a graph from files, as of a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import polars as pl
from polars import selectors

from sunloom.config.preprocessing.graph import GraphConfig, NodesConfig
from sunloom.data.sources.table_files import data_files, read_table, require_columns
from sunloom.data.sources.text_values import parse_datetime
from sunloom.errors import DataError


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
    files = [file for path in paths for file in data_files(path)]
    tables = [read_table(file, columns) for file in files]
    for row in (row for table in tables for row in table.damaged):
        raise DataError(f"{row.source}, line {row.position}: {row.reason}.", "Correct the line.")
    frames = [(file, table.rows) for file, table in zip(files, tables, strict=True)]
    # The columns of an empty file have no types of their own: CSV reads them as text.
    filled = [(file, rows) for file, rows in frames if rows.height] or frames[:1]
    first_file, first = filled[0]
    for file, rows in filled[1:]:
        require_columns(rows, first.columns, str(file))
        for name, dtype in first.schema.items():
            other = rows.schema[name]
            # Numbers may be of different width.
            is_same_kind = dtype == other or (dtype.is_numeric() and other.is_numeric())
            if not is_same_kind and pl.Null not in (dtype, other):
                raise DataError(
                    f"{name!r} is {dtype} in {first_file}, {other} in {file}.",
                    "Cast them alike.",
                    name,
                )
    rows_by_name = [rows.select(first.columns) for _, rows in filled]
    return pl.concat(rows_by_name, how="vertical_relaxed")


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
            "Write it in UTC, such as pl.col(…).dt.replace_time_zone('UTC').",
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
