"""Tables as batches of rows, and as splits for workers: the memory of one batch is enough."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sunloom.data.arrays import FloatArray, IntArray
from sunloom.data.sources.folder_schema import fit_schema, merge_schemas
from sunloom.data.sources.table_files import (
    FileSplit,
    Table,
    data_files,
    known_names,
    parquet_schema,
    read_table,
    require_columns,
    split_file,
)
from sunloom.data.sources.text_types import (
    UTC_TIME,
    infer_type,
    parse_text,
    type_name,
)
from sunloom.errors import DataError
from sunloom.preprocessing.columns import decode_columns, infinite_error, kind_of

# 1 MiB per number column.
BATCH_ROWS = 131_072
# Constants of SplitMix64 (Steele, Lea and Flood, 2014).
_STEP, _A, _B = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def mix(numbers: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """SplitMix64 of each number: the same on every machine, whatever batch it comes in."""
    state = numbers * np.uint64(_STEP) + np.uint64((seed * _A + _STEP) & _MASK)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_A)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_B)
    hashed: NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return hashed


@dataclass(frozen=True)
class Batch:
    """Some rows of a table.

    Attributes:
        rows: The rows.
        first: Number of the first one in the whole table, from 0.
    """

    rows: pl.DataFrame
    first: int = 0
    _folds: dict[tuple[int, int], IntArray] = field(default_factory=dict, repr=False)
    _numbers: dict[str, FloatArray] = field(default_factory=dict, repr=False)

    def folds(self, count: int, seed: int) -> IntArray:
        """Each row's fold, from its number and the seed only; shape [rows]."""
        key = (count, seed)
        if key not in self._folds:
            # Several target encoders ask for the same folds.
            self._folds[key] = (self.random_order(seed) % np.uint64(count)).astype(np.int64)
        return self._folds[key]

    def random_order(self, seed: int) -> NDArray[np.uint64]:
        """A random number for each row, from its number and the seed only; shape [rows]."""
        numbers = np.arange(self.first, self.first + self.rows.height, dtype=np.uint64)
        return mix(numbers, seed)

    def numbers(self, column: str) -> FloatArray:
        """The column's values that are not missing, as float64.

        Raises:
            DataError: A value is infinite.
        """
        # Several accumulators may read one column.
        if column not in self._numbers:
            self._numbers[column] = _finite_values(self.rows[column], self.first)
        return self._numbers[column]


def _finite_values(column: pl.Series, first: int) -> FloatArray:
    values: FloatArray = column.cast(pl.Float64).to_numpy()
    missing = np.isnan(values)
    present = values[~missing] if missing.any() else values
    if not np.isfinite(present).all():
        place = int(np.flatnonzero(np.isinf(values))[0])
        raise infinite_error(column.name, f" (row {first + place})")
    return present


class Source(Protocol):
    """A table that can be read in batches, more than once."""

    @cached_property
    def schema(self) -> pl.Schema:
        """Column to type, in order."""
        ...

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """The rows in order, the named columns only."""
        ...


@dataclass(frozen=True)
class FrameSource:
    """A frame in memory."""

    frame: pl.DataFrame

    @cached_property
    def schema(self) -> pl.Schema:
        """Column to type, in order."""
        return self.frame.schema

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """Slices of the frame, without copies."""
        frame = self.frame if columns is None else self.frame.select(columns)
        for first in range(0, self.frame.height, BATCH_ROWS):
            yield Batch(frame.slice(first, BATCH_ROWS), first)


@dataclass(frozen=True)
class FileSource:
    """One file, or a folder of files of one kind in name order.

    Parquet is read in batches of rows; a file of another kind is read as a whole.

    Attributes:
        path: The file or folder.
        known: Columns whose type a recipe or an artifact knows, for files of text.
        texts: Columns that steps take as text: bytes of Parquet files are decoded there.
    """

    path: Path
    known: Mapping[str, pl.DataType] = field(default_factory=dict)
    texts: Collection[str] = ()

    @cached_property
    def files(self) -> list[Path]:
        """The files, in order."""
        return data_files(self.path)

    @cached_property
    def schema(self) -> pl.Schema:
        """Column to type, in order of first appearance: the columns of all files."""
        types = {name: self._type_of(name, types) for name, types in self._types.items()}
        return pl.Schema(types)

    @cached_property
    def _types(self) -> Mapping[str, Mapping[Path, pl.DataType]]:
        """Column to its type in each file that has it."""
        types: dict[str, dict[Path, pl.DataType]] = {}
        for file in self.files:
            own = parquet_schema(file) if file.suffix == ".parquet" else _text_schema(file)
            for name, dtype in own.items():
                types.setdefault(name, {})[file] = dtype
        return types

    def _type_of(self, name: str, types: Mapping[Path, pl.DataType]) -> pl.DataType:
        is_text_file = all(file.suffix != ".parquet" for file in types)
        try:
            dtype = _merge_types(name, types)
        except DataError:
            # Refused where it is read: other columns may be all that a recipe needs. What files of
            # text do not agree on is text in all of them.
            dtype = pl.String() if is_text_file else next(iter(types.values()))
        if is_text_file:
            return _known_type(self.known.get(name), dtype)
        is_text = name in self.texts or kind_of(self.known.get(name, pl.Null())) == "category"
        return pl.String() if is_text and dtype == pl.Binary else dtype

    def require_common_types(self, columns: Sequence[str] | None = None) -> None:
        """Check that some file has each column, and all that have it agree on its type.

        Raises:
            DataError: Names the column and the files.
        """
        names = list(self.schema) if columns is None else columns
        require_columns(self.schema, names, str(self.path))
        for name in names:
            if any(file.suffix == ".parquet" for file in self._types[name]):
                _merge_types(name, self._types[name])

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """Batches of at most ``BATCH_ROWS`` rows."""
        self.require_common_types(columns)
        first = 0
        for file in self.files:
            for rows in file_batches(file, columns, schema=self.schema):
                yield Batch(rows, first)
                first += rows.height


def _merge_types(name: str, types: Mapping[Path, pl.DataType]) -> pl.DataType:
    schemas = ((str(file), pl.Schema({name: dtype})) for file, dtype in types.items())
    return merge_schemas(schemas)[name]


def whole_table(source: Source, columns: Sequence[str] | None = None) -> Batch:
    """All rows at once, in memory."""
    schema = source.schema
    names = list(schema) if columns is None else list(columns)
    parts = [batch.rows for batch in source.batches(names)]
    empty = pl.DataFrame(schema={name: schema[name] for name in names})
    return Batch(pl.concat(parts) if parts else empty)


def widen_integers(rows: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Rows of a later file, whose integers become floats where the first file has floats."""
    integers = [name for name, dtype in rows.schema.items() if dtype.is_integer()]
    casts = {name: schema[name] for name in integers if schema[name] != rows.schema[name]}
    return rows.cast({name: dtype for name, dtype in casts.items() if dtype.is_numeric()})


def open_source(
    table: pl.DataFrame | pl.LazyFrame | Path | str,
    known: Mapping[str, pl.DataType] | None = None,
    texts: Collection[str] = (),
) -> Source:
    """A table's source: a frame, or the path of a file or folder.

    Args:
        table: The frame or path.
        known: Columns whose type a recipe or an artifact knows, for files of text.
        texts: Columns that steps take as text, where a frame or a Parquet file may have bytes.

    Raises:
        UsageError: There is no such file.
        DataError: Bytes of a frame that are to be text are no UTF-8.
    """
    if isinstance(table, pl.LazyFrame):
        table = table.collect()
    if isinstance(table, pl.DataFrame):
        return FrameSource(decode_columns(table, [name for name in texts if name in table.columns]))
    source = FileSource(Path(table), known or {}, texts)
    source.files  # noqa: B018 - an absent file is refused here, not at the first batch
    return source


def file_batches(
    file: Path,
    columns: Sequence[str] | None,
    groups: list[int] | None = None,
    *,
    schema: Mapping[str, pl.DataType] | None = None,
) -> Iterator[pl.DataFrame]:
    """A file's rows in order, at most ``BATCH_ROWS`` at a time.

    Args:
        file: The file.
        columns: Columns to read; all by default.
        groups: Row groups of a Parquet file; all by default.
        schema: Columns and types of the table that the file is one of; by default its own.

    Raises:
        DataError: The file cannot be read as what its ending says.
    """
    if file.suffix != ".parquet":
        types = _text_schema(file) if schema is None else schema
        yield from _read_text(file, columns, types).iter_slices(BATCH_ROWS)
        return
    import pyarrow.parquet as pq

    # Without pre_buffer: it would hold whole row groups in memory, whatever the batch's size.
    with pq.ParquetFile(file, pre_buffer=False) as parquet:
        own = parquet.schema_arrow.names
        names = list(columns) if columns is not None else list(own if schema is None else schema)
        known = known_names(own, names)
        for batch in parquet.iter_batches(BATCH_ROWS, columns=known, row_groups=groups):
            rows = pl.from_arrow(batch)
            assert isinstance(rows, pl.DataFrame)
            if schema is not None:
                types = pl.Schema({name: schema[name] for name in names})
                texts = [name for name in known if types.get(name) == pl.String]
                rows = fit_schema(decode_columns(rows, texts), types, str(file))
            # pyarrow gives columns in the file's order.
            yield rows.select(names)


def _read_whole(file: Path, *, as_text: bool = False) -> Table:
    table = read_table(file, as_text=as_text)
    if table.damaged:
        first = table.damaged[0]
        raise DataError(
            f"{file} holds {len(table.damaged)} unreadable rows; line {first.position}: "
            f"{first.reason}.",
            "Prepare it with `sunloom data run`, which quarantines such rows.",
        )
    return table


def _text_schema(file: Path) -> dict[str, pl.DataType]:
    """Types of a file's columns, by all of its values; times that are text count as times."""
    rows = _read_whole(file).rows
    types = dict(rows.schema)
    for column in rows:
        # JSON has no times of its own. Its other texts are texts: "00501" was no number.
        if column.dtype == pl.String and infer_type(column).is_temporal():
            types[column.name] = infer_type(column)
    return types


def _known_type(known: pl.DataType | None, own: pl.DataType) -> pl.DataType:
    """The type to read a column of text as, where a recipe or an artifact knows its kind."""
    kind = None if known is None else kind_of(known)
    if kind in (None, "bytes", "other"):
        return own
    # A column of 0 and 1 may come as true and false.
    accepted = ("number", "bool") if kind == "number" else (kind,)
    if kind_of(own) in accepted and own != pl.Null:
        # The width is the values' own: later rows may have fractions.
        return own
    # What did not look like its kind, such as 007 as a number, or a column without any value.
    kinds = {"number": pl.Float64(), "time": UTC_TIME, "bool": pl.Boolean()}
    return kinds.get(str(kind), pl.String())


def _read_text(
    file: Path, columns: Sequence[str] | None, schema: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    """A CSV or JSON-lines file, read as the types of its table.

    Raises:
        DataError: Names the column, the row and the value that is not of the type.
    """
    # CSV is parsed here; JSON has types, and only columns that the table has otherwise are parsed.
    table = _read_whole(file, as_text=file.suffix == ".csv")
    names = list(schema) if columns is None else list(columns)
    if not table.rows.width:
        return pl.DataFrame(schema={name: schema[name] for name in names})
    own = [name for name in names if name in table.rows.columns]
    missing = [pl.lit(None, schema[name]).alias(name) for name in names if name not in own]
    rows = table.rows.with_columns(missing).select(names)
    differing = [name for name in own if schema[name] != rows.schema[name]]
    if differing and file.suffix != ".csv":
        rows = rows.with_columns(_read_whole(file, as_text=True).rows.select(differing))
    typed = rows.with_columns(
        parse_text(pl.col(name), schema[name], decimal_comma=table.decimal_comma).alias(name)
        for name in differing
    )
    for name in differing:
        text = rows[name].str.strip_chars()
        lost = typed[name].is_null() & text.is_not_null() & (text != "")
        if lost.any():
            row = lost.arg_max() or 0
            raise DataError(
                f"{file}: column {name!r} holds {rows[name][row]!r} in row {row + 1}, which is "
                f"not {type_name(schema[name])}.",
                "Correct the value, or leave it empty.",
                name,
            )
    return typed


@dataclass(frozen=True)
class TableSplit:
    """Neighbouring parts of the table's files: what one task reads.

    Attributes:
        parts: In order.
        schema: Types of the table; those of each file where it is not given.
    """

    parts: tuple[FileSplit, ...]
    schema: Mapping[str, pl.DataType] | None = None

    @property
    def first(self) -> int:
        """Number of its first row in the table."""
        return self.parts[0].first_row

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.rows for part in self.parts)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """The rows of its parts in order."""
        for part in self.parts:
            first = part.first_row
            groups = list(part.row_groups) or None
            for rows in file_batches(Path(part.file), columns, groups, schema=self.schema):
                yield Batch(rows, first)
                first += rows.height


def file_splits_of(source: FileSource, columns: Sequence[str] | None = None) -> list[FileSplit]:
    """The row groups of the table's files in order; those without rows are left out.

    Args:
        source: The table.
        columns: Columns that will be read; all by default.

    Raises:
        DataError: No file has one of them, or two files have it in types with none in common.
    """
    splits: list[FileSplit] = []
    first = 0
    source.require_common_types(columns)
    for file in source.files:
        for split in split_file(file, columns):
            rows = split.rows
            if file.suffix != ".parquet":
                # Row numbers seed folds and samples, so the rows must be counted: by reading them.
                rows = _read_whole(file, as_text=True).rows.height
            splits.append(replace(split, first_row=first, rows=rows))
            first += rows
    return [split for split in splits if split.rows]


def split_table(
    parts: Sequence[FileSplit],
    least: int,
    most_rows: int,
    *,
    schema: Mapping[str, pl.DataType] | None = None,
) -> list[TableSplit]:
    """Neighbouring parts together.

    Args:
        parts: In order.
        least: Splits to make at least, so that every worker has some; a part is not divided.
        most_rows: Rows of a split, unless it is one part.
        schema: Types of the table.
    """
    total = sum(part.rows for part in parts)
    size = min(most_rows, -(-total // max(least, 1)))
    splits: list[TableSplit] = []
    pending: list[FileSplit] = []
    for part in parts:
        if pending and sum(other.rows for other in pending) + part.rows > size:
            splits.append(TableSplit(tuple(pending), schema))
            pending = []
        pending.append(part)
    return [*splits, TableSplit(tuple(pending), schema)] if pending else splits
