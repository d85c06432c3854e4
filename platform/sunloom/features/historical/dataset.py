"""Features of rows as a Ray Dataset: blocks stay where they were computed, ready to stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from sunloom.core.ray_tasks import object_store_bytes, require_cluster, unwrap_task_errors
from sunloom.data.shuffle import Packet, from_packet, partition_by_hash, to_packet
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.historical.cluster import (
    DEFAULT_PARTITIONS,
    iter_packets,
    partition_count,
    shuffle_sources,
)
from sunloom.features.historical.query_frame import append_features, build_query_frame
from sunloom.features.historical.worker import join_packets, load_plan
from sunloom.features.sources.scan import SourceScan

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data

_CARRIED = "__carried__"


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
