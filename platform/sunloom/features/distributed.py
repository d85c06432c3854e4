"""The same plan through Ray Data: rows are cut by key hash, and each part runs the one engine."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from sunloom.data.sources import data_files
from sunloom.errors import ClusterError
from sunloom.features.engine import Engine
from sunloom.features.historical import Historical, appended, check_sources, questions_of
from sunloom.features.plan import Plan
from sunloom.features.requirements import Needs, source_needs
from sunloom.features.tables import SourceRows, conform, read_source_file
from sunloom.features.types import POLARS

if TYPE_CHECKING:
    import pyarrow as pa

DEFAULT_PARTITIONS = 4
ROW = "__row__"
_ENTITIES = "__entities__"
_DAMAGED = "__damaged__"
_READ = "__read__"
_CHUNK_ROWS = 250_000


def historical_ray(
    plan: Plan,
    sources: Mapping[str, Path],
    entities: pl.DataFrame,
    partitions: int = DEFAULT_PARTITIONS,
) -> Historical:
    """Compute on the connected cluster; rows and order are those of the one-process path.

    Files are read, and partitions computed, by workers; the entities' rows go out from and come
    back to this process.
    """
    import ray
    import ray.data

    if not ray.is_initialized():
        raise ClusterError("The Ray engine needs a connected cluster.", "Connect first.")
    check_sources(plan, sources)
    questions = questions_of(plan, entities, sources).with_row_index(ROW).cast({ROW: pl.Int64})
    job = {"plan": plan.model_dump_json(), "partitions": partitions}
    asked = [_entity_packets(plan, part, partitions) for part in _slices(questions)]
    read = ray.data.from_items(_chunks(plan, sources))
    packets = read.map_batches(
        _read_packets, batch_size=1, batch_format="pyarrow", fn_kwargs=job
    ).union(ray.data.from_arrow(asked))
    done = packets.groupby("part", num_partitions=partitions).map_groups(
        _compute_part, batch_format="pyarrow", fn_kwargs={"plan": job["plan"]}
    )
    return _collected(plan, entities, done)


def _collected(plan: Plan, entities: pl.DataFrame, done: Any) -> Historical:
    held: dict[str, list[pl.DataFrame]] = {_ENTITIES: [], _DAMAGED: [], _READ: []}
    for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
        for kind, payload in zip(batch["kind"], batch["payload"], strict=True):
            frame = _unpack(payload.as_py())
            held[kind.as_py()].append(frame)
    table = pl.concat(held[_ENTITIES]).sort(ROW).select(plan.outputs)
    aside = pl.concat(held[_DAMAGED]) if held[_DAMAGED] else pl.DataFrame()
    rows_read = sum(int(frame["rows"][0]) for frame in held[_READ])
    return Historical(appended(entities, table), aside, rows_read)


def _slices(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    if frame.height == 0:
        yield frame
    yield from frame.iter_slices(_CHUNK_ROWS)


def _chunks(plan: Plan, sources: Mapping[str, Path]) -> list[dict[str, Any]]:
    """What one read task reads: a Parquet row group, or a whole file of another kind."""
    import pyarrow.parquet as pq

    chunks: list[dict[str, Any]] = []
    for namespace in source_needs(plan):
        if namespace not in sources:
            continue
        for file in data_files(sources[namespace]):
            groups = pq.read_metadata(file).num_row_groups if file.suffix == ".parquet" else 0
            for group in range(groups) if groups else (-1,):
                place = {"source": namespace, "file": str(file.absolute()), "group": group}
                chunks.append(place | {"seq": len(chunks)})
    return chunks


def _read_packets(batch: pa.Table, *, plan: str, partitions: int) -> pa.Table:
    bound = Plan.model_validate_json(plan)
    packets: list[dict[str, Any]] = []
    for chunk in batch.to_pylist():
        need = source_needs(bound)[chunk["source"]]
        read = _read_chunk(bound, need, chunk)
        rows_read = pl.DataFrame({"rows": [read.rows.height + read.damaged.height]})
        packets.append(_packet(0, _READ, chunk["seq"], rows_read))
        if read.damaged.height:
            packets.append(_packet(0, _DAMAGED, chunk["seq"], read.damaged))
        for part, rows in _cut(read.rows, need.partition_by, partitions):
            packets.append(_packet(part, chunk["source"], chunk["seq"], rows))
    return _packet_table(packets)


def _read_chunk(plan: Plan, need: Needs, chunk: Mapping[str, Any]) -> SourceRows:
    import pyarrow.parquet as pq

    item, file = plan.of(chunk["source"]), Path(chunk["file"])
    if chunk["group"] < 0:
        return read_source_file(item, need.columns, file)
    with pq.ParquetFile(file) as opened:
        known = [name for name in need.columns if name in opened.schema_arrow.names]
        frame = pl.from_arrow(opened.read_row_group(chunk["group"], columns=known))
    assert isinstance(frame, pl.DataFrame)
    return conform(frame, item, need.columns, str(file))


def _cut(
    rows: pl.DataFrame, keys: tuple[str, ...] | None, partitions: int
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Rows by key hash; without keys every partition gets all."""
    if keys is None:
        yield from ((part, rows) for part in range(partitions))
        return
    hashed = pl.struct(pl.col(name).alias(f"k{i}") for i, name in enumerate(keys)).hash(seed=0)
    marked = rows.with_columns((hashed % partitions).cast(pl.Int64).alias("__part__"))
    for (part,), group in marked.group_by("__part__", maintain_order=True):
        yield int(str(part)), group.drop("__part__")


def _entity_packets(plan: Plan, questions: pl.DataFrame, partitions: int) -> pa.Table:
    cut = list(_cut(questions, (plan.root.key,), partitions))
    packets = [_packet(part, _ENTITIES, 0, rows) for part, rows in cut]
    # A partition without questions still answers, with no rows: so a result always has its schema.
    packets.append(_packet(0, _ENTITIES, 0, questions.clear()))
    return _packet_table(packets)


def _compute_part(packets: pa.Table, *, plan: str) -> pa.Table:
    bound = Plan.model_validate_json(plan)
    held: dict[str, list[tuple[int, pl.DataFrame]]] = {}
    for packet in packets.to_pylist():
        frame = _unpack(packet["payload"])
        held.setdefault(packet["kind"], []).append((packet["seq"], frame))
    results = [
        _packet(0, kind, seq, frame)
        for kind in (_DAMAGED, _READ)
        for seq, frame in held.pop(kind, [])
    ]
    asked = held.pop(_ENTITIES, [])
    if asked:
        questions = pl.concat([frame for _, frame in asked])
        answers = _engine(bound, held).answer(questions.drop(ROW))
        results.append(_packet(0, _ENTITIES, 0, answers.hstack([questions[ROW]])))
    return _packet_table(results)


def _engine(plan: Plan, held: Mapping[str, list[tuple[int, pl.DataFrame]]]) -> Engine:
    """Rows of each source in order of insertion; a source with no rows here is an empty table."""
    tables: dict[str, pl.DataFrame] = {}
    for namespace, need in source_needs(plan).items():
        if namespace in held:
            ordered = sorted(held[namespace], key=lambda part: part[0])
            tables[namespace] = pl.concat([frame for _, frame in ordered])
        else:
            item = plan.of(namespace)
            tables[namespace] = pl.DataFrame(
                schema={name: POLARS[item.feature(name).dtype] for name in need.columns}
            )
    return Engine(plan, tables)


def _packet(part: int, kind: str, seq: int, frame: pl.DataFrame) -> dict[str, Any]:
    buffer = io.BytesIO()
    frame.write_ipc(buffer, compression="lz4")
    return {"part": part, "kind": kind, "seq": seq, "payload": buffer.getvalue()}


def _unpack(payload: bytes) -> pl.DataFrame:
    return pl.read_ipc(io.BytesIO(payload))


def _packet_table(packets: list[dict[str, Any]]) -> pa.Table:
    import pyarrow as pa

    schema = pa.schema(
        [
            ("part", pa.int64()),
            ("kind", pa.string()),
            ("seq", pa.int64()),
            ("payload", pa.large_binary()),
        ]
    )
    return pa.Table.from_pylist(packets, schema=schema)
