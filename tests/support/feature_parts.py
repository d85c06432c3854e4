"""The cluster's computation, one piece after another in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from sunloom.config.data import Deduplication
from sunloom.data.shuffle import from_packet, partition_by_hash, to_packet
from sunloom.features.historical import cluster
from sunloom.features.historical.cluster import ROW
from sunloom.features.historical.query import build_query_frame
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.sources.scan import open_scan


def in_parts(
    plan: Plan,
    sources: Mapping[str, Path],
    entities: pl.DataFrame,
    partitions: int,
    deduplicate: Mapping[str, Deduplication] | None = None,
) -> tuple[pl.DataFrame, int]:
    """What the cluster does: rows with their features in order, and source rows read."""
    shuffled = cluster.shuffle_here(open_scan(plan, sources, deduplicate), partitions)
    query = build_query_frame(plan, entities, has_source=plan.namespace in sources)
    query = query.with_row_index(ROW)
    results = []
    for number, rows in enumerate(partition_by_hash(query, (plan.root.key,), partitions)):
        packets = shuffled.partition(number)
        result = cluster.compute_partition(plan.model_dump_json(), to_packet(rows), packets)
        results.append(from_packet(result.features))
    rows_read = sum(report.rows_read for report in shuffled.reports)
    return pl.concat(results).sort(ROW).drop(ROW), rows_read
