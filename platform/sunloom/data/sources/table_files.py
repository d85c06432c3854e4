"""Tables from Parquet, CSV and JSON-lines files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.errors import DataError, UsageError, nearest


@dataclass(frozen=True)
class Damaged:
    """A row that could not be read.

    Attributes:
        source: The file.
        position: Line number, from 1.
        reason: Why.
        content: The row's text, its first 500 characters.
    """

    source: str
    position: int
    reason: str
    content: str


@dataclass(frozen=True)
class Table:
    """A table as read: the rows that could be read and those that could not.

    Attributes:
        rows: The rows in order.
        damaged: Rows that could not be read.
        positions: Position of each row in its file, from 1; None where that is the row's number.
    """

    rows: pl.DataFrame
    damaged: tuple[Damaged, ...] = field(default=())
    positions: pl.Series | None = None


@dataclass(frozen=True)
class _ReadOptions:
    """Columns to read, None for all; with ``as_text``, values of CSV and JSON lines stay text."""

    columns: Sequence[str] | None
    as_text: bool


def read_table(path: Path, columns: Sequence[str] | None = None, *, as_text: bool = False) -> Table:
    """Read one file, or a folder of files of one kind in name order.

    Args:
        path: A file, or a folder of them.
        columns: Columns to read; all by default.
        as_text: Leave the values of formats without types (CSV, JSON lines) as text, for a caller
            that knows the types.

    Raises:
        UsageError: The path does not exist, or its extension is not supported.
        DataError: The file cannot be read as its extension says.
    """
    options = _ReadOptions(columns, as_text)
    parts = [_read_file(file, options) for file in data_files(path)]
    if len(parts) == 1:
        return parts[0]
    # No positions of the whole: those of the files repeat, so the rows are numbered anew.
    damaged = tuple(row for part in parts for row in part.damaged)
    # Relaxed: a column without a value has no type yet, and another file's type holds.
    return Table(pl.concat([part.rows for part in parts], how="vertical_relaxed"), damaged)


def data_files(path: Path) -> list[Path]:
    """The file itself, or a folder's files of supported formats in name order.

    Raises:
        UsageError: The path does not exist, or has no file of a supported format.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in READERS)
        if not files:
            raise UsageError(
                f"The folder {path} holds no {_extensions()} file.",
                f"Found: {_listing(path) or 'nothing'}",
            )
        return files
    if not path.is_file():
        folder = next((parent for parent in path.parents if parent.is_dir()), Path("."))
        raise UsageError(
            f"There is no file {path}.", f"In {folder}: {_listing(folder) or 'nothing'}"
        )
    if path.suffix not in READERS:
        raise UsageError(
            f"{path} ends in {path.suffix!r}, which has no reader.", f"Known: {_extensions()}"
        )
    return [path]


def require_columns(rows: pl.DataFrame | pl.Schema, names: Iterable[str], source: str) -> None:
    """Check that every name is a column.

    Raises:
        DataError: Names the missing columns and those found.
    """
    columns = rows.columns if isinstance(rows, pl.DataFrame) else rows.names()
    missing = [name for name in names if name not in columns]
    if not missing:
        return
    close = [f"{name!r} → {near!r}?" for name in missing if (near := nearest(name, columns))]
    raise DataError(
        f"{source} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}.",
        f"Found: {', '.join(columns) or 'no columns'}."
        + (f" Meant: {', '.join(close)}" if close else ""),
        missing[0],
    )


def _read_file(path: Path, options: _ReadOptions) -> Table:
    try:
        return READERS[path.suffix](path, options)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from error


def _read_parquet(path: Path, options: _ReadOptions) -> Table:
    schema = pl.read_parquet_schema(path)
    if options.columns is not None:
        require_columns(pl.Schema(schema), options.columns, str(path))
    columns = None if options.columns is None else list(options.columns)
    # No glob and no hive: brackets and = in a path are characters of a name here.
    return Table(pl.read_parquet(path, columns=columns, glob=False, hive_partitioning=False))


def _read_csv(path: Path, options: _ReadOptions) -> Table:
    frame = pl.read_csv(
        path,
        infer_schema=not options.as_text,
        infer_schema_length=10_000,
        glob=False,
    )
    return Table(_select_columns(frame, options, path))


def _read_jsonl(path: Path, options: _ReadOptions) -> Table:
    rows: list[Mapping[str, Any]] = []
    positions: list[int] = []
    damaged: list[Damaged] = []
    # A byte that is not UTF-8 damages its own line, not the file.
    with path.open(encoding="utf-8", errors="replace") as lines:
        for position, line in enumerate(lines, 1):
            if not line.strip():
                continue
            row = _parse_line(line.rstrip("\n"), position, path)
            if isinstance(row, Damaged):
                damaged.append(row)
            else:
                rows.append({k: _to_text(v) for k, v in row.items()} if options.as_text else row)
                positions.append(position)
    # Every row is looked at: a column may first appear, or change its type, far down the file.
    schema = dict.fromkeys((k for row in rows for k in row), pl.String) if options.as_text else None
    frame = pl.DataFrame(rows, schema=schema, infer_schema_length=None, strict=False)
    return Table(
        rows=_select_columns(frame, options, path),
        damaged=tuple(damaged),
        positions=pl.Series(positions, dtype=pl.Int64),
    )


def _select_columns(frame: pl.DataFrame, options: _ReadOptions, path: Path) -> pl.DataFrame:
    if options.columns is None:
        return frame
    require_columns(frame, options.columns, str(path))
    return frame.select(options.columns)


def _to_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    # Not str(): nested lists and objects must stay JSON.
    return json.dumps(value)


def _parse_line(line: str, position: int, path: Path) -> Mapping[str, Any] | Damaged:
    try:
        row = json.loads(line)
    except ValueError as error:
        return Damaged(str(path), position, f"not JSON: {error}", line[:500])
    if isinstance(row, dict):
        return row
    reason = f"a JSON {type(row).__name__}, not an object"
    return Damaged(str(path), position, reason, line[:500])


READERS: Mapping[str, Callable[[Path, _ReadOptions], Table]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
}


def _extensions() -> str:
    return ", ".join(READERS)


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
