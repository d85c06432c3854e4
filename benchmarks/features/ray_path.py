"""The cluster's path against the one-process path on one node, and files beyond the object store.

    .venv/bin/python -m benchmarks.features.ray_path --write

Wall seconds, the best of several turns; both may use all cores. Starts private Ray clusters.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
from polars.testing import assert_frame_equal

from benchmarks.features.data import as_events, tables
from benchmarks.features.measure import circumstances, report, wall_s
from sunloom.config import Settings, load_config
from sunloom.core.cluster import connect, disconnect
from sunloom.core.processes import own_processes
from sunloom.features.definitions.open import plan_of
from sunloom.features.historical.cluster import historical_ray
from sunloom.features.historical.retrieve import historical_polars
from sunloom.features.plan.feature_sets import NOW
from sunloom.features.sources.scan import open_scan

DEFINITIONS = "benchmarks.features.definitions"
RESULTS = Path(__file__).parents[1] / "results" / "ray_path.json"
_GROUP_ROWS = 250_000
_BLOCK_ROWS = 2_000_000


@contextmanager
def cluster(folder: Path, store_bytes: int, cores: int) -> Iterator[None]:
    """A private Ray with an object store of that size."""
    sets = [
        f"paths.state={folder / 'state'}",
        f"paths.outputs={folder / 'outputs'}",
        f"cluster.object_store_bytes={store_bytes}",
        f"cluster.num_cpus={cores}",
        "cluster.dashboard=false",
    ]
    with own_processes():
        connect(load_config(Settings, sets=sets).config)
        try:
            yield
        finally:
            disconnect()


def against_polars(folder: Path, events: int, repeats: int) -> dict[str, Any]:
    """Three windows of sum and count, file to rows, on keys alike and on one key with everything.

    Called with a connected cluster.
    """
    result: dict[str, Any] = {}
    for name, keys in (("even_keys", events // 100), ("one_key", 1)):
        log, asked = tables(events, events // 5, keys)
        source = folder / f"{name}.parquet"
        as_events(log).write_parquet(source, row_group_size=_GROUP_ROWS)
        del log
        result[name] = _in_turn(source, asked.rename({NOW: "event_time"}), repeats)
        source.unlink()
    return result


def _in_turn(source: Path, entities: pl.DataFrame, repeats: int) -> dict[str, Any]:
    plan, sources = plan_of(DEFINITIONS, "bench_account"), {"bench_event": source}
    runs: Mapping[str, Callable[[], Any]] = {
        "polars": lambda: historical_polars(open_scan(plan, sources), entities).table,
        "ray": lambda: historical_ray(open_scan(plan, sources), entities).table,
    }
    taken: dict[str, list[float]] = {name: [] for name in runs}
    tables_: dict[str, pl.DataFrame] = {}
    for _ in range(repeats):
        for name, run in runs.items():
            seconds, tables_[name] = wall_s(run)
            taken[name].append(seconds)
    assert_frame_equal(tables_["polars"], tables_["ray"], rel_tol=1e-9, abs_tol=1e-9)
    best = {name: round(min(seconds), 2) for name, seconds in taken.items()}
    return {
        "rows": entities.height,
        "wall_s": best,
        "first_ray_s": round(taken["ray"][0], 2),
        "ratio": round(best["ray"] / best["polars"], 2),
        "equal": True,
    }


def beyond_the_store(
    folder: Path, store_bytes: int, times: float, cores: int = 2
) -> dict[str, Any]:
    """A file that many times the object store, on a cluster of its own; values are checked."""
    source, keys = folder / "large.parquet", 1_000
    size = _large_file(source, int(store_bytes * times), keys)
    entities = tables(10, 2_000, keys)[1].rename({NOW: "event_time"})
    plan, sources = plan_of(DEFINITIONS, "bench_account"), {"bench_event": source}
    with cluster(folder, store_bytes, cores), _largest_child() as largest:
        seconds, result = wall_s(lambda: historical_ray(open_scan(plan, sources), entities))
    expected = historical_polars(open_scan(plan, sources), entities).table
    assert_frame_equal(result.table, expected, rel_tol=1e-9, abs_tol=1e-9)
    return {
        "store_mb": store_bytes >> 20,
        "file_mb": size >> 20,
        "times_the_store": round(size / store_bytes, 1),
        "rows_read": result.rows_read,
        "wall_s": round(seconds, 1),
        "largest_worker_mb": largest[0] >> 20,
        "equal": True,
    }


def _large_file(path: Path, size: int, keys: int) -> int:
    """Random events until the file is that large, written group by group."""
    import pyarrow.parquet as pq

    rng = np.random.default_rng(1)
    writer, block = None, 0
    while writer is None or path.stat().st_size < size:
        log, _ = tables(min(_BLOCK_ROWS, size // 64), 1, keys, seed=int(rng.integers(2**31)))
        arrow = as_events(log).to_arrow()
        writer = writer or pq.ParquetWriter(path, arrow.schema, compression="none")
        writer.write_table(arrow, row_group_size=_GROUP_ROWS)
        block += 1
    writer.close()
    return path.stat().st_size


@contextmanager
def _largest_child(every_s: float = 0.1) -> Iterator[list[int]]:
    """The most memory (without shared pages) that one child process was seen to hold."""
    largest, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(every_s):
            for child in psutil.Process().children(recursive=True):
                try:
                    if child.name().startswith("ray::"):
                        memory = child.memory_info()
                        largest[0] = max(largest[0], memory.rss - memory.shared)
                except psutil.Error:
                    continue

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield largest
    done.set()
    watcher.join()


def main() -> None:
    """Run all parts, print JSON and, if wanted, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--store-mb", type=int, default=100)
    parser.add_argument("--times", type=float, default=4.2)
    parser.add_argument("--only-spill", action="store_true", help="only the file beyond the store")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        result = {"events": options.events, **circumstances("ray", "polars", "numpy")}
        if not options.only_spill:
            with cluster(folder / "even", 1 << 30, cores=2):
                result |= against_polars(folder, options.events, options.repeats)
        large = beyond_the_store(folder, options.store_mb << 20, options.times)
        report(result | {"beyond_the_store": large}, RESULTS if options.write else None)


if __name__ == "__main__":
    main()
