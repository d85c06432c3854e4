"""The exchange on a connected Ray cluster.

Read tasks leave one packet a partition in the object store, which spills to disk what does not
fit; Ray Data's tasks collect a partition's packets one by one and compute. Ray Data's own shuffle
between the two goes through actors and several more processes: on one node it was 13 times slower.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sunloom.core.ray_tasks import (
    PARTITION_BYTES,
    STORE_SHARE,
    map_parts,
    object_store_bytes,
    unwrap_task_errors,
)
from sunloom.data.shuffle import Packet, from_packet, partition_by_hash, to_packet
from sunloom.errors import ClusterError
from sunloom.features.historical import worker as exchange
from sunloom.features.historical.retrieve import (
    HistoricalResult,
    appended,
    check_sources,
    questions_of,
)
from sunloom.features.historical.worker import ROW, Notes
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.projection import source_projections
from sunloom.features.sources.splits import FileSplit, chunks_of

DEFAULT_PARTITIONS = 4
MOST_PARTITIONS = 4_096


def historical_ray(
    plan: Plan,
    sources: Mapping[str, Path],
    entities: pl.DataFrame,
    partitions: int = DEFAULT_PARTITIONS,
) -> HistoricalResult:
    """Compute on the connected cluster; rows and order are those of the one-process path.

    Files are read, and partitions computed, by workers; the entities' rows go out from and come
    back to this process.

    Args:
        plan: What to compute.
        sources: Namespace to the file or folder with its rows.
        entities: Key and ``event_time`` of each row, and what is carried along.
        partitions: Partitions by key hash at least; more where the sources are large.

    Raises:
        ClusterError: No cluster is connected.
    """
    import ray

    if not ray.is_initialized():
        raise ClusterError("The Ray engine needs a connected cluster.", "Connect first.")
    check_sources(plan, sources)
    questions = questions_of(plan, entities, sources).with_row_index(ROW)
    chunks = chunks_of(plan, sources)
    parts = partitions_for(chunks, partitions, object_store_bytes())
    with unwrap_task_errors():
        return _run(plan, chunks, parts, entities, questions)


def partitions_for(chunks: Sequence[FileSplit], least: int, store_bytes: float) -> int:
    """So many partitions that one is small beside a worker's memory and the object store."""
    part = min(PARTITION_BYTES, store_bytes / STORE_SHARE)
    size = sum(chunk.size for chunk in chunks)
    return min(MOST_PARTITIONS, max(least, math.ceil(size / part)))


def _run(
    plan: Plan,
    chunks: Sequence[FileSplit],
    partitions: int,
    entities: pl.DataFrame,
    questions: pl.DataFrame,
) -> HistoricalResult:
    """Read, cut, compute, collect."""
    import ray

    notes, packets = cut_on_cluster(plan, chunks, partitions)
    # A task that waited for packets would give its core away, and Ray start one more worker.
    read: list[Notes] = ray.get(notes)
    text, parts = plan.model_dump_json(), []
    for part, rows in enumerate(partition_by_hash(questions, (plan.root.key,), partitions)):
        # A part without questions has nothing to answer; one always gives the columns.
        if rows.height or part == 0:
            of_part = {name: held[part] for name, held in packets.items()}
            parts.append((text, ray.put(to_packet(rows)), of_part))
    answers, counts = _collected(map_parts(_compute, parts))
    damaged = [from_packet(n.damaged) for n in read if n.damaged is not None]
    return HistoricalResult(
        appended(entities, answers),
        pl.concat(damaged) if damaged else pl.DataFrame(),
        sum(note.rows_read for note in read),
        exchange.reported([*counts, *(note.counts for note in read)]),
    )


def cut_on_cluster(
    plan: Plan, chunks: Sequence[FileSplit], partitions: int
) -> tuple[list[Any], dict[str, list[list[Any]]]]:
    """References to each chunk's notes, and by source and partition to its packets."""
    import ray

    text, needs = plan.model_dump_json(), source_projections(plan)
    task = ray.remote(exchange.read_and_cut)
    notes: list[Any] = []
    packets: dict[str, list[list[Any]]] = {}
    for chunk in chunks:
        shared = needs[chunk.source].partition_by is None
        read = task.options(num_returns=2 if shared else 1 + partitions)
        note, *cut = read.remote(text, chunk, partitions)
        notes.append(note)
        of_source = packets.setdefault(chunk.source, [[] for _ in range(partitions)])
        for part, held in enumerate(of_source):
            held.append(cut[0] if shared else cut[part])
    return notes, packets


def taken(rows: Mapping[str, Sequence[Any]]) -> dict[str, Iterator[Packet]]:
    """In a worker: packets one after another, so that never all are pinned at once."""
    import ray

    return {name: (ray.get(packet) for packet in held) for name, held in rows.items()}


def _compute(
    part: tuple[str, Any, Mapping[str, Sequence[Any]]],
) -> tuple[Packet, dict[str, dict[str, int]]]:
    import ray

    plan_json, questions, rows = part
    return exchange.compute(plan_json, ray.get(questions), taken(rows))


def _collected(
    answered: Iterable[tuple[Packet, dict[str, dict[str, int]]]],
) -> tuple[pl.DataFrame, list[dict[str, dict[str, int]]]]:
    """All answers in the order of the questions, and the parts' counts."""
    frames, counts = [], []
    for packet, counted in answered:
        frames.append(from_packet(packet))
        counts.append(counted)
    table = pl.concat(frames)
    order = np.empty(table.height, dtype=np.int64)
    order[table[ROW].to_numpy()] = np.arange(table.height)
    return table.drop(ROW)[order], counts
