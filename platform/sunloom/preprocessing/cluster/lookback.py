"""Lags, windows and decaying means on a cluster: an entity's rows meet in one worker.

Of each row only its number, the columns that say whose it is, its moment and the columns that are
looked back on travel. They go by Ray tasks to the partition of their entity's hash, through the
object store, which spills what does not fit; what was found goes back to the share of the table
that the row lies in, and waits there in row order for whoever reads the share.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import polars as pl

from sunloom.core.ray_tasks import (
    PARTITION_BYTES,
    STORE_SHARE,
    object_store_bytes,
    unwrap_task_errors,
)
from sunloom.data.shuffle import Packet, from_packet, partition_by_hash, to_packet
from sunloom.errors import UsageError
from sunloom.preprocessing.cluster.precomputed import Recalled, recalled, remembered
from sunloom.preprocessing.operations.history import RowHistory
from sunloom.preprocessing.stages import (
    Stage,
    apply_stages,
    need_whole_table,
    needed_stages,
    schema_after,
)
from sunloom.preprocessing.tables.batches import fitting_rows
from sunloom.preprocessing.tables.splits import Share

if TYPE_CHECKING:
    import pyarrow as pa

Blocks: TypeAlias = list[Any]
"""References to tables of one row: a share and, once known, what looks back from its rows."""

_ROW = "__place__"


@dataclass(frozen=True)
class _LookbackRound:
    """Neighbouring steps that look back over the same entities: one exchange for all.

    Attributes:
        first: Place of the first of them among the stages.
        steps: Key of each and what it computes.
    """

    first: int
    steps: tuple[tuple[str, RowHistory], ...]

    @property
    def by(self) -> tuple[str, ...]:
        return self.steps[0][1].by

    @property
    def inputs(self) -> list[str]:
        return list(dict.fromkeys(name for _, step in self.steps for name in step.inputs))

    @property
    def width(self) -> int:
        """Bytes of a row that travel, there and back; texts are taken for short."""
        return 8 * (1 + len(self.inputs) + sum(len(step.outputs) for _, step in self.steps))


def width_of(stages: Sequence[Stage]) -> int:
    """Bytes of a row that travel because of what looks back."""
    return sum(one.width for one in _rounds(stages))


def packet_bytes() -> float:
    """So much at most had better travel together: the object store holds several of them."""
    return min(PARTITION_BYTES, object_store_bytes() / STORE_SHARE)


def blocks_of(shares: Sequence[Share], stages: Sequence[Stage], schema: pl.Schema) -> Blocks:
    """A block for each share, with everything that looks back already known.

    Args:
        shares: The table's rows.
        stages: What is to be applied to them.
        schema: Columns of the table.

    Raises:
        UsageError: An operation needs the whole table and is not one that looks back.
        DataError: A moment is missing or has no time zone.
    """
    import ray

    blocks: Blocks = [ray.put(block_of(share, None)) for share in shares]
    known = recalled(stages)
    for one in _rounds(stages) if blocks else ():
        blocks = _looked_back(blocks, shares, known[: one.first], one, schema)
    return blocks


def shares_in(block: pa.Table) -> Iterator[tuple[Share, pl.DataFrame | None]]:
    """In a worker: the share of a block, and what looks back from its rows."""
    for row in block.to_pylist():
        share: Share = pickle.loads(row["share"])  # noqa: S301 - the driver's, just made
        yield share, None if row["history"] is None else _table(row["history"])


def _rounds(stages: Sequence[Stage]) -> list[_LookbackRound]:
    rounds: list[_LookbackRound] = []
    for place, stage in enumerate(stages):
        for step in stage:
            if not need_whole_table([(step,)]):
                continue
            if not isinstance(step, RowHistory):
                raise UsageError(
                    f"{step.op} needs the whole table.", "Use --engine polars.", "engine"
                )
            keyed = ((f"{place}:", step),)
            last = rounds[-1] if rounds else None
            if last is not None and _goes_along(step, place, last):
                rounds[-1] = _LookbackRound(last.first, last.steps + keyed)
            else:
                rounds.append(_LookbackRound(place, keyed))
    return rounds


def _goes_along(step: RowHistory, place: int, last: _LookbackRound) -> bool:
    made = {name for _, other in last.steps for name in other.outputs}
    return (
        place == last.first + len(last.steps) and step.by == last.by and not made & set(step.inputs)
    )


def _looked_back(
    blocks: Blocks,
    shares: Sequence[Share],
    before: Sequence[Stage],
    one: _LookbackRound,
    schema: pl.Schema,
) -> Blocks:
    """The blocks, with the round's columns beside those that they hold."""
    import ray

    rows = sum(share.rows for share in shares)
    # An entity's rows must meet; without entities all rows are one series, in one worker.
    parts = max(2, math.ceil(rows * one.width / packet_bytes())) if one.by else 1
    needed, raw = needed_stages(before, one.inputs)
    columns = [name for name in schema if name in raw] or list(schema)[:1]
    after = schema_after(schema, [*_operations(before)])
    wanted = pl.Schema({name: after[name] for name in one.inputs})
    send = ray.remote(_send).options(num_returns=1 + parts)
    look, gather = ray.remote(_look), ray.remote(_gather)
    # One after another, and references let go, so that a round's packets do not outlive it.
    with unwrap_task_errors():
        sent = [send.remote(block, columns, needed, wanted, one.by, parts) for block in blocks]
        ray.get([notes for notes, *_ in sent])
        places = [share.first for share in shares] + [rows]
        look = look.options(num_returns=1 + len(blocks))
        found = [look.remote(one, places, [own[1 + part] for own in sent]) for part in range(parts)]
        ray.get([notes for notes, *_ in found])
        del sent
        gathered = [
            gather.remote(block, [own[1 + place] for own in found])
            for place, block in enumerate(blocks)
        ]
        ray.wait(gathered, num_returns=len(gathered), fetch_local=False)
    return gathered


def _operations(stages: Iterable[Stage]) -> Iterator[Stage]:
    """Stages whose recalled operations are the real ones again."""
    for stage in stages:
        yield tuple(op.operation if isinstance(op, Recalled) else op for op in stage)


def _send(
    block: pa.Table,
    columns: Sequence[str],
    before: Sequence[Stage],
    wanted: pl.Schema,
    by: tuple[str, ...],
    parts: int,
) -> list[int | Packet]:
    """In a worker: rows of a share, and of them a packet for each partition."""
    ((share, history),) = shares_in(block)
    held = []
    for chunk in share.chunks(columns):
        place = chunk.first - share.first
        known = None if history is None else history.slice(place, chunk.rows.height)
        rows = apply_stages(chunk.rows, remembered(before, known)).select(list(wanted))
        numbers = pl.int_range(chunk.first, chunk.first + rows.height, dtype=pl.Int64, eager=True)
        held.append(_plain(fitting_rows(rows, wanted)).with_columns(numbers.alias(_ROW)))
    rows = pl.concat(held)
    return [rows.height, *(to_packet(part) for part in partition_by_hash(rows, by, parts))]


def _plain(rows: pl.DataFrame) -> pl.DataFrame:
    # A category's number, and so its hash, may differ from file to file.
    named = [name for name, dtype in rows.schema.items() if dtype in (pl.Categorical, pl.Enum)]
    return rows.cast(dict.fromkeys(named, pl.String)) if named else rows


def _look(one: _LookbackRound, places: Sequence[int], packets: Sequence[Any]) -> list[int | Packet]:
    """In a worker: what looks back from the rows of a partition, a packet for each share."""
    import ray

    rows = pl.concat([from_packet(ray.get(packet)) for packet in packets])
    made = [rows[_ROW]]
    for key, step in one.steps:
        made += [
            column.alias(f"{key}{name}")
            for name, column in zip(step.outputs, step.columns(rows), strict=True)
        ]
    table = pl.DataFrame(made)
    ends = np.searchsorted(rows[_ROW].to_numpy(), places).tolist()
    return [
        table.height,
        *(to_packet(table.slice(start, end - start)) for start, end in pairwise(ends)),
    ]


def _gather(block: pa.Table, packets: Sequence[Any]) -> pa.Table:
    """In a worker: a share's block, with what was found in the order of its rows."""
    import ray

    ((share, history),) = shares_in(block)
    table = pl.concat([from_packet(ray.get(packet)) for packet in packets]).sort(_ROW).drop(_ROW)
    return block_of(share, table if history is None else history.hstack(table))


def block_of(share: Share, history: pl.DataFrame | None) -> pa.Table:
    """A share and what looks back from its rows, as a table of one row."""
    import pyarrow as pa

    held = None if history is None else to_packet(history).tobytes()
    columns = {"share": [pickle.dumps(share)], "history": pa.array([held], pa.large_binary())}
    return pa.table(columns)


def _table(held: bytes) -> pl.DataFrame:
    return from_packet(np.frombuffer(held, dtype=np.uint8))
