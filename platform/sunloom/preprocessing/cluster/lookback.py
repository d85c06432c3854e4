"""Lags, windows and weighted means on a cluster: an entity's rows meet in one worker.

Of each row only its number, entity key, timestamp and the columns that are looked back on travel.
They go by Ray tasks to the partition of their entity's hash, through the object store, which spills
what does not fit; the results go back to the split that the row is in, in row order.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import polars as pl
from polars import selectors

from sunloom.core.ray_tasks import (
    PARTITION_BYTES,
    STORE_SHARE,
    object_store_bytes,
    unwrap_task_errors,
)
from sunloom.data.shuffle import Packet, from_packet, partition_by_hash, to_packet
from sunloom.errors import DataError, UsageError
from sunloom.preprocessing.operations.history import RowHistory
from sunloom.preprocessing.operations.protocol import Operation, RowFunction, Training
from sunloom.preprocessing.pipeline import Stage, apply_stages, needed_stages, schema_after
from sunloom.preprocessing.tables import Batch, TableSplit, widen_integers

if TYPE_CHECKING:
    import pyarrow as pa

Blocks: TypeAlias = list[Any]
"""References to tables of one row: a split and, once computed, the results of its rows."""

_ROW = "__place__"


@dataclass(frozen=True)
class Precomputed(Operation):
    """Operation in place of one that needs the whole table: takes its columns from a frame.

    Attributes:
        key: Leading part of the names of its columns in that frame.
        operation: The operation it stands for.
        results: The columns of the rows at hand.
    """

    op: ClassVar[str] = "precomputed"
    key: str
    operation: Operation
    results: pl.DataFrame | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Nothing: its columns are known."""
        return ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The columns that the operation makes."""
        return self.operation.outputs

    def columns(self, _frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """The columns of the rows at hand."""
        if self.results is None:
            raise DataError(f"{self.operation.op} is not known for these rows.")
        return [self.results[f"{self.key}{name}"].alias(name) for name in self.outputs]

    def row_function(self) -> RowFunction:
        """The operation's own."""
        return self.operation.row_function()


def precompute(stages: Sequence[Stage]) -> list[Stage]:
    """The stages, where operations that need the whole table are ``Precomputed``."""
    return [
        tuple(Precomputed(f"{index}:", op) if op.whole else op for op in stage)
        for index, stage in enumerate(stages)
    ]


def attach_results(stages: Sequence[Stage], results: pl.DataFrame | None) -> list[Stage]:
    """The stages, where ``Precomputed`` operations know the columns of some rows."""
    return [
        tuple(
            Precomputed(op.key, op.operation, results) if isinstance(op, Precomputed) else op
            for op in stage
        )
        for stage in stages
    ]


def restore_operations(stages: Sequence[Stage]) -> list[Stage]:
    """The stages with the operations that ``Precomputed`` stands for."""
    return [
        tuple(op.operation if isinstance(op, Precomputed) else op for op in stage)
        for stage in stages
    ]


@dataclass(frozen=True)
class _LookbackRound:
    """Neighbouring steps that look back over the same entities: one exchange for all.

    Attributes:
        first: Index of the first of them among the stages.
        steps: Key of each and what it computes.
    """

    first: int
    steps: tuple[tuple[str, RowHistory], ...]

    @property
    def entity_key(self) -> tuple[str, ...]:
        """Columns of the entity key."""
        return self.steps[0][1].by

    @property
    def inputs(self) -> list[str]:
        """Columns that travel."""
        return list(dict.fromkeys(name for _, step in self.steps for name in step.inputs))

    @property
    def row_bytes(self) -> int:
        """Bytes of a row that travel, there and back; texts are taken for short."""
        return 8 * (1 + len(self.inputs) + sum(len(step.outputs) for _, step in self.steps))

    def accepts(self, step: RowHistory, index: int) -> bool:
        """Whether the step at this index can join: it follows, and reads none of the results."""
        made = {name for _, other in self.steps for name in other.outputs}
        is_next = index == self.first + len(self.steps)
        return is_next and step.by == self.entity_key and not made & set(step.inputs)


def lookback_row_bytes(stages: Sequence[Stage]) -> int:
    """Bytes of a row that travel because of steps that look back."""
    return sum(round_.row_bytes for round_ in _rounds_of(stages))


def packet_bytes() -> float:
    """Bytes that may travel together: the object store holds several of them."""
    return min(PARTITION_BYTES, object_store_bytes() / STORE_SHARE)


def build_blocks(
    splits: Sequence[TableSplit], stages: Sequence[Stage], schema: pl.Schema
) -> Blocks:
    """A block for each split, with the results of everything that looks back.

    Args:
        splits: The table's rows.
        stages: What is to be applied to them.
        schema: Columns of the table.

    Raises:
        UsageError: An operation needs the whole table and is not one that looks back.
        DataError: A timestamp is missing or has no time zone.
    """
    import ray

    blocks: Blocks = [ray.put(to_block(split, None)) for split in splits]
    precomputed = precompute(stages)
    for round_ in _rounds_of(stages) if blocks else ():
        blocks = _run_round(blocks, splits, precomputed[: round_.first], round_, schema)
    return blocks


def split_of(block: pa.Table) -> tuple[TableSplit, pl.DataFrame | None]:
    """In a worker: the split of a block, and the results of its rows."""
    (row,) = block.to_pylist()
    split: TableSplit = pickle.loads(row["split"])  # noqa: S301 - the driver's, just made
    packed = row["results"]
    return split, None if packed is None else from_packet(np.frombuffer(packed, dtype=np.uint8))


def batches_with_results(
    split: TableSplit,
    stages: Sequence[Stage],
    results: pl.DataFrame | None,
    columns: Sequence[str] | None,
) -> Iterator[tuple[Batch, list[Stage]]]:
    """A split's batches, each with the stages that know the results of its rows."""
    for batch in split.batches(columns):
        start = batch.first - split.first
        own = None if results is None else results.slice(start, batch.rows.height)
        yield batch, attach_results(stages, own)


def _rounds_of(stages: Sequence[Stage]) -> list[_LookbackRound]:
    rounds: list[_LookbackRound] = []
    for index, stage in enumerate(stages):
        for step in stage:
            if not step.whole:
                continue
            if not isinstance(step, RowHistory):
                raise UsageError(
                    f"{step.op} needs the whole table.", "Use --engine polars.", "engine"
                )
            keyed = ((f"{index}:", step),)
            if rounds and rounds[-1].accepts(step, index):
                rounds[-1] = _LookbackRound(rounds[-1].first, rounds[-1].steps + keyed)
            else:
                rounds.append(_LookbackRound(index, keyed))
    return rounds


def _run_round(
    blocks: Blocks,
    splits: Sequence[TableSplit],
    before: Sequence[Stage],
    round_: _LookbackRound,
    schema: pl.Schema,
) -> Blocks:
    """The blocks, with the round's results beside those that they hold."""
    import ray

    rows = sum(split.rows for split in splits)
    # An entity's rows must meet; without entities all rows are one series, in one worker.
    is_keyed = bool(round_.entity_key)
    partitions = max(2, math.ceil(rows * round_.row_bytes / packet_bytes())) if is_keyed else 1
    stages, raw = needed_stages(before, round_.inputs)
    # A table without any column has no rows: the first one is read where none is needed.
    columns = tuple(name for name in schema if name in raw) or tuple(schema)[:1]
    after = schema_after(schema, restore_operations(before))
    sender = _Sender(
        columns=columns,
        stages=stages,
        schema=pl.Schema({name: after[name] for name in round_.inputs}),
        entity_key=round_.entity_key,
        partitions=partitions,
    )
    send = ray.remote(_send).options(num_returns=1 + partitions)
    look_back = ray.remote(_look_back).options(num_returns=1 + len(blocks))
    gather = ray.remote(_gather)
    # One after another, and references let go, so that a round's packets do not outlive it.
    with unwrap_task_errors():
        sent = [send.remote(block, sender) for block in blocks]
        # The small first results only: packets stay in the object store.
        ray.get([height for height, *_ in sent])
        starts = [split.first for split in splits] + [rows]
        results = [
            look_back.remote(round_, starts, [packets[1 + number] for packets in sent])
            for number in range(partitions)
        ]
        ray.get([height for height, *_ in results])
        del sent
        gathered = [
            gather.remote(block, [packets[1 + number] for packets in results])
            for number, block in enumerate(blocks)
        ]
        ray.wait(gathered, num_returns=len(gathered), fetch_local=False)
    return gathered


@dataclass(frozen=True)
class _Sender:
    """What a worker needs to send the rows of a split to their partitions.

    Attributes:
        columns: Columns of the table to read.
        stages: Stages before the round that its inputs depend on.
        schema: Columns that travel.
        entity_key: Columns whose hash is the partition.
        partitions: Number of partitions.
    """

    columns: tuple[str, ...]
    stages: list[Stage]
    schema: pl.Schema
    entity_key: tuple[str, ...]
    partitions: int


def _send(block: pa.Table, sender: _Sender) -> list[int | Packet]:
    """In a worker: number of rows of a split, and of them a packet for each partition."""
    split, results = split_of(block)
    parts = []
    for batch, stages in batches_with_results(split, sender.stages, results, sender.columns):
        rows = apply_stages(batch.rows, stages).select(list(sender.schema))
        numbers = pl.int_range(batch.first, batch.first + rows.height, dtype=pl.Int64, eager=True)
        # A category's number, and so its hash, may differ from file to file.
        categories = selectors.by_dtype(pl.Categorical, pl.Enum).cast(pl.String)
        rows = widen_integers(rows, sender.schema).with_columns(categories, numbers.alias(_ROW))
        parts.append(rows)
    rows = pl.concat(parts)
    partitions = partition_by_hash(rows, sender.entity_key, sender.partitions)
    return [rows.height, *map(to_packet, partitions)]


def _look_back(
    round_: _LookbackRound, starts: Sequence[int], packets: Sequence[Any]
) -> list[int | Packet]:
    """In a worker: the results of a partition's rows, a packet for each split."""
    import ray

    rows = pl.concat([from_packet(ray.get(packet)) for packet in packets])
    columns = [rows[_ROW]]
    for key, step in round_.steps:
        columns += [
            column.alias(f"{key}{name}")
            for name, column in zip(step.outputs, step.columns(rows), strict=True)
        ]
    table = pl.DataFrame(columns)
    # Packets come in the splits' order, and a split's rows in theirs: row numbers rise.
    ends = np.searchsorted(rows[_ROW].to_numpy(), starts).tolist()
    parts = (table.slice(start, end - start) for start, end in pairwise(ends))
    return [table.height, *map(to_packet, parts)]


def _gather(block: pa.Table, packets: Sequence[Any]) -> pa.Table:
    """In a worker: a split's block, with the results in the order of its rows."""
    import ray

    split, results = split_of(block)
    table = pl.concat([from_packet(ray.get(packet)) for packet in packets]).sort(_ROW).drop(_ROW)
    return to_block(split, table if results is None else results.hstack(table))


def to_block(split: TableSplit, results: pl.DataFrame | None) -> pa.Table:
    """A split and the results of its rows, as a table of one row."""
    import pyarrow as pa

    packed = None if results is None else to_packet(results).tobytes()
    columns = {"split": [pickle.dumps(split)], "results": pa.array([packed], pa.large_binary())}
    return pa.table(columns)
