"""A worker's two steps as plain functions: partition a split's rows, and compute a partition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import polars as pl

from sunloom.data.shuffle import Packet, from_packet, partition_by_hash, to_packet
from sunloom.features.engine.counters import Counters
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.engine.row_validation import count_violations
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.sources.scan import SourceSplit

ROW = "__row__"
"""Column of query rows and their results: the row's number."""


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
