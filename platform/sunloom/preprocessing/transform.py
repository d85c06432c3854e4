"""Transformation of a table in this process, and Parquet output of batches or part files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TypeAlias

import polars as pl

from sunloom.core.files import atomic_path
from sunloom.data.exact_casts import cast_declared
from sunloom.errors import ArtifactError, DataError, UsageError
from sunloom.preprocessing.pipeline import FittedPipeline, staged_batches
from sunloom.preprocessing.tables import FileSource, Source

_SAMPLE_ROWS = 10_000


def require_writable(source: Source, out: Path) -> None:
    """Check where rows are to be written, before any work.

    Raises:
        UsageError: The file does not end in ``.parquet``, or is the input itself.
    """
    if out.suffix != ".parquet":
        raise UsageError(f"{out} does not end in .parquet.", "Prepared rows are Parquet.", "out")
    if isinstance(source, FileSource) and out.absolute() in {f.absolute() for f in source.files}:
        raise UsageError(f"{out} is the input itself.", "Name another file.", "out")


def write_batches(schema: pl.Schema, batches: Iterable[pl.DataFrame], path: Path) -> int:
    """Write batches of rows as one Parquet file, and return the number of rows."""
    import pyarrow.parquet as pq

    arrow, rows = pl.DataFrame(schema=schema).to_arrow().schema, 0
    batches = iter(batches)
    first = list(islice(batches, 1))
    columns = _dictionary_columns(first[0]) if first else True
    with pq.ParquetWriter(path, arrow, use_dictionary=columns) as writer:
        for batch in chain(first, batches):
            # A later file may hold integers where the first one held floats, and more columns.
            aligned = batch if batch.schema == schema else _align(batch, schema)
            writer.write_table(aligned.to_arrow().cast(arrow))
            rows += batch.height
    return rows


def _dictionary_columns(rows: pl.DataFrame) -> list[str]:
    """Columns whose values are written once each, in a dictionary: all but floats that differ.

    To look each of those up takes twice as long as to write it.
    """
    sample = rows.head(_SAMPLE_ROWS)
    return [
        column.name
        for column in sample
        if not column.dtype.is_float() or 2 * column.n_unique() <= sample.height
    ]


def _align(batch: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """A batch in the output's types.

    Raises:
        DataError: A value would change, such as a fraction where the first file has whole numbers.
    """
    try:
        return pl.DataFrame(cast_declared(batch[name], schema[name]) for name in schema)
    except (ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"A later file has other types than the first: {error}.",
            "Write the column with one type in all files.",
        ) from error


def join_parquet(parts: Sequence[Path], out: Path) -> int:
    """Write one file with the row groups of all parts, in order; each part is removed.

    Args:
        parts: Parquet files that were written with one schema; at least one.
        out: The file to write.

    Returns:
        Rows.

    Raises:
        ArtifactError: A part is no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(parts[0])
        columns = _dictionary_columns(pl.read_parquet(parts[0], n_rows=_SAMPLE_ROWS))
        with pq.ParquetWriter(out, schema, use_dictionary=columns) as writer:
            rows = 0
            for part in parts:
                with pq.ParquetFile(part) as file:
                    for group in range(file.num_row_groups):
                        writer.write_table(file.read_row_group(group))
                    rows += file.metadata.num_rows
                # At once: the disk never holds all parts and the whole file.
                part.unlink()
    except pa.ArrowInvalid as error:
        raise ArtifactError(f"A part is no Parquet file: {error}", "Run again.") from error
    return rows


Writer: TypeAlias = Callable[..., int]
"""Writes prepared rows as ``write_prepared`` does, here or on a cluster."""


def prepared_schema(fitted: FittedPipeline, source: Source) -> pl.Schema:
    """Names and types of prepared rows; a bad input is refused before a file is begun."""
    return fitted.apply_frame(pl.DataFrame(schema=source.schema)).schema


def write_prepared(
    fitted: FittedPipeline, source: Source, out: Path, *, training: bool = False
) -> int:
    """Write prepared rows, in this process.

    Args:
        fitted: The pipeline.
        source: The rows.
        out: A ``.parquet`` file, replaced as a whole.
        training: Whether they are the rows it was fitted on: target encodings are out-of-fold.

    Returns:
        Rows written.

    Raises:
        UsageError: The file does not end in ``.parquet``, or is the input itself.
        ArtifactError: It cannot be written.
    """
    require_writable(source, out)
    schema = prepared_schema(fitted, source)
    frames = (
        fitted.apply_frame(batch.rows, batch if training else None)
        for batch in staged_batches(fitted.stages, source)
    )
    try:
        with atomic_path(out) as partial:
            return write_batches(schema, frames, partial)
    except OSError as error:
        raise ArtifactError(
            f"{out} cannot be written: {error}", "An earlier file is whole. Run again."
        ) from error
