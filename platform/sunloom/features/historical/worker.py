"""What workers do, as plain functions: read a chunk and cut it, put a part together and compute.

Tables travel as Arrow IPC, so that a worker copies them into its own memory and the object store
may drop or spill them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import polars as pl

from sunloom.data.shuffle import Packet, from_packet, partition_by_hash, to_packet
from sunloom.features.engine.counters import Counters
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.engine.row_validation import count_violations
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.polars_dtypes import POLARS
from sunloom.features.plan.projection import source_projections
from sunloom.features.sources.splits import FileSplit, read_chunk

ROW = "__row__"
"""Column of questions and answers: the row's number."""


@dataclass(frozen=True)
class Notes:
    """What reading a chunk has to say besides its rows."""

    rows_read: int
    damaged: Packet | None
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def read_and_cut(plan_json: str, chunk: FileSplit, partitions: int) -> list[Notes | Packet]:
    """Notes and one packet a partition; one for all where the rows cannot be cut by key."""
    plan = plan_from(plan_json)
    need = source_projections(plan)[chunk.source]
    read = read_chunk(plan, need, chunk)
    damaged = to_packet(read.damaged) if read.damaged.height else None
    report = Counters(count_violations(plan, chunk.source, read.rows))
    notes = Notes(read.rows.height + read.damaged.height, damaged, report.counts())
    if need.partition_by is None:
        return [notes, to_packet(read.rows)]
    return [
        notes,
        *(to_packet(rows) for rows in partition_by_hash(read.rows, need.partition_by, partitions)),
    ]


def compute(
    plan_json: str, questions: Packet, rows: Mapping[str, Iterable[Packet]]
) -> tuple[Packet, dict[str, dict[str, int]]]:
    """A part's answers with ``ROW``, and the counts of its report.

    Args:
        plan_json: The plan.
        questions: The part's questions with ``ROW``.
        rows: Namespace to packets in order of insertion, taken one after another.
    """
    plan = plan_from(plan_json)
    asked = from_packet(questions)
    engine = FeatureEngine(plan, {name: table_of(plan, name, held) for name, held in rows.items()})
    answers = engine.answer(asked.drop(ROW)).hstack([asked[ROW]])
    return to_packet(answers), engine.report.counts()


def table_of(plan: Plan, namespace: str, packets: Iterable[Packet]) -> pl.DataFrame:
    """A source's rows, put together; with the declared columns where there is no packet."""
    frames = [from_packet(packet) for packet in packets]
    if frames:
        return pl.concat(frames)
    item, names = plan.class_plan(namespace), source_projections(plan)[namespace].columns
    return pl.DataFrame(schema={name: POLARS[item.feature(name).dtype] for name in names})


def reported(counts: Iterable[Mapping[str, Mapping[str, int]]]) -> Counters:
    """The parts' reports as one."""
    whole = Counters()
    for one in counts:
        whole.add(Counters.of(one))
    return whole


@lru_cache(maxsize=8)
def plan_from(plan_json: str) -> Plan:
    """The plan; a worker meets the same one many times."""
    return Plan.model_validate_json(plan_json)
