"""The historical computation on a connected Ray cluster: a shuffle by key, then one task a part.

Read tasks leave one packet a partition in the object store, which spills to disk what does not
fit; Ray Data's tasks collect a partition's packets one by one and compute. Ray Data's own shuffle
between the two goes through actors and several more processes: on one node it was 13 times slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

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
from sunloom.features.engine.counters import Counters, count_violations
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.historical.query import HistoricalResult, append_features, build_query_frame
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.sources.scan import SourceScan, SourceSplit

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data

DEFAULT_PARTITIONS = 4
MOST_PARTITIONS = 4_096
ROW = "__row__"
"""Column of query rows and their results: the row's number."""
_CARRIED = "__carried__"


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
        results = list(map_parts(_compute_in_worker, parts))
    features = pl.concat(from_packet(result.features) for result in results)
    # The inverse permutation is one pass; sorting by the row's number would be several.
    order = np.empty(features.height, dtype=np.int64)
    order[features[ROW].to_numpy()] = np.arange(features.height)
    damaged = [from_packet(report.damaged) for report in reports if report.damaged is not None]
    return HistoricalResult(
        table=append_features(entities, features.drop(ROW)[order]),
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
    """What reading the splits gave, on a cluster as references into the object store.

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

    def start(split: SourceSplit) -> Sequence[Any]:
        is_shared = split.projection.partition_by is None
        read = task.options(num_returns=2 if is_shared else 1 + partitions)
        return list(read.remote(text, split, partitions))

    return _shuffle(scan, partitions, start)


def shuffle_here(scan: SourceScan, partitions: int) -> ShuffledSources:
    """The same in this process: reports and packets themselves instead of references."""
    text = scan.plan.model_dump_json()
    return _shuffle(scan, partitions, lambda split: read_and_partition(text, split, partitions))


def _shuffle(
    scan: SourceScan, partitions: int, read: Callable[[SourceSplit], Sequence[Any]]
) -> ShuffledSources:
    reports: list[Any] = []
    packets: dict[str, list[list[Any]]] = {}
    for split in scan.splits:
        report, *written = read(split)
        reports.append(report)
        by_partition = packets.setdefault(split.source, [[] for _ in range(partitions)])
        for number, of_partition in enumerate(by_partition):
            is_shared = split.projection.partition_by is None
            of_partition.append(written[0 if is_shared else number])
    return ShuffledSources(reports, packets)


def iter_packets(sources: Mapping[str, Sequence[Any]]) -> dict[str, Iterator[Packet]]:
    """In a worker: packets one after another, so that never all are pinned at once."""
    import ray

    return {name: (ray.get(packet) for packet in refs) for name, refs in sources.items()}


def _compute_in_worker(part: tuple[str, Any, Mapping[str, Sequence[Any]]]) -> PartitionResult:
    import ray

    plan_json, query, sources = part
    return compute_partition(plan_json, ray.get(query), iter_packets(sources))


def historical_dataset(
    scan: SourceScan, entities: pl.DataFrame, partitions: int = DEFAULT_PARTITIONS
) -> ray.data.Dataset:
    """The rows of ``historical_ray`` as a Ray Dataset; rows stand by partition, not in order.

    Only the entities' rows pass through this process; features stay in the object store, so the
    result may be larger than any one machine's memory.

    Args:
        scan: The plan and its sources.
        entities: Key and ``event_time`` of each row, and what is carried along.
        partitions: Blocks at least; more where the sources are large.

    Raises:
        ClusterError: No cluster is connected.
    """
    import ray
    import ray.data

    require_cluster()
    plan = scan.plan
    query = build_query_frame(plan, entities, has_source=plan.namespace in scan.paths)
    # The prefix keeps a carried column apart from the query's own of the same name.
    query = query.hstack(entities.select(pl.all().name.prefix(_CARRIED)))
    count = partition_count(scan.size_bytes, partitions, object_store_bytes())
    with unwrap_task_errors():
        shuffled = shuffle_sources(scan, count)
        ray.get(shuffled.reports)
        task, text = ray.remote(_compute_block), plan.model_dump_json()
        blocks = [
            task.remote(text, ray.put(to_packet(rows)), shuffled.partition(number))
            for number, rows in enumerate(partition_by_hash(query, (plan.root.key,), count))
        ]
        return ray.data.from_arrow_refs(blocks)


def _compute_block(plan_json: str, query: Packet, sources: Mapping[str, Sequence[Any]]) -> pa.Table:
    """In a worker: the partition's rows with one column a feature appended, as one block."""
    engine = FeatureEngine(load_plan(plan_json), join_packets(iter_packets(sources)))
    rows, is_carried = from_packet(query), f"^{_CARRIED}.*$"
    features = engine.compute(rows.select(pl.exclude(is_carried)))
    carried = pl.col(is_carried).name.map(lambda name: name.removeprefix(_CARRIED))
    table = append_features(rows.select(carried), features)
    return table.to_arrow(compat_level=pl.CompatLevel.oldest())


@dataclass(frozen=True)
class ReadReport:
    """What reading a split counted.

    Attributes:
        rows_read: Its rows, damaged ones included.
        damaged: Rows that could not be read; None without any.
        counters: Values outside declared limits.
    """

    rows_read: int
    damaged: Packet | None
    counters: Counters


class PartitionResult(NamedTuple):
    """A partition's features with ``ROW``, and what the engine counted."""

    features: Packet
    counters: Counters


def read_and_partition(
    plan_json: str, split: SourceSplit, partitions: int
) -> list[ReadReport | Packet]:
    """The report and one packet a partition; one for all where every partition needs all rows."""
    plan = load_plan(plan_json)
    source = split.read(plan)
    report = ReadReport(
        rows_read=source.rows.height + source.damaged.height,
        damaged=to_packet(source.damaged) if source.damaged.height else None,
        counters=Counters(count_violations(plan, split.source, source.rows)),
    )
    keys = split.projection.partition_by
    if keys is None:
        return [report, to_packet(source.rows)]
    return [report, *map(to_packet, partition_by_hash(source.rows, keys, partitions))]


def compute_partition(
    plan_json: str, query: Packet, sources: Mapping[str, Iterable[Packet]]
) -> PartitionResult:
    """Compute the features of a partition's query rows.

    Args:
        plan_json: The plan.
        query: The partition's query rows with ``ROW``.
        sources: Namespace to packets in order of insertion, read one after another.
    """
    engine, rows = FeatureEngine(load_plan(plan_json), join_packets(sources)), from_packet(query)
    features = engine.compute(rows.drop(ROW)).hstack([rows[ROW]])
    return PartitionResult(to_packet(features), engine.counters)


def join_packets(sources: Mapping[str, Iterable[Packet]]) -> dict[str, pl.DataFrame]:
    """Each source's rows as one table."""
    return {name: pl.concat(map(from_packet, packets)) for name, packets in sources.items()}


@lru_cache(maxsize=8)
def load_plan(plan_json: str) -> Plan:
    """The plan; a worker meets the same one many times."""
    return Plan.model_validate_json(plan_json)
