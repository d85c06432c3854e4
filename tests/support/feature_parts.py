"""The cluster's computation, one piece after another in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from sunloom.data.shuffle import from_packet, partition_by_hash, to_packet
from sunloom.features.historical import worker
from sunloom.features.historical.query_frame import build_query_frame
from sunloom.features.historical.worker import ROW, ReadReport
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.sources.scan import open_scan


def in_parts(
    plan: Plan, sources: Mapping[str, Path], entities: pl.DataFrame, partitions: int
) -> tuple[pl.DataFrame, int]:
    """What the cluster does: answers in order, and source rows read."""
    text = plan.model_dump_json()
    packets: dict[str, list[list]] = {}
    rows_read = 0
    for split in open_scan(plan, sources).splits:
        report, *parts = worker.read_and_partition(text, split, partitions)
        assert isinstance(report, ReadReport)
        rows_read += report.rows_read
        is_shared = split.projection.partition_by is None
        of_source = packets.setdefault(split.source, [[] for _ in range(partitions)])
        for part, held in enumerate(of_source):
            held.append(parts[0] if is_shared else parts[part])
    query = build_query_frame(plan, entities, has_source=plan.namespace in sources)
    asked = query.with_row_index(ROW)
    answers = []
    for part, rows in enumerate(partition_by_hash(asked, (plan.root.key,), partitions)):
        of_part = {name: held[part] for name, held in packets.items()}
        answers.append(from_packet(worker.compute_partition(text, to_packet(rows), of_part)[0]))
    return pl.concat(answers).sort(ROW).drop(ROW), rows_read
