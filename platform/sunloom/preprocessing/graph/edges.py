"""Edges and nodes from files, as of a moment."""

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
    """The edges that are there by ``as_of``: source, target and weight.

    Raises:
        UsageError: A file is not there.
        DataError: It cannot be read, lacks a column, or holds no edge.
    """
    ends = [graph.source, graph.target, *([graph.weight] if graph.weight else [])]
    names = [*ends, *([graph.time] if graph.time else [])]
    rows = _read(graph.edge_files(), list(dict.fromkeys(names)))
    # Two columns' levels cannot be compared.
    rows = rows.with_columns(selectors.by_dtype(pl.Categorical, pl.Enum).cast(pl.String))
    if not rows.height:
        raise DataError("The table of edges is empty.", "Nothing was written.", "graph.edges")
    if graph.time is None or graph.as_of is None:
        return rows
    seen = rows.filter(_moments(rows, graph.time, "The edges") <= graph.as_of)
    if not seen.height:
        raise DataError(
            f"None of {rows.height} edges is there by {graph.as_of.isoformat()}.",
            "Choose a later moment; nothing was written.",
            "graph.as_of",
        )
    return seen.select(list(dict.fromkeys(ends)))


def read_nodes(nodes: NodesConfig, key: str, as_of: datetime | None) -> pl.DataFrame:
    """The nodes' values by ``as_of``, the key's column named ``key``.

    Raises:
        UsageError: The file is not there.
        DataError: It cannot be read, lacks a column, or a row names no node.
    """
    named = nodes.key or key
    apart = [named, *([nodes.time] if nodes.time else [])]
    columns = None if nodes.columns is None else list(dict.fromkeys([*apart, *nodes.columns]))
    rows = _read([nodes.table], columns)
    require_columns(rows, apart, str(nodes.table))
    if missing := rows[named].null_count():
        raise DataError(
            f"{nodes.table}: {named!r} is missing in {missing} of {rows.height} rows.",
            "Drop such rows.",
            named,
        )
    if nodes.time is not None and as_of is not None:
        rows = _latest(rows, named, nodes.time, as_of, str(nodes.table))
    return rows.rename({named: key}) if named != key else rows


def _read(paths: Sequence[Path], columns: list[str] | None) -> pl.DataFrame:
    files = [file for path in paths for file in data_files(path)]
    tables = [read_table(file, columns) for file in files]
    for row in (row for table in tables for row in table.damaged):
        raise DataError(f"{row.source}, line {row.position}: {row.reason}.", "Correct the line.")
    filled = [(str(file), table.rows) for file, table in zip(files, tables, strict=True)]
    filled = [(file, rows) for file, rows in filled if rows.height] or filled[:1]
    for file, rows in filled[1:]:
        _require_alike(filled[0], (file, rows))
    names = filled[0][1].columns
    return pl.concat([rows.select(names) for _, rows in filled], how="vertical_relaxed")


def _require_alike(first: tuple[str, pl.DataFrame], other: tuple[str, pl.DataFrame]) -> None:
    """Columns and kinds of two files; numbers may be of different width."""
    require_columns(other[1], first[1].columns, other[0])
    for name, dtype in first[1].schema.items():
        found = other[1].schema[name]
        alike = dtype == found or (dtype.is_numeric() and found.is_numeric())
        if not alike and pl.Null not in (dtype, found):
            raise DataError(
                f"{name!r} is {dtype} in {first[0]}, {found} in {other[0]}.",
                "Cast them alike.",
                name,
            )


def _latest(rows: pl.DataFrame, key: str, time: str, as_of: datetime, what: str) -> pl.DataFrame:
    moments = _moments(rows, time, what).alias(time)
    seen = rows.with_columns(moments).filter(moments <= as_of)
    # Of rows of the same moment the later one in the file counts.
    ordered = seen.sort(time, maintain_order=True)
    return ordered.unique(key, keep="last", maintain_order=True).drop(time)


def _moments(rows: pl.DataFrame, column: str, what: str) -> pl.Series:
    found = rows[column]
    if found.dtype == pl.String:
        moments = rows.select(
            parse_datetime(pl.col(column).str.strip_chars()).alias(column)
        ).to_series()
    elif isinstance(found.dtype, pl.Datetime) and found.dtype.time_zone is not None:
        moments = found.dt.convert_time_zone("UTC")
    elif found.dtype == pl.Null:
        moments = found.cast(pl.Datetime("us", "UTC"))
    else:
        raise DataError(
            f"{what}: {column!r} is {found.dtype}, no moment with a time zone.",
            "Write it in UTC, such as pl.col(…).dt.replace_time_zone('UTC').",
            column,
        )
    if missing := moments.null_count():
        raise DataError(
            f"{what}: {column!r} is missing or no moment with a time zone in {missing} of "
            f"{len(moments)} rows.",
            "Correct or drop such rows.",
            column,
        )
    return moments
