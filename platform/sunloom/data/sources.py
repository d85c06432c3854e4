"""Tables from Parquet, CSV and JSON lines, with errors that say what was found instead."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
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
    """What a source held: the rows that could be read and those that could not."""

    rows: pl.DataFrame
    damaged: tuple[Damaged, ...] = field(default=())


def read_table(path: Path) -> Table:
    """Read one file, or a folder of files of one kind in name order.

    Raises:
        UsageError: Nothing is there, or the ending is not known.
        DataError: The file cannot be read as what its ending says.
    """
    parts = [_read_file(file) for file in data_files(path)]
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


def _read_file(path: Path) -> Table:
    try:
        return READERS[path.suffix](path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from error


def _read_parquet(path: Path) -> Table:
    return Table(pl.read_parquet(path, glob=False, hive_partitioning=False))


def _read_csv(path: Path) -> Table:
    return Table(pl.read_csv(path, infer_schema_length=10_000, glob=False))


def _read_jsonl(path: Path) -> Table:
    rows: list[Mapping[str, Any]] = []
    damaged: list[Damaged] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for position, line in enumerate(lines, 1):
            if line.strip():
                _sort_line(line.rstrip("\n"), position, path, rows, damaged)
    frame = pl.DataFrame(rows, infer_schema_length=None, strict=False)
    return Table(frame, tuple(damaged))


def _sort_line(
    line: str,
    position: int,
    path: Path,
    rows: list[Mapping[str, Any]],
    damaged: list[Damaged],
) -> None:
    try:
        row = json.loads(line)
    except ValueError as error:
        damaged.append(Damaged(str(path), position, f"not JSON: {error}", line[:500]))
        return
    if isinstance(row, dict):
        rows.append(row)
    else:
        reason = f"a JSON {type(row).__name__}, not an object"
        damaged.append(Damaged(str(path), position, reason, line[:500]))


READERS: Mapping[str, Callable[[Path], Table]] = {
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
