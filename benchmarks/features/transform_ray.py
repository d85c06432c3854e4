"""Fit and prepare a folder of rows on Ray, against the Polars engine on the same node.

    .venv/bin/python -m benchmarks.features.transform_ray --rows 10000000 --write

The recipe and the rows are those of ``benchmarks.features.transform``. Each arm runs in a process
of its own, fits, and writes the prepared training rows to one file; both may use all cores. Ray's
cluster is up before the clock starts, its workers are not: their imports count. CPU seconds are
those of the driver and of every process under it, Ray's own included. Then a file several times as
large as the object store is prepared, with what looks back over an entity's rows too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
from polars.testing import assert_frame_equal

from benchmarks.features.measure import circumstances, peak_bytes, report
from benchmarks.features.ray_path import cluster
from benchmarks.features.transform import NUMBERS, STEPS, frame_of, make_rows

RESULTS = Path(__file__).parents[1] / "results" / "transform_ray.json"
HISTORY: list[dict[str, Any]] = [
    {"type": kind, "columns": columns, "time": "at", "by": ["c0"], **how}
    for kind, columns, how in (
        ("lags", ["n0"], {"periods": [1, 2]}),
        ("rolling", ["n1"], {"windows": ["7d"]}),
        ("expanding", ["n1"], {"aggregations": ["max"]}),
    )
]
_FILE_ROWS = 1_000_000
_GROUP_ROWS = 100_000
_YEAR_S = 365 * 86_400
_EVERY_S = 0.2


@dataclass
class Watch:
    """What this process and those under it use.

    Attributes:
        cpu: CPU seconds by process id.
        worker_bytes: The most that one Ray worker was seen to hold, shared pages left out.
        workers_bytes: The most that all of them held at one time.
        store_bytes: The most in the object store.
        spilled_bytes: Written from the object store to disk.
    """

    cpu: dict[int, float] = field(default_factory=dict)
    worker_bytes: int = 0
    workers_bytes: int = 0
    store_bytes: int = 0
    spilled_bytes: int = 0

    def look(self) -> None:
        """Take one sample."""
        held = []
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            try:
                used = process.cpu_times()
                self.cpu[process.pid] = used.user + used.system
                if process.name().startswith("ray::"):
                    memory = process.memory_info()
                    held.append(memory.rss - memory.shared)
            except psutil.Error:
                continue
        self.worker_bytes = max(self.worker_bytes, *held, 0)
        self.workers_bytes = max(self.workers_bytes, sum(held))

    def look_at_store(self, host: str, port: int) -> None:
        """Take one sample of the object store of the node that answers there."""
        from ray._private.internal_api import get_memory_info_reply

        stats = get_memory_info_reply(None, host, port).store_stats
        self.store_bytes = max(self.store_bytes, stats.object_store_bytes_used)
        self.spilled_bytes = max(self.spilled_bytes, stats.spilled_bytes_total)


@contextmanager
def watched(with_store: bool) -> Iterator[Watch]:
    """Sample until the block ends."""
    watch, done = Watch(), threading.Event()
    stores = _stores() if with_store else []

    def run() -> None:
        while not done.wait(_EVERY_S):
            watch.look()
            for store in stores:
                watch.look_at_store(*store)

    watch.look()
    before = sum(watch.cpu.values())
    sampler = threading.Thread(target=run, daemon=True)
    sampler.start()
    try:
        yield watch
    finally:
        done.set()
        sampler.join()
        watch.look()
        watch.cpu[-1] = -before


def _stores() -> list[tuple[str, int]]:
    import ray

    return [(node["NodeManagerAddress"], node["NodeManagerPort"]) for node in ray.nodes()]


def arm(engine: str, rows: Path, out: Path, store_mb: int) -> dict[str, Any]:
    """One engine's figures."""
    from sunloom.config import Settings, load_config
    from sunloom.config.preprocessing.transformations import PreparationConfig, PreparationRecipe
    from sunloom.preprocessing.job import fit_file

    recipe = PreparationRecipe.model_validate({"transformations": STEPS})
    request = PreparationConfig(
        input=rows,
        artifact=out.with_suffix(""),
        out=out,
        engine=engine,
    )
    settings = load_config(Settings).config
    is_ray = engine == "ray"
    state = out.parent / "ray"
    with cluster(state, store_mb << 20, 2) if is_ray else nullcontext(), watched(is_ray) as watch:
        start = time.perf_counter()
        result = fit_file(settings, recipe.transformations, request)
        wall_s = time.perf_counter() - start
    found = {
        "wall_s": wall_s,
        "cpu_s": sum(watch.cpu.values()),
        "driver_peak_mib": peak_bytes() / 2**20,
        "rank_error": result.rank_error,
        "rows": result.rows_out,
    }
    if is_ray:
        found["largest_worker_mib"] = watch.worker_bytes / 2**20
        found["workers_peak_mib"] = watch.workers_bytes / 2**20
        found["store_peak_mib"] = watch.store_bytes / 2**20
        found["spilled_mib"] = watch.spilled_bytes / 2**20
    return {key: round(value, 6 if key == "rank_error" else 1) for key, value in found.items()}


def in_own_process(engine: str, rows: Path, out: Path, store_mb: int) -> dict[str, Any]:
    """One engine's figures, measured in a process that has done nothing else."""
    command = [sys.executable, "-m", "benchmarks.features.transform_ray", "--store-mb"]
    command += [str(store_mb), "--arm", engine, str(rows), str(out)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def beyond_the_store(folder: Path, store_mb: int, times: float) -> dict[str, Any]:
    """Rows that many times the object store: prepared as the Polars engine does, to the bit."""
    from sunloom.preprocessing.cluster.fit_transform import read_ray, write_prepared_ray
    from sunloom.preprocessing.fit import fit
    from sunloom.preprocessing.tables import open_source
    from sunloom.preprocessing.transform import write_prepared

    source, out = folder / "large.parquet", folder / "out.parquet"
    size = _large_file(source, int(store_mb * times) << 20)
    fitted = {}
    with cluster(folder / "ray", store_mb << 20, 2), watched(with_store=True) as watch:
        start = time.perf_counter()
        for name, steps in (("recipe.parquet", STEPS), ("history.parquet", HISTORY)):
            fitted[name] = fit(steps, source, reader=read_ray)
            write_prepared_ray(fitted[name], open_source(source), folder / name, training=True)
        wall_s = time.perf_counter() - start
    peak = peak_bytes()
    for name, one in fitted.items():
        rows = write_prepared(one, open_source(source), out, training=True)
        assert pl.read_parquet(folder / name).equals(pl.read_parquet(out)), name
    return {
        "store_mib": store_mb,
        "file_mib": size >> 20,
        "times_the_store": round(size / (store_mb << 20), 1),
        "rows": rows,
        "wall_s": round(wall_s, 1),
        "driver_peak_mib": peak >> 20,
        "largest_worker_mib": watch.worker_bytes >> 20,
        "store_peak_mib": watch.store_bytes >> 20,
        "spilled_mib": watch.spilled_bytes >> 20,
        "equal": True,
    }


def _large_file(path: Path, size: int) -> int:
    """Rows with moments until the file is that large, written group by group."""
    import pyarrow.parquet as pq

    writer, seed = None, 0
    while writer is None or path.stat().st_size < size:
        seconds = np.random.default_rng(seed).integers(0, _YEAR_S, _GROUP_ROWS)
        at = pl.Series("at", seconds * 1_000_000).cast(pl.Datetime("us", "UTC"))
        rows = frame_of(_GROUP_ROWS, seed).with_columns(at).to_arrow()
        writer = writer or pq.ParquetWriter(path, rows.schema, compression="none")
        writer.write_table(rows)
        seed += 1
    writer.close()
    return path.stat().st_size


def _require_same(a: Path, b: Path) -> None:
    """The rows of both files, a few at a time: to 1e-9, and to 1e-3 behind a sketch's median."""
    sizes = [pl.scan_parquet(path).select(pl.len()).collect().item() for path in (a, b)]
    assert sizes[0] == sizes[1], sizes
    for first in range(0, sizes[0], _FILE_ROWS):
        one, other = (pl.scan_parquet(path).slice(first, _FILE_ROWS).collect() for path in (a, b))
        assert_frame_equal(one.drop(NUMBERS), other.drop(NUMBERS), rel_tol=1e-9, abs_tol=1e-9)
        assert_frame_equal(one[NUMBERS], other[NUMBERS], rel_tol=1e-3, abs_tol=1e-3)


def compare(folder: Path, rows: int, repeats: int, store_mb: int) -> dict[str, Any]:
    """Both engines in turn, the best of several turns each."""
    source = folder / "rows"
    source.mkdir()
    for place, first in enumerate(range(0, rows, _FILE_ROWS)):
        part = source / f"part-{place:04d}.parquet"
        make_rows(part, min(_FILE_ROWS, rows - first), seed=place)
    outs = {engine: folder / f"{engine}.parquet" for engine in ("polars", "ray")}
    runs: dict[str, list[dict[str, Any]]] = {engine: [] for engine in outs}
    for _ in range(repeats):
        for engine, found in runs.items():
            found.append(in_own_process(engine, source, outs[engine], store_mb))
            print(engine, found[-1], file=sys.stderr, flush=True)
    _require_same(*outs.values())
    best = {engine: min(found, key=lambda one: one["wall_s"]) for engine, found in runs.items()}
    ratios = {key: round(best["ray"][key] / best["polars"][key], 2) for key in ("wall_s", "cpu_s")}
    return {
        "store_mib": store_mb,
        **best,
        "ratios": ratios,
        "equal_to": {"encoded": 1e-9, "scaled": 1e-3},
    }


def main() -> None:
    """Run both engines and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--store-mb", type=int, default=200)
    parser.add_argument("--beyond-mb", type=int, default=80, help="store for the large file")
    parser.add_argument("--times", type=float, default=4.1)
    parser.add_argument("--only-spill", action="store_true", help="only the file beyond the store")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--arm", nargs=3, metavar=("ENGINE", "ROWS", "OUT"))
    options = parser.parse_args()
    if options.arm:
        engine, rows, out = options.arm
        print(json.dumps(arm(engine, Path(rows), Path(out), options.store_mb)))
        return
    result: dict[str, Any] = {
        "rows": options.rows,
        "columns": "20 numbers (5 % gaps), 3 categories of 1,000 levels, 2 of 20",
        **circumstances("ray", "polars", "numpy"),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # First, while this process has held nothing else.
        large = beyond_the_store(folder, options.beyond_mb, options.times)
        if not options.only_spill:
            result |= compare(folder, options.rows, options.repeats, options.store_mb)
    report(result | {"beyond_the_store": large}, RESULTS if options.write else None)


if __name__ == "__main__":
    main()
