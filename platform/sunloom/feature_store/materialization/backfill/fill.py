"""Partitions of a backfill: sources are partitioned by key, each partition fills its chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from sunloom.core.ray_tasks import map_parts, require_cluster, unwrap_task_errors
from sunloom.data.shuffle import Packet, from_packet, partition_by_hash
from sunloom.feature_store.materialization.backfill.chunk_files import chunk_path, publish_rows
from sunloom.feature_store.materialization.backfill.entities import (
    keys_since,
    query_in_span,
    query_on_grid,
)
from sunloom.feature_store.materialization.backfill.grid import Grid, TimeRange
from sunloom.features.engine.counters import Counters
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.historical.cluster import (
    ReadReport,
    iter_packets,
    join_packets,
    load_plan,
    shuffle_here,
    shuffle_sources,
)
from sunloom.features.plan.feature_sets import EVENT_TIME, NOW, Plan
from sunloom.features.sources.scan import SourceScan


@dataclass(frozen=True)
class PartitionTask:
    """What one partition has to do.

    Attributes:
        plan_json: The plan.
        grid: As-of times and partitions of the whole backfill.
        folder: Of the backfill.
        partition: Its number.
        missing: Chunks that are not published yet.
        keys: Keys, or keys with as-of times; None where the keys are those of the sources.
    """

    plan_json: str
    grid: Grid
    folder: str
    partition: int
    missing: Sequence[TimeRange]
    keys: Packet | None


class FilledPartition(NamedTuple):
    """Chunks that were published, and what the engine counted."""

    chunks: int
    counters: Counters


CheckReports = Callable[[Sequence[ReadReport]], None]
"""Called once all sources are read: raises where too many rows cannot be."""


def fill_here(
    scan: SourceScan, tasks: Sequence[PartitionTask], check: CheckReports
) -> list[FilledPartition]:
    """Fill all partitions in this process."""
    sources = shuffle_here(scan, tasks[0].grid.partitions)
    check(sources.reports)
    return [fill_partition(task, sources.partition(task.partition)) for task in tasks]


def fill_on_cluster(
    scan: SourceScan, tasks: Sequence[PartitionTask], check: CheckReports
) -> list[FilledPartition]:
    """The same on Ray: one task a split of the sources, then one a partition.

    Raises:
        ClusterError: No cluster is connected.
    """
    import ray

    require_cluster()
    with unwrap_task_errors():
        sources = shuffle_sources(scan, tasks[0].grid.partitions)
        check(ray.get(sources.reports))
        parts = [(task, sources.partition(task.partition)) for task in tasks]
        return list(map_parts(_fill_in_worker, parts))


def fill_partition(task: PartitionTask, sources: Mapping[str, Iterable[Packet]]) -> FilledPartition:
    """Compute and publish a partition's missing chunks.

    Args:
        task: What to do.
        sources: Namespace to packets in order of insertion, read one after another.
    """
    plan, tables = load_plan(task.plan_json), join_packets(sources)
    # One engine for all chunks: it sorts the rows once.
    engine = FeatureEngine(plan, tables)
    keys = _keys(task, plan, tables)
    for span in task.missing:
        is_timed = NOW in keys.columns
        query = query_in_span(keys, span) if is_timed else query_on_grid(keys, task.grid, span)
        rows = query.select(plan.root.key, pl.col(NOW).alias(EVENT_TIME))
        path = chunk_path(Path(task.folder), span, task.partition)
        publish_rows(rows.hstack(engine.compute(query)), path)
    return FilledPartition(len(task.missing), engine.counters)


def _keys(task: PartitionTask, plan: Plan, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    if task.keys is not None:
        return from_packet(task.keys)
    # Sources that every partition reads whole have the keys of all partitions.
    keys = keys_since(plan, tables)
    return list(partition_by_hash(keys, (plan.root.key,), task.grid.partitions))[task.partition]


def _fill_in_worker(part: tuple[PartitionTask, Mapping[str, Sequence[Any]]]) -> FilledPartition:
    task, sources = part
    return fill_partition(task, iter_packets(sources))
