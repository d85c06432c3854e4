"""Fit and prepare through Ray Data: workers read the files, and write what they made.

What is learnt comes to this process as statistics. Prepared rows are written by the workers, into
part files beside the output, which this process joins a row group at a time. Input and output lie
where every worker and this process can reach them.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import polars as pl

from sunloom.core.files import atomic_path
from sunloom.errors import ArtifactError, ClusterError, SunloomError
from sunloom.preprocessing.cluster.lookback import (
    Blocks,
    blocks_of,
    packet_bytes,
    shares_in,
    width_of,
)
from sunloom.preprocessing.cluster.precomputed import recalled, remembered
from sunloom.preprocessing.fit import FitPass, read_here
from sunloom.preprocessing.pipeline import FittedPipeline
from sunloom.preprocessing.stages import Stage, load_models
from sunloom.preprocessing.tables.batches import Batch, FileSource, Source
from sunloom.preprocessing.tables.parquet_output import (
    join_parquet,
    require_writable,
    write_chunks,
)
from sunloom.preprocessing.tables.splits import Piece, Share, pieces_of, shares_of
from sunloom.preprocessing.transform import prepared_chunks, prepared_schema, write_prepared

if TYPE_CHECKING:
    import pyarrow as pa

Work: TypeAlias = Callable[[Share, pl.DataFrame | None], Any]
"""Does something with a share's rows and with what looks back from them."""

_SHARES_A_CPU = 2
_PART_ROWS = 2_000_000
_RESULT_BYTES = 8 << 20


def read_ray(source: Source, reading: FitPass) -> FitPass:
    """Read on the connected cluster; a frame in this process's memory is read here.

    Each worker merges what it learns from its row groups; this process merges that in row order:
    counts, moments and sums stay small; values for exact quantiles come here as long as they fit
    into the pass's memory, and as sketches beyond.
    """
    if not isinstance(source, FileSource):
        return read_here(source, reading)
    _require_cluster()
    pieces = pieces_of(source, reading.columns)
    rows = sum(piece.rows for piece in pieces)
    # Values that are all kept travel in small packets; a sketch is small whatever it has seen.
    width = max(width_of(reading.before), reading.bytes_kept(rows))
    shares = _shares(pieces, width, most_rows=rows)
    blocks = blocks_of(shares, reading.before, pl.Schema(dict(source.schema)))
    state = pickle.dumps(replace(reading, before=recalled(reading.before)))
    for learnt in _mapped(blocks, partial(_observe, state, rows), load_models(reading.before)):
        reading.merge(learnt)
    return reading


def prepare_ray(
    fitted: FittedPipeline, source: Source, out: Path, *, training: bool = False
) -> int:
    """Write prepared rows on the connected cluster; a frame's are prepared here.

    Args:
        fitted: The recipe.
        source: The rows.
        out: A ``.parquet`` file, replaced as a whole.
        training: Whether they are the rows it was fitted on: target encodings are out-of-fold.

    Returns:
        Rows written.

    Raises:
        UsageError: The file does not end in ``.parquet``, or is the input itself.
        ArtifactError: It cannot be written.
    """
    if not isinstance(source, FileSource):
        return write_prepared(
            fitted, source, prepared_chunks(fitted, source, training=training), out
        )
    require_writable(source, out)
    _require_cluster()
    schema = prepared_schema(fitted, source)
    shares = _shares(pieces_of(source), width_of(fitted.stages), _PART_ROWS)
    blocks = blocks_of(shares, fitted.stages, pl.Schema(dict(source.schema)))
    known = replace(fitted, stages=tuple(recalled(fitted.stages)))
    try:
        with atomic_path(out) as partial_out, _folder_beside(out) as folder:
            work = partial(_write, known, schema, folder, training)
            list(_mapped(blocks, work, load_models(fitted.stages)))
            parts = [folder / _part(share) for share in shares]
            if not parts:
                return write_chunks(schema, [], partial_out)
            return join_parquet(parts, partial_out)
    except OSError as error:
        raise ArtifactError(
            f"{out} cannot be written: {error}",
            "Workers write beside it: it must lie where they reach it. An earlier file is whole.",
        ) from error


def _observe(state: bytes, rows: int, share: Share, history: pl.DataFrame | None) -> FitPass:
    """In a worker: what the pass learns from a share of so many rows."""
    reading: FitPass = pickle.loads(state)  # noqa: S301 - the driver's, just made
    reading.lend(share.rows / rows)
    for chunk, before in _seen(share, reading.before, history, reading.columns):
        reading.observe(chunk, before)
    # What it looked through is known where it goes.
    reading.before = []
    return reading


def _write(
    fitted: FittedPipeline,
    schema: pl.Schema,
    folder: Path,
    training: bool,
    share: Share,
    history: pl.DataFrame | None,
) -> int:
    """In a worker: a share's prepared rows as a part file; gives their number."""
    seen = _seen(share, fitted.stages, history, None)
    made = (_prepared(replace(fitted, stages=tuple(now)), one, training) for one, now in seen)
    # A share that is tried again replaces what the first try has left; the joined file is synced.
    with atomic_path(folder / _part(share), durable=False) as partial_part:
        return write_chunks(schema, made, partial_part)


def _prepared(fitted: FittedPipeline, chunk: Batch, training: bool) -> pl.DataFrame:
    return fitted.training_frame(chunk) if training else fitted.apply_frame(chunk.rows)


def _seen(
    share: Share,
    stages: Sequence[Stage],
    history: pl.DataFrame | None,
    columns: Sequence[str] | None,
) -> Iterator[tuple[Batch, list[Stage]]]:
    """A share's rows, each batch with the stages that know what looks back from it."""
    for chunk in share.chunks(columns):
        place = chunk.first - share.first
        held = None if history is None else history.slice(place, chunk.rows.height)
        yield chunk, remembered(stages, held)


def _part(share: Share) -> str:
    return f"{share.first:016d}.parquet"


def _shares(pieces: Sequence[Piece], width: int, most_rows: int) -> list[Share]:
    """Enough for all workers, each so small that the store holds many times its bytes a row."""
    most = min(most_rows, int(packet_bytes() / width)) if width else most_rows
    return shares_of(pieces, _cpus() * _SHARES_A_CPU, max(most, 1))


def _require_cluster() -> None:
    import ray

    if not ray.is_initialized():
        raise ClusterError("The Ray engine needs a connected cluster.", "Connect first.")


def _cpus() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.absolute().parent) as name:
        yield Path(name)


def _mapped(blocks: Blocks, work: Work, has_models: bool) -> Iterator[Any]:
    """What the work gives for each share, in order.

    Raises:
        SunloomError: A worker raised it.
    """
    import ray.data

    if not blocks:
        return
    shares = ray.data.from_arrow_refs(blocks)
    shares.context.execution_options.preserve_order = True
    # Ray Data holds tasks back by what it thinks they will leave in the store: little, here.
    shares.context.target_max_block_size = _RESULT_BYTES
    how: dict[str, Any] = {"fn_kwargs": {"work": work}}
    if has_models:
        # Actors stay: a model is loaded once for each, not once a share.
        most = max(1, min(len(blocks), _cpus() - 1))
        how |= {"compute": ray.data.ActorPoolStrategy(min_size=1, max_size=most)}
    done = shares.map_batches(
        _Actor if has_models else worked, batch_size=1, batch_format="pyarrow", **how
    )
    for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
        for payload in batch["payload"]:
            found = pickle.loads(payload.as_buffer())  # noqa: S301 - our worker's, just made
            if isinstance(found, SunloomError):
                raise found
            yield found


def worked(batch: pa.Table, *, work: Work) -> pa.Table:
    """In a worker: work on the shares of a block; an error of ours is a result too."""
    import pyarrow as pa

    try:
        done = [pickle.dumps(work(*share), protocol=5) for share in shares_in(batch)]
    except SunloomError as error:
        done = [pickle.dumps(error)]
    except OSError as error:
        reason = f"A worker could not read or write: {error}"
        hint = "Input and output must lie where every worker reaches them, with room left."
        done = [pickle.dumps(ClusterError(reason, hint))]
    return pa.table({"payload": pa.array(done, pa.large_binary())})


class _Actor:
    """Works on one block after another in one process."""

    def __call__(self, batch: pa.Table, *, work: Work) -> pa.Table:
        return worked(batch, work=work)
