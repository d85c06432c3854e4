"""Tables from Parquet, CSV and JSON lines, with errors that say what was found instead."""

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
        content: The row's text, cut at 500 characters.
    """

    source: str
    position: int
    reason: str
    content: str


@dataclass(frozen=True)
class Table:
    """What a source held: the rows that could be read and those that could not.

    Attributes:
        rows: The rows in order.
        damaged: Rows that are none.
        positions: Where each row stands in its file, from 1; None where it is the row's number.
    """

    rows: pl.DataFrame
    damaged: tuple[Damaged, ...] = field(default=())
    positions: pl.Series | None = None


@dataclass(frozen=True)
class _Request:
    """What to read: all columns when ``columns`` is None; text columns stay text."""

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
        UsageError: Nothing is there, or the ending is not known.
        DataError: The file cannot be read as what its ending says.
    """
    request = _Request(columns, as_text)
    parts = [_read_file(file, request) for file in data_files(path)]
    if len(parts) == 1:
        return parts[0]
    damaged = tuple(row for part in parts for row in part.damaged)
    return Table(pl.concat([part.rows for part in parts], how="vertical_relaxed"), damaged)


def data_files(path: Path) -> list[Path]:
    """The file itself, or a folder's files with a known ending in name order.

    Raises:
        UsageError: There is no such path, or no file with a known ending.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in READERS)
        if not files:
            raise UsageError(
                f"The folder {path} holds no {_endings()} file.",
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
            f"{path} ends in {path.suffix!r}, which has no reader.", f"Known: {_endings()}"
        )
    return [path]


def require_columns(rows: pl.DataFrame | pl.Schema, names: Iterable[str], source: str) -> None:
    """Check that every name is a column.

    Raises:
        DataError: Names the missing columns and those found.
    """
    found = rows.columns if isinstance(rows, pl.DataFrame) else rows.names()
    missing = [name for name in names if name not in found]
    if not missing:
        return
    close = [f"{name!r} → {near!r}?" for name in missing if (near := nearest(name, found))]
    raise DataError(
        f"{source} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}.",
        f"Found: {', '.join(found) or 'no columns'}."
        + (f" Meant: {', '.join(close)}" if close else ""),
        missing[0],
    )


def _read_file(path: Path, request: _Request) -> Table:
    try:
        return READERS[path.suffix](path, request)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from error


def _read_parquet(path: Path, request: _Request) -> Table:
    schema = pl.read_parquet_schema(path)
    if request.columns is not None:
        require_columns(pl.Schema(schema), request.columns, str(path))
    columns = None if request.columns is None else list(request.columns)
    return Table(pl.read_parquet(path, columns=columns, glob=False, hive_partitioning=False))


def _read_csv(path: Path, request: _Request) -> Table:
    frame = pl.read_csv(
        path,
        infer_schema=not request.as_text,
        infer_schema_length=10_000,
        glob=False,
    )
    return Table(_chosen(frame, request, path))


def _read_jsonl(path: Path, request: _Request) -> Table:
    rows: list[Mapping[str, Any]] = []
    positions: list[int] = []
    damaged: list[Damaged] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for position, line in enumerate(lines, 1):
            if not line.strip():
                continue
            row = _parse_line(line.rstrip("\n"), position, path)
            if isinstance(row, Damaged):
                damaged.append(row)
            else:
                rows.append({k: _text(v) for k, v in row.items()} if request.as_text else row)
                positions.append(position)
    schema = dict.fromkeys((k for row in rows for k in row), pl.String) if request.as_text else None
    frame = pl.DataFrame(rows, schema=schema, infer_schema_length=None, strict=False)
    where = pl.Series(positions, dtype=pl.Int64)
    return Table(_chosen(frame, request, path), tuple(damaged), where)


def _chosen(frame: pl.DataFrame, request: _Request, path: Path) -> pl.DataFrame:
    if request.columns is None:
        return frame
    require_columns(frame, request.columns, str(path))
    return frame.select(request.columns)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
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


READERS: Mapping[str, Callable[[Path, _Request], Table]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
}


def _endings() -> str:
    return ", ".join(READERS)


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
