"""Fit and transform through Ray Data: workers read the files, and send what they learnt or made.

A row group of a Parquet file, or a whole file of another kind, is read by one worker, in chunks.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from sunloom.errors import ClusterError, UsageError
from sunloom.features.transformers.chunks import (
    Chunk,
    FileSource,
    Source,
    file_batches,
)
from sunloom.features.transformers.fitted import FittedRecipe
from sunloom.features.transformers.fitting import Pass, read_here
from sunloom.features.transformers.stages import Stage, need_whole_table
from sunloom.features.transformers.writing import prepared_chunks

if TYPE_CHECKING:
    import pyarrow as pa

_TASKS_A_CPU = 2


def read_ray(source: Source, reading: Pass) -> Pass:
    """Read on the connected cluster; a frame in this process's memory is read here.

    What is learnt is merged on the worker for all its row groups, and then here: counts, moments
    and sums stay small; values for exact quantiles come here as long as they fit into the pass's
    memory, and as sketches beyond.
    """
    _require_chunks(reading.before)
    if not isinstance(source, FileSource):
        return read_here(source, reading)
    pieces = _shares(_pieces(source), _cpus() * _TASKS_A_CPU)
    state = pickle.dumps(reading)
    learnt = _dataset(pieces).map_batches(
        _observe, batch_size=1, batch_format="pyarrow", fn_kwargs={"state": state}
    )
    for batch in learnt.iter_batches(batch_size=None, batch_format="pyarrow"):
        for payload in batch["payload"]:
            reading.merge(pickle.loads(payload.as_py()))  # noqa: S301 - our worker's, just made
    return reading


def prepared_ray(
    fitted: FittedRecipe, source: Source, *, training: bool = False
) -> Iterator[pl.DataFrame]:
    """Prepared rows in order, made on the connected cluster; a frame's are made here."""
    _require_chunks(fitted.stages)
    if not isinstance(source, FileSource):
        yield from prepared_chunks(fitted, source, training=training)
        return
    pieces = [[piece] for piece in _pieces(source)]
    with _in_order():
        made = _dataset(pieces).map_batches(
            _Preparer,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(fitted, training),
            # Actors stay: a model is loaded once for each, not once a piece.
            concurrency=(1, max(1, min(len(pieces), _cpus() - 1))),
        )
        for batch in made.iter_batches(batch_size=None, batch_format="pyarrow"):
            for payload in batch["payload"]:
                yield pl.read_ipc(io.BytesIO(payload.as_py()))


def _require_chunks(stages: Sequence[Stage]) -> None:
    if need_whole_table(stages):
        raise UsageError(
            "Lags, windows and decaying means need the whole table.",
            "Use --engine polars, or define them as windowed features.",
            "engine",
        )


def _dataset(pieces: Sequence[Sequence[dict[str, Any]]]) -> Any:
    import ray
    import ray.data

    if not ray.is_initialized():
        raise ClusterError("The Ray engine needs a connected cluster.", "Connect first.")
    items = [{"pieces": list(share)} for share in pieces]
    return ray.data.from_items(items, override_num_blocks=max(len(items), 1))


def _cpus() -> int:
    import ray

    return int(ray.cluster_resources().get("CPU", 1)) if ray.is_initialized() else 1


@contextmanager
def _in_order() -> Iterator[None]:
    from ray.data import DataContext

    options = DataContext.get_current().execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        yield
    finally:
        options.preserve_order = before


def _pieces(source: FileSource) -> list[dict[str, Any]]:
    """File, row group (-1: the whole file) and number of the first row of each."""
    import pyarrow.parquet as pq

    pieces: list[dict[str, Any]] = []
    first = 0
    for file in source.files:
        place = str(file.absolute())
        if file.suffix != ".parquet":
            pieces.append({"file": place, "group": -1, "first": first})
            first += sum(frame.height for frame in file_batches(file, None))
            continue
        about = pq.read_metadata(file)
        for group in range(about.num_row_groups):
            pieces.append({"file": place, "group": group, "first": first})
            first += about.row_group(group).num_rows
    return pieces


def _shares(pieces: list[dict[str, Any]], most: int) -> list[list[dict[str, Any]]]:
    """Neighbouring pieces together, at most so many shares."""
    size = -(-len(pieces) // max(most, 1)) or 1
    return [pieces[start : start + size] for start in range(0, len(pieces), size)]


def _chunks(piece: dict[str, Any], columns: Sequence[str] | None) -> Iterator[Chunk]:
    group, first = piece["group"], piece["first"]
    groups = None if group < 0 else [group]
    for rows in file_batches(Path(piece["file"]), columns, groups):
        yield Chunk(rows, first)
        first += rows.height


def _observe(batch: pa.Table, *, state: bytes) -> pa.Table:
    reading: Pass = pickle.loads(state)  # noqa: S301 - the driver's, just made
    for share in batch["pieces"].to_pylist():
        for piece in share:
            for chunk in _chunks(piece, reading.columns):
                reading.observe(chunk)
    return _payloads([pickle.dumps(reading)])


class _Preparer:
    """Prepares pieces of files, one after another."""

    def __init__(self, fitted: FittedRecipe, training: bool) -> None:
        self._fitted, self._training = fitted, training

    def __call__(self, batch: pa.Table) -> pa.Table:
        made = []
        for share in batch["pieces"].to_pylist():
            for piece in share:
                made += [self._one(chunk) for chunk in _chunks(piece, None)]
        return _payloads(made)

    def _one(self, chunk: Chunk) -> bytes:
        fitted = self._fitted
        frame = fitted.training_frame(chunk) if self._training else fitted.apply_frame(chunk.rows)
        buffer = io.BytesIO()
        frame.write_ipc(buffer, compression="lz4")
        return buffer.getvalue()


def _payloads(payloads: list[bytes]) -> pa.Table:
    import pyarrow as pa

    return pa.table({"payload": pa.array(payloads, pa.large_binary())})
