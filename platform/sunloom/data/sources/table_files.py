"""Tables from Parquet, CSV and JSON-lines files, whole or in splits."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.data.quarantine import Damaged
from sunloom.data.sources.csv_records import split_csv
from sunloom.data.sources.folder_schema import fit_schema, merge_schemas
from sunloom.data.sources.json_objects import read_json_lines
from sunloom.data.sources.text_types import infer_types
from sunloom.errors import DataError, MissingColumnError, UsageError, nearest


@dataclass(frozen=True)
class Table:
    """A table as read: the rows that could be read and those that could not.

    Attributes:
        rows: The rows in order.
        damaged: Rows that could not be read.
        positions: Position of each row in its file, from 1; None where that is the row's number.
        decimal_comma: Whether numbers in its text may have a decimal comma.
    """

    rows: pl.DataFrame
    damaged: tuple[Damaged, ...] = field(default=())
    positions: pl.Series | None = None
    decimal_comma: bool = False


def read_table(
    path: Path | Sequence[Path], columns: Sequence[str] | None = None, *, as_text: bool = False
) -> Table:
    """Read one file, or a folder of files of one kind in name order.

    Columns of a folder are found by name: one that only some files have is null in the rows of the
    others, and numbers and timestamps have the widest type of all files.

    Args:
        path: A file, a folder of them, or several, which are read as one folder's files.
        columns: Columns to read; all by default.
        as_text: Leave the values of formats without types (CSV, JSON lines) as text, for a caller
            that knows the types.

    Raises:
        UsageError: The path does not exist, or its extension is not supported.
        DataError: A file cannot be read as its extension says, no file has a column, or two files
            have it in types that have none in common.
    """
    files = _files_of(path)
    parts = [read_file(file, columns, as_text=as_text) for file in files]
    if len(parts) == 1:
        table = parts[0]
        if columns is not None:
            if any(name not in table.rows.columns for name in columns):
                require_columns_in(path, columns)
            table = replace(table, rows=table.rows.select(columns))
        return table
    frames = _texts_alike([part.rows for part in parts], files)
    typed = [(str(file), _known_types(rows)) for file, rows in zip(files, frames, strict=True)]
    schema = merge_schemas(typed)
    if columns is not None:
        if any(name not in schema for name in columns):
            require_columns_in(path, columns)
        schema = pl.Schema({name: schema[name] for name in columns})
    rows = [fit_schema(frame, schema, str(file)) for file, frame in zip(files, frames, strict=True)]
    # No positions of the whole: those of the files repeat, so the rows are numbered anew.
    damaged = tuple(row for part in parts for row in part.damaged)
    decimal_comma = any(part.decimal_comma for part in parts)
    return Table(pl.concat(rows), damaged, decimal_comma=decimal_comma)


def _known_types(rows: pl.DataFrame) -> pl.Schema:
    """The types of the columns that have a value: a reader of text guesses those of the others."""
    return pl.Schema(
        {
            name: pl.Null()
            if dtype == pl.String and rows[name].null_count() == rows.height
            else dtype
            for name, dtype in rows.schema.items()
        }
    )


def _texts_alike(frames: Sequence[pl.DataFrame], files: Sequence[Path]) -> list[pl.DataFrame]:
    """The frames, with a column of CSV or JSON lines as text in all where it is so in one."""
    untyped = [number for number, file in enumerate(files) if file.suffix != ".parquet"]
    texts = {
        name
        for number in untyped
        for name, dtype in _known_types(frames[number]).items()
        if dtype == pl.String
    }
    alike = list(frames)
    for number in untyped:
        schema = frames[number].schema
        guessed = [name for name in schema if name in texts and schema[name] != pl.String]
        if guessed:
            # Read again: a number that was parsed no longer says how it was written.
            rows = read_file(files[number], guessed, as_text=True).rows
            alike[number] = frames[number].with_columns(rows.select(guessed))
    return alike


def data_files(path: Path, suffixes: Collection[str] | None = None) -> list[Path]:
    """The file itself, or a folder's files of supported formats in name order.

    Args:
        path: A file or a folder.
        suffixes: Endings of the formats; those of tables by default.

    Raises:
        UsageError: The path does not exist, or has no file of a supported format.
    """
    known = READERS if suffixes is None else suffixes
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in known)
        if not files:
            raise UsageError(
                f"The folder {path} holds no {', '.join(known)} file.",
                f"Found: {_listing(path) or 'nothing'}",
            )
        return files
    if not path.is_file():
        folder = next((parent for parent in path.parents if parent.is_dir()), Path("."))
        raise UsageError(
            f"There is no file {path}.", f"In {folder}: {_listing(folder) or 'nothing'}"
        )
    if path.suffix not in known:
        raise UsageError(
            f"{path} ends in {path.suffix!r}, which has no reader.", f"Known: {', '.join(known)}"
        )
    return [path]


def require_columns(rows: pl.DataFrame | pl.Schema, names: Iterable[str], source: str) -> None:
    """Check that every name is a column.

    Raises:
        MissingColumnError: Names the missing columns and those found.
    """
    columns = rows.columns if isinstance(rows, pl.DataFrame) else rows.names()
    missing = [name for name in names if name not in columns]
    if not missing:
        return
    close = [f"{name!r} → {near!r}?" for name in missing if (near := nearest(name, columns))]
    raise MissingColumnError(
        f"{source} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}.",
        f"Found: {', '.join(columns) or 'no columns'}."
        + (f" Meant: {', '.join(close)}" if close else ""),
        missing[0],
    )


def require_columns_in(path: Path | Sequence[Path], names: Iterable[str]) -> None:
    """Check that every name is a column of the file, or of some file of the folder or of several.

    Raises:
        DataError: Names the missing columns and those found.
    """
    found: dict[str, None] = {}
    for file in _files_of(path):
        # Nearly always the first file has them all, and no other one is opened.
        found.update(dict.fromkeys(_column_names(file)))
        if all(name in found for name in names):
            return
    # Files without lines name no columns: none is missing, and all are empty.
    if found:
        source = str(path) if isinstance(path, Path) else ", ".join(map(str, path))
        require_columns(pl.Schema(dict.fromkeys(found, pl.Null())), names, source)


def _files_of(path: Path | Sequence[Path]) -> list[Path]:
    paths = [path] if isinstance(path, Path) else path
    return [file for one in paths for file in data_files(one)]


def _column_names(file: Path) -> Sequence[str]:
    if file.suffix == ".parquet":
        return list(parquet_schema(file))
    return read_file(file, as_text=True).rows.columns


def parquet_schema(file: Path) -> pl.Schema:
    """Columns and types of a Parquet file.

    Raises:
        DataError: It is none.
    """
    try:
        return pl.Schema(pl.read_parquet_schema(file))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{file} cannot be read as parquet: {error}") from error


def read_file(path: Path, columns: Sequence[str] | None = None, *, as_text: bool = False) -> Table:
    """Read one file, of the named columns those that it has.

    Raises:
        DataError: It cannot be read as its extension says.
    """
    try:
        return READERS[path.suffix](path, columns, as_text)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from error


def _read_parquet(path: Path, columns: Sequence[str] | None, _as_text: bool) -> Table:
    names = None if columns is None else list(columns)
    if names is not None:
        known = pl.read_parquet_schema(path)
        names = known_names(list(known), names)
    # No glob and no hive: brackets and = in a path are characters of a name here.
    return Table(pl.read_parquet(path, columns=names, glob=False, hive_partitioning=False))


def _read_csv(path: Path, columns: Sequence[str] | None, as_text: bool) -> Table:
    with path.open("rb") as file:
        header = file.readline()
    # A spreadsheet writes semicolons where its country's decimal sign is the comma.
    has_semicolons = b";" in header and b"," not in header
    separator = ";" if has_semicolons else ","
    damaged: tuple[Damaged, ...] = ()
    positions = None
    try:
        frame = pl.read_csv(path, separator=separator, infer_schema=False, glob=False)
    except pl.exceptions.ComputeError as error:
        # Polars refuses the whole file for one row: the others are read without it.
        records = split_csv(path, separator)
        if not records.damaged:
            raise error
        damaged = records.damaged
        frame = pl.read_csv(records.content, separator=separator, infer_schema=False)
        # Blank lines, which the two readers may count apart, leave the rows without positions.
        positions = records.positions if len(records.positions) == frame.height else None
    rows = _known_columns(frame, columns)
    if not as_text:
        # Not by Polars, which looks at some first rows, and takes 00501 for 501.
        rows = infer_types(rows, decimal_comma=has_semicolons)
    return Table(rows, damaged, positions, has_semicolons)


def _read_jsonl(path: Path, columns: Sequence[str] | None, as_text: bool) -> Table:
    rows: list[Mapping[str, Any]] = []
    positions: list[int] = []
    damaged: list[Damaged] = []
    for position, row in read_json_lines(path, columns):
        if isinstance(row, Damaged):
            damaged.append(row)
            continue
        if as_text:
            row = {name: _json_text(value) for name, value in row.items()}
        rows.append(row)
        positions.append(position)
    # Every row is looked at: a column may first appear, or change its type, far down the file.
    names = dict.fromkeys(name for row in rows for name in row)
    if not rows and columns is not None:
        # A file without lines names no columns: none is missing, and all are empty.
        names = dict.fromkeys(columns)
    if as_text or not rows:
        frame = pl.DataFrame(rows, dict.fromkeys(names, pl.String() if as_text else pl.Null()))
    else:
        frame = _frame_of(rows)
    return Table(
        rows=_known_columns(frame, columns),
        damaged=tuple(damaged),
        positions=pl.Series(positions, dtype=pl.Int64),
    )


def _frame_of(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    try:
        return pl.DataFrame(rows, infer_schema_length=None, strict=False)
    except (pl.exceptions.PolarsError, TypeError):
        # A list in one row and an object or a number in another have no common type: as JSON text
        # none of them changes, and the other columns keep their types.
        names = dict.fromkeys(name for row in rows for name in row)
        return pl.DataFrame([_json_series(n, [row.get(n) for row in rows]) for n in names])


def _json_series(name: str, values: Sequence[Any]) -> pl.Series:
    present = [value for value in values if value is not None]
    if len({type(v) if isinstance(v, list | dict) else None for v in present}) < 2:
        try:
            return pl.Series(name, values, strict=False)
        except (pl.exceptions.PolarsError, TypeError):
            pass
    return pl.Series(name, map(_json_text, values), dtype=pl.String)


def _json_text(value: Any) -> str | None:
    # Not str(): nested lists and objects must stay JSON.
    return value if isinstance(value, str | None) else json.dumps(value)


def _known_columns(frame: pl.DataFrame, columns: Sequence[str] | None) -> pl.DataFrame:
    if columns is None:
        return frame
    return frame.select(known_names(frame.columns, columns))


def known_names(own: Sequence[str], names: Sequence[str]) -> list[str]:
    """Those of the names that the file has; its first column where it has none of them."""
    # Without any column a table has no rows, and nothing would say that they are lost.
    return [name for name in names if name in own] or list(own[:1])


READERS: Mapping[str, Callable[[Path, Sequence[str] | None, bool], Table]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
}


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "")


@dataclass(frozen=True)
class FileSplit:
    """Neighbouring row groups of a Parquet file, or a whole file of another kind.

    Attributes:
        file: Absolute path, which a worker opens too.
        row_groups: Row groups; none where the whole file is read.
        first_row: Rows before the split: in its file, or in the table that the file belongs to.
        rows: Rows of its row groups; 0 where only reading the file would tell.
        size_bytes: Bytes of the columns that are read, uncompressed; about, for a whole file.
    """

    file: str
    row_groups: tuple[int, ...]
    first_row: int
    rows: int
    size_bytes: int

    def read_parquet(self, columns: Sequence[str]) -> pl.DataFrame:
        """Those of the columns that the Parquet file has, in the rows of the split.

        Where it has none of them, its first column tells how many rows there are.
        """
        import pyarrow.parquet as pq

        # Not by Polars, which reads ranges of rows but no row groups by number.
        with pq.ParquetFile(self.file) as opened:
            names = opened.schema_arrow.names
            known = known_names(names, columns)
            frame = pl.from_arrow(opened.read_row_groups(list(self.row_groups), columns=known))
        assert isinstance(frame, pl.DataFrame)
        return frame


def split_file(
    file: Path, columns: Sequence[str] | None = None, least_rows: int = 1
) -> Iterator[FileSplit]:
    """The splits of a file, in order.

    Args:
        file: Parquet, or any other file, which is one split.
        columns: Columns that will be read; all by default.
        least_rows: Row groups are joined until a split has so many rows.

    Yields:
        At least one split, so that a file without rows still tells its columns.
    """
    path = str(file.absolute())
    if file.suffix != ".parquet":
        yield FileSplit(path, (), first_row=0, rows=0, size_bytes=file.stat().st_size)
        return
    import pyarrow.parquet as pq

    footer = pq.read_metadata(file)
    groups: list[int] = []
    first = rows = size = 0
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        groups.append(number)
        rows += group.num_rows
        for index in range(group.num_columns):
            column = group.column(index)
            # A list's or a struct's leaves are named below their column.
            if columns is None or column.path_in_schema.split(".")[0] in columns:
                # Uncompressed: the engine is chosen by the memory that the rows take.
                size += column.total_uncompressed_size
        if rows >= least_rows:
            yield FileSplit(path, tuple(groups), first, rows, size)
            groups, first, rows, size = [], first + rows, 0, 0
    if groups or not footer.num_row_groups:
        yield FileSplit(path, tuple(groups), first, rows, size)
