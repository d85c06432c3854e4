"""Transformation of a table in this process: batch by batch, into one Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from sunloom.core.files import atomic_path
from sunloom.errors import ArtifactError
from sunloom.preprocessing.pipeline import FittedPipeline
from sunloom.preprocessing.stages import need_whole_table
from sunloom.preprocessing.tables.batches import Source, whole_table
from sunloom.preprocessing.tables.parquet_output import require_writable, write_batches


def transform_batches(
    fitted: FittedPipeline, source: Source, *, training: bool = False
) -> Iterator[pl.DataFrame]:
    """Prepared rows in order, in this process.

    Args:
        fitted: The pipeline.
        source: The rows.
        training: Whether they are the rows it was fitted on: target encodings are out-of-fold.
    """
    whole = need_whole_table(fitted.stages)
    for batch in [whole_table(source)] if whole else source.batches():
        yield fitted.training_frame(batch) if training else fitted.apply_frame(batch.rows)


def prepared_schema(fitted: FittedPipeline, source: Source) -> pl.Schema:
    """Names and types of prepared rows; a bad input is refused before a file is begun."""
    return fitted.apply_frame(pl.DataFrame(schema=dict(source.schema))).schema


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
    batches = transform_batches(fitted, source, training=training)
    try:
        with atomic_path(out) as partial:
            return write_batches(schema, batches, partial)
    except OSError as error:
        raise ArtifactError(
            f"{out} cannot be written: {error}", "An earlier file is whole. Run again."
        ) from error
