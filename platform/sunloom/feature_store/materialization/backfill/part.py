"""One partition of a backfill: its rows are sorted once, then asked chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from sunloom.data.shuffle import Packet, from_packet, partition_by_hash
from sunloom.feature_store.materialization.backfill.entities import known_since, of_span, on_grid
from sunloom.feature_store.materialization.backfill.grid import Grid, TimeRange
from sunloom.feature_store.materialization.backfill.publish import chunk_path, publish
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.historical.worker import plan_from, table_of
from sunloom.features.plan.columns import EVENT_TIME, NOW
from sunloom.features.plan.feature_sets import Plan

Counts = dict[str, dict[str, int]]


@dataclass(frozen=True)
class PartTask:
    """What one partition has to do.

    Attributes:
        plan_json: The plan.
        grid: Moments and partitions of the whole backfill.
        folder: Of the backfill.
        part: The partition.
        missing: Chunks that are not there yet.
        asked: Keys, or keys with moments; None where the sources say who is there.
    """

    plan_json: str
    grid: Grid
    folder: str
    part: int
    missing: Sequence[TimeRange]
    asked: Packet | None


def fill(work: PartTask, rows: Mapping[str, Iterable[Packet]]) -> tuple[int, Counts]:
    """Compute and publish the missing chunks.

    Args:
        work: What to do.
        rows: Namespace to packets in order of insertion, taken one after another.

    Returns:
        Chunks written, and the counts of the engine's report.
    """
    plan = plan_from(work.plan_json)
    tables = {name: table_of(plan, name, held) for name, held in rows.items()}
    engine = FeatureEngine(plan, tables)
    keys = _keys(work, plan, tables)
    for span in work.missing:
        own = NOW in keys.columns
        asked = of_span(keys, span) if own else on_grid(keys, work.grid, span)
        table = asked.select(plan.root.key, pl.col(NOW).alias(EVENT_TIME))
        answers = engine.answer(asked)
        path = chunk_path(Path(work.folder), span, work.part)
        publish(table.hstack(answers), path)
    return len(work.missing), engine.report.counts()


def _keys(work: PartTask, plan: Plan, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    if work.asked is not None:
        return from_packet(work.asked)
    known = known_since(plan, tables)
    # Rows that could not be cut by key bear the keys of every partition.
    return list(partition_by_hash(known, (plan.root.key,), work.grid.partitions))[work.part]
