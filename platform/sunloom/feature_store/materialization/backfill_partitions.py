"""Partitions of a backfill: their entities and as-of times, and the chunks that each fills."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import polars as pl

from sunloom.core.ray_tasks import map_parts, require_cluster, unwrap_task_errors
from sunloom.data.shuffle import Packet, from_packet, partition_by_hash
from sunloom.feature_store.materialization.backfill_grid import (
    Grid,
    TimeRange,
    chunk_path,
    publish_rows,
)
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
from sunloom.features.plan.polars_dtypes import POLARS
from sunloom.features.sources.scan import SourceScan

_SINCE = "__since__"
_TIME = POLARS["datetime"]
# An evaluation of few rows costs as much as one of thousands: its parts, not its rows, take time.
_BATCH_ROWS = 10_000

_ChunkQuery: TypeAlias = tuple[TimeRange, pl.DataFrame]


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
    for batch in _batches(_queries(task, keys)):
        query = pl.concat([rows for _, rows in batch])
        rows = query.select(plan.root.key, pl.col(NOW).alias(EVENT_TIME))
        rows = rows.hstack(engine.compute(query))
        first = 0
        for span, query_rows in batch:
            path = chunk_path(Path(task.folder), span, task.partition)
            publish_rows(rows.slice(first, query_rows.height), path)
            first += query_rows.height
    return FilledPartition(len(task.missing), engine.counters)


def _queries(task: PartitionTask, keys: pl.DataFrame) -> Iterator[_ChunkQuery]:
    """The query rows of each missing chunk."""
    is_timed = NOW in keys.columns
    for span in task.missing:
        query = query_in_span(keys, span) if is_timed else query_on_grid(keys, task.grid, span)
        yield span, query


def _batches(queries: Iterable[_ChunkQuery]) -> Iterator[list[_ChunkQuery]]:
    """Neighbouring chunks, so many that each batch has enough rows."""
    batch: list[_ChunkQuery] = []
    rows = 0
    for span, query in queries:
        batch.append((span, query))
        rows += query.height
        if rows >= _BATCH_ROWS:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch


def _keys(task: PartitionTask, plan: Plan, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    if task.keys is not None:
        return from_packet(task.keys)
    # Sources that every partition reads whole have the keys of all partitions.
    keys = keys_since(plan, tables)
    return list(partition_by_hash(keys, (plan.root.key,), task.grid.partitions))[task.partition]


def _fill_in_worker(part: tuple[PartitionTask, Mapping[str, Sequence[Any]]]) -> FilledPartition:
    task, sources = part
    return fill_partition(task, iter_packets(sources))


@dataclass(frozen=True)
class KeySource:
    """A source whose rows have the entity's key.

    Attributes:
        namespace: The source's class.
        key: The key's column there.
        time: The event time's column; None where it is not read.
    """

    namespace: str
    key: str
    time: str | None


def key_sources(plan: Plan, columns: Mapping[str, Sequence[str]]) -> list[KeySource]:
    """The sources whose rows have the key.

    Args:
        plan: The feature set.
        columns: Namespace to the columns that are read.
    """
    root = plan.root
    key_columns = {root.namespace: root.key}
    for join in root.joins:
        if join.many and join.own_keys == (root.key,):
            key_columns.setdefault(join.target, join.target_keys[0])
    sources = []
    for namespace, key in key_columns.items():
        read = columns.get(namespace, ())
        if key in read:
            time = plan.class_plan(namespace).time
            sources.append(KeySource(namespace, key, time if time in read else None))
    return sources


def keys_since(plan: Plan, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Every key of the sources, in order, and the time of the first row that has it.

    Args:
        plan: The feature set.
        tables: Namespace to the rows that were read.
    """
    key = plan.root.key
    parts = []
    for source in key_sources(plan, {name: rows.columns for name, rows in tables.items()}):
        # A source whose time is not read: its keys were there from the beginning.
        since = pl.col(source.time).min() if source.time else pl.lit(None, _TIME).first()
        rows = tables[source.namespace]
        keyed = rows.rename({source.key: key}) if source.key != key else rows
        parts.append(keyed.group_by(key).agg(since.alias(_SINCE)))
    first = pl.col(_SINCE).fill_null(pl.lit(0).cast(_TIME)).min()
    return pl.concat(parts).drop_nulls(key).group_by(key).agg(first).sort(key)


def query_on_grid(keys: pl.DataFrame, grid: Grid, span: TimeRange) -> pl.DataFrame:
    """Every key at every as-of time of the chunk, from its first row on; by time, then by key.

    Args:
        keys: Keys in order; with ``keys_since``'s column, or without: there from the beginning.
        grid: The as-of times.
        span: The chunk's time.
    """
    times = pl.Series(NOW, list(grid.as_of_times(span)), dtype=_TIME)
    query = times.to_frame().join(keys, how="cross")
    if _SINCE in keys.columns:
        query = query.filter(pl.col(_SINCE) <= pl.col(NOW)).drop(_SINCE)
    return query


def query_in_span(rows: pl.DataFrame, span: TimeRange) -> pl.DataFrame:
    """The query rows with an as-of time in the chunk."""
    return rows.filter(pl.col(NOW).is_between(span.start, span.end, closed="left"))
