"""Who does a backfill's partitions: this process, or the connected cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sunloom.core.ray_tasks import map_parts, unwrap_task_errors
from sunloom.data.shuffle import Packet
from sunloom.errors import ClusterError
from sunloom.feature_store.materialization.backfill.part import Counts, PartTask, fill
from sunloom.features.engine.counters import Counters
from sunloom.features.historical import worker as exchange
from sunloom.features.historical.cluster import cut_on_cluster, taken
from sunloom.features.historical.worker import Notes
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.projection import source_projections
from sunloom.features.sources.splits import FileSplit


@dataclass
class Filled:
    """What was read and computed."""

    rows_read: int = 0
    damaged: list[Packet] = field(default_factory=list)
    computed: int = 0
    quarantined: Mapping[str, int] = field(default_factory=dict)
    report: Counters = field(default_factory=Counters)

    @classmethod
    def of(cls, notes: Sequence[Notes]) -> Filled:
        """What reading has to say."""
        damaged = [note.damaged for note in notes if note.damaged is not None]
        return cls(sum(note.rows_read for note in notes), damaged)

    def add(self, done: tuple[int, Counts]) -> None:
        """Add what a partition did."""
        self.computed += done[0]
        self.report.add(Counters.of(done[1]))


Judge = Callable[[Filled], Mapping[str, int]]


def fill_here(
    plan: Plan, chunks: Sequence[FileSplit], works: Sequence[PartTask], judge: Judge
) -> Filled:
    """All partitions in this process."""
    text, partitions = plan.model_dump_json(), works[0].grid.partitions
    needs = source_projections(plan)
    notes: list[Notes] = []
    packets: dict[str, list[list[Any]]] = {chunk.source: [] for chunk in chunks}
    for chunk in chunks:
        note, *cut = exchange.read_and_cut(text, chunk, partitions)
        assert isinstance(note, Notes)
        notes.append(note)
        packets[chunk.source].append(cut)
    filled = Filled.of(notes)
    filled.quarantined = judge(filled)
    for work in works:
        rows = {
            name: [cut[0 if needs[name].partition_by is None else work.part] for cut in held]
            for name, held in packets.items()
        }
        filled.add(fill(work, rows))
    return filled


def fill_on_cluster(
    plan: Plan, chunks: Sequence[FileSplit], works: Sequence[PartTask], judge: Judge
) -> Filled:
    """The same on Ray: one task cuts a chunk of the sources, one of Ray Data fills a partition."""
    import ray

    if not ray.is_initialized():
        raise ClusterError("The Ray engine needs a connected cluster.", "Connect first.")
    with unwrap_task_errors():
        notes, packets = cut_on_cluster(plan, chunks, works[0].grid.partitions)
        filled = Filled.of(ray.get(notes))
        filled.quarantined = judge(filled)
        parts = [
            (work, {name: held[work.part] for name, held in packets.items()}) for work in works
        ]
        for done in map_parts(_fill, parts):
            filled.add(done)
    return filled


def _fill(part: tuple[PartTask, Mapping[str, Sequence[Any]]]) -> tuple[int, Counts]:
    work, rows = part
    return fill(work, taken(rows))
