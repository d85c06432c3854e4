"""Parquet files of one schema into one file, a row group in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sunloom.errors import ArtifactError


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
        with pq.ParquetWriter(out, pq.read_schema(parts[0])) as writer:
            rows = 0
            for part in parts:
                with pq.ParquetFile(part) as held:
                    for group in range(held.num_row_groups):
                        writer.write_table(held.read_row_group(group))
                    rows += held.metadata.num_rows
                part.unlink()
    except pa.ArrowInvalid as error:
        raise ArtifactError(f"A part is no Parquet file: {error}", "Run again.") from error
    return rows
