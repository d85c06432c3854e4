"""The historical computation on a connected Ray cluster: a shuffle by key, then one task a part.

Read tasks leave one packet a partition in the object store, which spills to disk what does not
fit; Ray Data's tasks collect a partition's packets one by one and compute. Ray Data's own shuffle
between the two goes through actors and several more processes: on one node it was 13 times slower.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

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
from sunloom.features.sources.deduplicate import count_repeats, drop_repeats
from sunloom.features.sources.scan import SourceProjection, SourceScan, SourceSplit

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data

DEFAULT_PARTITIONS = 4
MOST_PARTITIONS = 4_096
ROW = "__row__"
"""Column of query rows and their results: the row's number."""
_CARRIED = "__carried__"
_ORDINAL = "__ordinal__"

UInts = NDArray[np.uint64]


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

    # Once a function: each remote function is pickled and sent to the cluster.
    task = cache(ray.remote)

    def start(count: int, function: Callable[..., Any], *rows: Any, **options: Any) -> list[Any]:
        references = task(function).options(num_returns=count).remote(*rows, **options)
        return references if count > 1 else [references]

    return _shuffle(scan, partitions, start)


def shuffle_here(scan: SourceScan, partitions: int) -> ShuffledSources:
    """The same in this process: reports and packets themselves instead of references."""

    def call(count: int, function: Callable[..., Any], *rows: Any, **options: Any) -> list[Any]:
        result = function(*rows, **options)
        return result if count > 1 else [result]

    return _shuffle(scan, partitions, call)


def _shuffle(scan: SourceScan, partitions: int, call: Callable[..., list[Any]]) -> ShuffledSources:
    """Read all splits, and partition their rows.

    Args:
        scan: The plan and its sources.
        partitions: Partitions by key hash.
        call: Calls a function: number of its results, the function, its arguments.
    """
    shuffle = _Shuffle(call, scan.plan.model_dump_json(), partitions)
    packets: dict[str, list[list[Any]]] = {}
    for name, projection in scan.projections.items():
        splits = [split for split in scan.splits if split.source == name]
        read = shuffle.read if projection.deduplicate is None else shuffle.read_without_repeats
        written = read(name, projection, splits)
        # A source that every partition needs whole has one packet for all of them.
        width = shuffle.packets_of(projection)
        packets[name] = [[parts[n % width] for parts in written] for n in range(partitions)]
    return ShuffledSources(shuffle.reports, packets)


@dataclass(frozen=True)
class _Shuffle:
    """Reads of sources, each of which gives one list of packets for each of its parts.

    Attributes:
        call: Calls a function: number of its results, the function, its arguments.
        plan_json: The plan.
        partitions: Partitions by key hash.
        reports: Receives the reports of what is read.
    """

    call: Callable[..., list[Any]]
    plan_json: str
    partitions: int
    reports: list[Any] = field(default_factory=list)

    def packets_of(self, projection: SourceProjection) -> int:
        """Number of a part's packets."""
        return 1 if projection.partition_by is None else self.partitions

    def read(
        self, name: str, projection: SourceProjection, splits: Sequence[SourceSplit]
    ) -> list[list[Any]]:
        """Packets of each split; repeats of an id are counted across all of them."""
        width, id_partitions = self.packets_of(projection), 0
        if projection.event_id is not None:
            size = sum(split.size_bytes for split in splits)
            id_partitions = min(MOST_PARTITIONS, 1 + size // PARTITION_BYTES)
        options = {"partitions": self.partitions, "id_partitions": id_partitions}
        parts = [
            self._report(width + id_partitions, read_and_partition, split, **options)
            for split in splits
        ]
        for numbers in zip(*(part[width:] for part in parts), strict=True):
            self.reports.extend(self.call(1, report_repeated_ids, name, *numbers))
        return [part[:width] for part in parts]

    def read_without_repeats(
        self, name: str, projection: SourceProjection, splits: Sequence[SourceSplit]
    ) -> list[list[Any]]:
        """Packets of each partition of the source's events.

        Two shuffles: repeats of an event meet first, wherever their entities' rows go.
        """
        count = self.partitions
        exchanged = [
            self._report(count, read_and_exchange, split, number=number, partitions=count)
            for number, split in enumerate(splits)
        ]
        width = self.packets_of(projection)
        return [
            self._report(
                width,
                deduplicate_partition,
                name,
                *repeats,
                projection=projection,
                partitions=count,
            )
            for repeats in zip(*exchanged, strict=True)
        ]

    def _report(
        self, count: int, function: Callable[..., Any], *rows: Any, **options: Any
    ) -> list[Any]:
        """The results of a function of the plan but for the first, which is a report."""
        report, *parts = self.call(1 + count, function, self.plan_json, *rows, **options)
        self.reports.append(report)
        return parts


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
    plan_json: str, split: SourceSplit, partitions: int, id_partitions: int = 0
) -> list[ReadReport | Packet | UInts]:
    """The report and one packet a partition; one for all where every partition needs all rows.

    Args:
        plan_json: The plan.
        split: What is read.
        partitions: Partitions by key hash.
        id_partitions: Partitions of the numbers of the events' ids, which follow the packets.
    """
    plan = load_plan(plan_json)
    source = split.read(plan)
    report = ReadReport(
        rows_read=source.rows.height + source.damaged.height,
        damaged=to_packet(source.damaged) if source.damaged.height else None,
        counters=Counters(count_violations(plan, split.source, source.rows)),
    )
    packets = _partition_by_entity(source.rows, split.projection, partitions)
    if source.id_numbers is None:
        # A file without the column: nothing to count.
        return [report, *packets, *([np.empty(0, dtype=np.uint64)] * id_partitions)]
    ids = source.id_numbers.drop_nulls().to_numpy()
    part = ids % np.uint64(max(1, id_partitions))
    return [report, *packets, *(ids[part == number] for number in range(id_partitions))]


def _partition_by_entity(
    rows: pl.DataFrame, projection: SourceProjection, partitions: int
) -> list[Packet]:
    if projection.partition_by is None:
        return [to_packet(rows)]
    return [
        to_packet(part) for part in partition_by_hash(rows, projection.partition_by, partitions)
    ]


def report_repeated_ids(namespace: str, *numbers: UInts) -> ReadReport:
    """A report of the repeats in a partition of a class's ids, which has all with its numbers."""
    repeated = count_repeats(pl.Series(part) for part in numbers)
    # Without zeros: what is in a Counter is printed.
    return ReadReport(0, None, Counters(repeated_ids=+Counter({namespace: repeated})))


def read_and_exchange(
    plan_json: str, split: SourceSplit, number: int, partitions: int
) -> list[ReadReport | Packet]:
    """The report and one packet a partition by what identifies an event, rows numbered.

    Args:
        plan_json: The plan.
        split: What is read.
        number: Of the split in its source.
        partitions: How many.
    """
    rule = split.projection.deduplicate
    assert rule is not None
    source = split.read(load_plan(plan_json))
    report = ReadReport(
        rows_read=source.rows.height + source.damaged.height,
        damaged=to_packet(source.damaged) if source.damaged.height else None,
        counters=Counters(),
    )
    # The order of insertion, in which rows of equal times count, does not survive two shuffles.
    place = (pl.int_range(pl.len(), dtype=pl.Int64) + (number << 32)).alias(_ORDINAL)
    rows = source.rows.with_columns(place)
    return [report, *map(to_packet, partition_by_hash(rows, rule.by, partitions))]


def deduplicate_partition(
    plan_json: str,
    namespace: str,
    *packets: Packet,
    projection: SourceProjection,
    partitions: int,
) -> list[ReadReport | Packet]:
    """A report, and packets as those of ``read_and_partition``, of a partition without repeats.

    Args:
        plan_json: The plan.
        namespace: The source's class.
        packets: The partition's rows, all that may repeat each other, in order of insertion.
        projection: Its columns, and which repeats are left out.
        partitions: Partitions by key hash.
    """
    plan, rule = load_plan(plan_json), projection.deduplicate
    assert rule is not None
    rows = pl.concat(map(from_packet, packets))
    unique = drop_repeats(rows, rule, plan.class_plan(namespace).time)
    dropped = rows.height - unique.height
    unique = unique.select(*projection.columns, _ORDINAL)
    counters = Counters(
        validations=count_violations(plan, namespace, unique.drop(_ORDINAL)),
        deduplicated=+Counter({namespace: dropped}),
    )
    report = ReadReport(rows_read=0, damaged=None, counters=counters)
    return [report, *_partition_by_entity(unique, projection, partitions)]


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
    """Each source's rows as one table, in order of insertion."""
    tables = {name: pl.concat(map(from_packet, packets)) for name, packets in sources.items()}
    return {
        name: rows.sort(_ORDINAL).drop(_ORDINAL) if _ORDINAL in rows.columns else rows
        for name, rows in tables.items()
    }


@lru_cache(maxsize=8)
def load_plan(plan_json: str) -> Plan:
    """The plan; a worker meets the same one many times."""
    return Plan.model_validate_json(plan_json)
