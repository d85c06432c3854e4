"""Sources in pieces that one worker reads at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from sunloom.data.sources.table_files import data_files
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.projection import SourceProjection, source_projections
from sunloom.features.sources.typed_rows import TypedRows, conform, read_source_file

CHUNK_ROWS = 500_000
# Text takes more room as columns than as a file.
_TEXT_GROWTH = 2


@dataclass(frozen=True)
class FileSplit:
    """Row groups of a Parquet file that follow one another, or a whole file of another kind.

    Attributes:
        source: Namespace of the class.
        file: Absolute path.
        groups: Row groups; none where the whole file is read.
        first_row: Rows of the file before the chunk.
        size: Bytes of the needed columns, about.
    """

    source: str
    file: str
    groups: tuple[int, ...]
    first_row: int
    size: int


def chunks_of(plan: Plan, sources: Mapping[str, Path]) -> list[FileSplit]:
    """Everything that has to be read, in order of insertion."""
    found: list[FileSplit] = []
    for namespace, need in source_projections(plan).items():
        for file in data_files(sources[namespace]) if namespace in sources else ():
            if file.suffix == ".parquet":
                found.extend(_parquet_chunks(namespace, need, file))
            else:
                size = file.stat().st_size * _TEXT_GROWTH
                found.append(FileSplit(namespace, str(file.absolute()), (), 0, size))
    return found


def read_chunk(plan: Plan, need: SourceProjection, chunk: FileSplit) -> TypedRows:
    """A chunk's rows in declared types."""
    import pyarrow.parquet as pq

    item, file = plan.class_plan(chunk.source), Path(chunk.file)
    if not chunk.groups:
        return read_source_file(item, need.columns, file)
    with pq.ParquetFile(file) as opened:
        names = opened.schema_arrow.names
        known = [name for name in need.columns if name in names]
        frame = pl.from_arrow(opened.read_row_groups(list(chunk.groups), columns=known))
    assert isinstance(frame, pl.DataFrame)
    first = chunk.first_row + 1
    positions = pl.int_range(first, first + frame.height, dtype=pl.Int64, eager=True)
    return conform(frame, item, need.columns, str(file), positions)


def _parquet_chunks(namespace: str, need: SourceProjection, file: Path) -> Iterator[FileSplit]:
    import pyarrow.parquet as pq

    footer = pq.read_metadata(file)
    path, groups, first, rows, size = str(file.absolute()), [], 0, 0, 0
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        columns = [group.column(i) for i in range(group.num_columns)]
        wanted = [c for c in columns if c.path_in_schema.split(".")[0] in need.columns]
        groups.append(number)
        rows += group.num_rows
        size += sum(column.total_uncompressed_size for column in wanted)
        if rows >= CHUNK_ROWS:
            yield FileSplit(namespace, path, tuple(groups), first, size)
            groups, first, rows, size = [], first + rows, 0, 0
    if groups or not footer.num_row_groups:
        yield FileSplit(namespace, path, tuple(groups), first, size)
