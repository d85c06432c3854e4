"""Features of rows as a Ray Dataset: blocks stay where they were computed, ready to stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from sunloom.core.ray_tasks import object_store_bytes, unwrap_task_errors
from sunloom.data.shuffle import Packet, from_packet, partition_by_hash, to_packet
from sunloom.errors import ClusterError
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.historical import worker as exchange
from sunloom.features.historical.cluster import (
    DEFAULT_PARTITIONS,
    cut_on_cluster,
    partitions_for,
    taken,
)
from sunloom.features.historical.retrieve import check_sources, questions_of
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.sources.splits import chunks_of

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data


def historical_dataset(
    plan: Plan,
    sources: Mapping[str, Path],
    entities: pl.DataFrame,
    partitions: int = DEFAULT_PARTITIONS,
) -> ray.data.Dataset:
    """The rows of ``historical_ray`` as a Ray Dataset; rows stand by partition, not in order.

    Only the entities' rows pass through this process; answers stay in the object store, so the
    result may be larger than any one machine's memory.

    Args:
        plan: What to compute.
        sources: Namespace to the file or folder with its rows.
        entities: Key and ``event_time`` of each row, and what is carried along.
        partitions: Blocks at least; more where the sources are large.

    Raises:
        ClusterError: No cluster is connected.
    """
    import ray
    import ray.data

    if not ray.is_initialized():
        raise ClusterError("A Ray Dataset needs a connected cluster.", "Connect first.")
    check_sources(plan, sources)
    questions = questions_of(plan, entities, sources)
    carried = entities.select(pl.all().name.prefix(_CARRIED))
    chunks = chunks_of(plan, sources)
    parts = partitions_for(chunks, partitions, object_store_bytes())
    with unwrap_task_errors():
        notes, packets = cut_on_cluster(plan, chunks, parts)
        ray.get(notes)
        task, text = ray.remote(_answered), plan.model_dump_json()
        blocks = []
        rows = partition_by_hash(questions.hstack(carried), (plan.root.key,), parts)
        for part, asked in enumerate(rows):
            held = {name: of_source[part] for name, of_source in packets.items()}
            blocks.append(task.remote(text, ray.put(to_packet(asked)), held))
        return ray.data.from_arrow_refs(blocks)


_CARRIED = "__carried__"


def _answered(plan_json: str, asked: Packet, rows: Mapping[str, Sequence[Any]]) -> pa.Table:
    """In a worker: the part's rows with one column a feature appended, as one block."""
    plan = exchange.plan_from(plan_json)
    tables = {name: exchange.table_of(plan, name, held) for name, held in taken(rows).items()}
    frame = from_packet(asked)
    answers = FeatureEngine(plan, tables).answer(frame.select(pl.exclude(f"^{_CARRIED}.*$")))
    entities = frame.select(pl.col(f"^{_CARRIED}.*$").name.map(_without_prefix))
    fresh = [name for name in answers.columns if name not in entities.columns]
    table = entities.hstack(answers.select(fresh))
    return table.to_arrow(compat_level=pl.CompatLevel.oldest())


def _without_prefix(name: str) -> str:
    return name.removeprefix(_CARRIED)
