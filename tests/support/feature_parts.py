"""The cluster's computation, one piece after another in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from sunloom.data.shuffle import from_packet, partition_by_hash, to_packet
from sunloom.features.historical import worker as exchange
from sunloom.features.historical.retrieve import questions_of
from sunloom.features.historical.worker import ROW, Notes
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.projection import source_projections
from sunloom.features.sources.splits import chunks_of


def in_parts(
    plan: Plan, sources: Mapping[str, Path], entities: pl.DataFrame, partitions: int
) -> tuple[pl.DataFrame, int]:
    """What the cluster does: answers in order, and source rows read."""
    text, needs = plan.model_dump_json(), source_projections(plan)
    packets: dict[str, list[list]] = {n: [[] for _ in range(partitions)] for n in sources}
    rows_read = 0
    for chunk in chunks_of(plan, sources):
        notes, *cut = exchange.read_and_cut(text, chunk, partitions)
        assert isinstance(notes, Notes)
        rows_read += notes.rows_read
        shared = needs[chunk.source].partition_by is None
        for part, held in enumerate(packets[chunk.source]):
            held.append(cut[0] if shared else cut[part])
    asked = questions_of(plan, entities, sources).with_row_index(ROW)
    answers = []
    for part, rows in enumerate(partition_by_hash(asked, (plan.root.key,), partitions)):
        of_part = {name: held[part] for name, held in packets.items()}
        answers.append(from_packet(exchange.compute(text, to_packet(rows), of_part)[0]))
    return pl.concat(answers).sort(ROW).drop(ROW), rows_read
