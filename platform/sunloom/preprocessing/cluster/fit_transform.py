"""Fit and transformation through Ray Data: workers read the files, and write part files.

What is learnt comes to this process as accumulators. Prepared rows are written by the workers into
part files beside the output, which this process joins a row group at a time. Input and output are
where every worker and this process can reach them.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import polars as pl

from sunloom.core.files import atomic_path
from sunloom.core.ray_tasks import map_blocks, require_cluster
from sunloom.data.sources.table_files import FileSplit
from sunloom.errors import ArtifactError, ClusterError
from sunloom.preprocessing.cluster.lookback import (
    Blocks,
    batches_with_results,
    build_blocks,
    lookback_row_bytes,
    packet_bytes,
    precompute,
    split_of,
)
from sunloom.preprocessing.fit import FitPass, read_here
from sunloom.preprocessing.pipeline import FittedPipeline, Stage, uses_models
from sunloom.preprocessing.tables import FileSource, Source, TableSplit, file_splits_of, split_table
from sunloom.preprocessing.transform import (
    join_parquet,
    prepared_schema,
    require_writable,
    write_batches,
    write_prepared,
)

if TYPE_CHECKING:
    import pyarrow as pa

Task: TypeAlias = Callable[[TableSplit, pl.DataFrame | None], Any]
"""Takes a split and the results of what looks back from its rows."""

# Two, so that a worker that is done early has another split to take.
_SPLITS_PER_CPU = 2
# A model takes seconds to be imported and loaded: as long as it takes for about so many rows.
_ROWS_PER_MODEL = 1_000
# Rows of a part at most: a task that fails repeats no more than these.
_PART_ROWS = 2_000_000


def read_ray(source: Source, fit_pass: FitPass) -> FitPass:
    """Read on the connected cluster; a frame in this process's memory is read here.

    Each worker merges what it collects from its row groups; this process merges that in row order:
    counts, moments and sums stay small; values for exact quantiles come here as long as they fit
    into the pass's memory, and as sketches beyond.
    """
    if not isinstance(source, FileSource):
        return read_here(source, fit_pass)
    require_cluster()
    parts = file_splits_of(source, fit_pass.columns)
    rows = sum(part.rows for part in parts)
    # Values that are all kept travel in small packets; a sketch is small whatever it has seen.
    row_bytes = max(lookback_row_bytes(fit_pass.stages), fit_pass.bytes_kept(rows))
    splits = _split(parts, source.schema, row_bytes=row_bytes, most_rows=rows)
    blocks = build_blocks(splits, fit_pass.stages, source.schema)
    # Pickled once: each worker needs a fresh copy of the empty accumulators.
    state = pickle.dumps(replace(fit_pass, stages=precompute(fit_pass.stages)))
    collect = partial(_collect, state, rows)
    for part in _map_blocks(blocks, collect, fit_pass.stages, rows):
        fit_pass.merge(part)
    return fit_pass


def write_prepared_ray(
    fitted: FittedPipeline, source: Source, out: Path, *, training: bool = False
) -> int:
    """Write prepared rows as ``write_prepared`` does, on the connected cluster.

    A frame in this process's memory is prepared here.

    Raises:
        ClusterError: There is no cluster, or a worker cannot reach the input or the output.
    """
    if not isinstance(source, FileSource):
        return write_prepared(fitted, source, out, training=training)
    require_writable(source, out)
    require_cluster()
    schema = prepared_schema(fitted, source)
    splits = _split(
        file_splits_of(source),
        source.schema,
        row_bytes=lookback_row_bytes(fitted.stages),
        most_rows=_PART_ROWS,
    )
    blocks = build_blocks(splits, fitted.stages, source.schema)
    precomputed = replace(fitted, stages=tuple(precompute(fitted.stages)))
    beside = out.absolute().parent
    try:
        with (
            atomic_path(out) as partial_out,
            tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=beside) as folder,
        ):
            writer = _PartWriter(precomputed, schema, Path(folder), training)
            rows = sum(split.rows for split in splits)
            list(_map_blocks(blocks, writer.write, fitted.stages, rows))
            parts = [writer.part_of(split) for split in splits]
            if not parts:
                return write_batches(schema, [], partial_out)
            return join_parquet(parts, partial_out)
    except OSError as error:
        raise ArtifactError(
            f"{out} cannot be written: {error}",
            "Workers write beside it: they must reach its folder. An earlier file is whole.",
        ) from error


def _collect(state: bytes, rows: int, split: TableSplit, results: pl.DataFrame | None) -> FitPass:
    """In a worker: the pass over a split of a table of so many rows."""
    fit_pass: FitPass = pickle.loads(state)  # noqa: S301 - the driver's, just made
    fit_pass.limit_share(split.rows / rows)
    for batch, stages in batches_with_results(split, fit_pass.stages, results, fit_pass.columns):
        fit_pass.collect(batch, stages)
    # The driver knows the stages: only accumulators travel back.
    fit_pass.stages = []
    return fit_pass


@dataclass(frozen=True)
class _PartWriter:
    """Writes prepared rows of a split as a part file, in a worker.

    Attributes:
        fitted: The pipeline, with precomputed stages.
        schema: Names and types of prepared rows.
        folder: Folder of the part files.
        training: Whether the pipeline was fitted on the rows.
    """

    fitted: FittedPipeline
    schema: pl.Schema
    folder: Path
    training: bool

    def part_of(self, split: TableSplit) -> Path:
        """The part file of a split."""
        return self.folder / f"{split.first:016d}.parquet"

    def write(self, split: TableSplit, results: pl.DataFrame | None) -> int:
        """Write the part file, and return the number of rows."""
        frames = (
            replace(self.fitted, stages=tuple(stages)).apply_frame(
                batch.rows, batch if self.training else None
            )
            for batch, stages in batches_with_results(split, self.fitted.stages, results, None)
        )
        # A task that is tried again replaces what the first try has left.
        with atomic_path(self.part_of(split), durable=False) as partial_part:
            return write_batches(self.schema, frames, partial_part)


def _split(
    parts: Sequence[FileSplit], schema: pl.Schema, *, row_bytes: int, most_rows: int
) -> list[TableSplit]:
    """Enough for all workers, each so small that the store holds many times its bytes."""
    if row_bytes:
        most_rows = min(most_rows, int(packet_bytes() / row_bytes))
    return split_table(parts, _cpus() * _SPLITS_PER_CPU, max(most_rows, 1), schema=schema)


def _cpus() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _map_blocks(blocks: Blocks, task: Task, stages: Sequence[Stage], rows: int) -> Iterator[Any]:
    """The task's result for each split of so many rows, in order.

    Actors stay: with them a model is loaded once for each, not once per split.
    """
    actors = 0
    if uses_models(stages):
        # One CPU stays free for tasks, which would wait for ever for one that an actor holds.
        actors = max(1, min(len(blocks), _cpus() - 1, rows // _ROWS_PER_MODEL))
    return map_blocks(partial(run_task, task), blocks, actors=actors)


def run_task(task: Task, block: pa.Table) -> Any:
    """In a worker: the task's result for the split of a block."""
    try:
        return task(*split_of(block))
    except OSError as error:
        raise ClusterError(
            f"A worker could not read or write: {error}",
            "Every worker must reach the input and the output, with space left.",
        ) from error
