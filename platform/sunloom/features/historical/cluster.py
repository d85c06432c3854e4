"""The historical computation on a connected Ray cluster: a shuffle by key, then one task a part.

Read tasks leave one packet a partition in the object store, which spills to disk what does not
fit; Ray Data's tasks collect a partition's packets one by one and compute. Ray Data's own shuffle
between the two goes through actors and several more processes: on one node it was 13 times slower.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from sunloom.core.ray_tasks import (
    PARTITION_BYTES,
    STORE_SHARE,
    map_parts,
    object_store_bytes,
    require_cluster,
    unwrap_task_errors,
)
from sunloom.data.shuffle import Packet, from_packet, partition_by_hash, to_packet
from sunloom.features.engine.counters import Counters
from sunloom.features.historical.query_frame import append_features, build_query_frame
from sunloom.features.historical.result import HistoricalResult
from sunloom.features.historical.worker import (
    ROW,
    PartitionResult,
    ReadReport,
    compute_partition,
    read_and_partition,
)
from sunloom.features.sources.scan import SourceScan

DEFAULT_PARTITIONS = 4
MOST_PARTITIONS = 4_096


def historical_ray(
    scan: SourceScan, entities: pl.DataFrame, partitions: int = DEFAULT_PARTITIONS
) -> HistoricalResult:
    """Compute on the connected cluster; rows and order are those of the one-process path.

    Files are read, and partitions computed, by workers; the entities' rows go out from and come
    back to this process.

    Args:
        scan: The plan and its sources.
        entities: Key and ``event_time`` of each row, and what is carried along.
        partitions: Partitions by key hash at least; more where the sources are large.

    Raises:
        ClusterError: No cluster is connected.
    """
    import ray

    require_cluster()
    plan = scan.plan
    query = build_query_frame(plan, entities, has_source=plan.namespace in scan.paths)
    query = query.with_row_index(ROW)
    count = partition_count(scan.size_bytes, partitions, object_store_bytes())
    with unwrap_task_errors():
        shuffled = shuffle_sources(scan, count)
        # A task that waited for packets would give its core away, and Ray start one more worker.
        reports: list[ReadReport] = ray.get(shuffled.reports)
        text, parts = plan.model_dump_json(), []
        for number, rows in enumerate(partition_by_hash(query, (plan.root.key,), count)):
            # A partition without query rows has nothing to compute; one always gives the columns.
            if rows.height or number == 0:
                parts.append((text, ray.put(to_packet(rows)), shuffled.partition(number)))
        results = list(map_parts(_compute, parts))
    damaged = [from_packet(report.damaged) for report in reports if report.damaged is not None]
    return HistoricalResult(
        table=append_features(entities, _in_row_order(results)),
        damaged=pl.concat(damaged) if damaged else pl.DataFrame(),
        rows_read=sum(report.rows_read for report in reports),
        counters=Counters.merge(
            [report.counters for report in reports] + [result.counters for result in results]
        ),
    )


def partition_count(size_bytes: int, least: int, store_bytes: float) -> int:
    """So many partitions that one is small beside a worker's memory and the object store."""
    most_bytes = min(PARTITION_BYTES, store_bytes / STORE_SHARE)
    return min(MOST_PARTITIONS, max(least, math.ceil(size_bytes / most_bytes)))


@dataclass(frozen=True)
class ShuffledSources:
    """References to what the read tasks leave in the object store.

    Attributes:
        reports: One a split.
        packets: By source and partition, one a split in order of insertion.
    """

    reports: Sequence[Any]
    packets: Mapping[str, Sequence[Sequence[Any]]]

    def partition(self, number: int) -> dict[str, Sequence[Any]]:
        """A partition's packets, by source."""
        return {name: by_partition[number] for name, by_partition in self.packets.items()}


def shuffle_sources(scan: SourceScan, partitions: int) -> ShuffledSources:
    """Start one read task a split, each of which partitions its rows by the entity's key."""
    import ray

    text, task = scan.plan.model_dump_json(), ray.remote(read_and_partition)
    reports: list[Any] = []
    packets: dict[str, list[list[Any]]] = {}
    for split in scan.splits:
        is_shared = split.projection.partition_by is None
        read = task.options(num_returns=2 if is_shared else 1 + partitions)
        report, *written = read.remote(text, split, partitions)
        reports.append(report)
        by_partition = packets.setdefault(split.source, [[] for _ in range(partitions)])
        for number, refs in enumerate(by_partition):
            refs.append(written[0] if is_shared else written[number])
    return ShuffledSources(reports, packets)


def iter_packets(sources: Mapping[str, Sequence[Any]]) -> dict[str, Iterator[Packet]]:
    """In a worker: packets one after another, so that never all are pinned at once."""
    import ray

    return {name: (ray.get(packet) for packet in refs) for name, refs in sources.items()}


def _compute(part: tuple[str, Any, Mapping[str, Sequence[Any]]]) -> PartitionResult:
    import ray

    plan_json, query, sources = part
    return compute_partition(plan_json, ray.get(query), iter_packets(sources))


def _in_row_order(results: Sequence[PartitionResult]) -> pl.DataFrame:
    """All features in the order of the query rows."""
    table = pl.concat(from_packet(result.features) for result in results)
    # The inverse permutation is one pass; sorting by the row's number would be several.
    order = np.empty(table.height, dtype=np.int64)
    order[table[ROW].to_numpy()] = np.arange(table.height)
    return table.drop(ROW)[order]
