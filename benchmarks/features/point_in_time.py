"""Point-in-time joins and windows against Polars, DuckDB and Feast, in one run.

    .venv/bin/python -m benchmarks.features.point_in_time --feast-python VENV/bin/python --write

Prints CPU seconds and ratios as JSON; ours / peer, so below 1 is faster. Feast lives in an
environment of its own (it does not resolve beside this project's pins):

    python3.11 -m venv VENV && VENV/bin/pip install feast==0.67.0 'ibis-framework[duckdb]'
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.features.data import as_events, tables
from benchmarks.features.measure import circumstances, in_turn, report
from benchmarks.features.peers import (
    LATEST_SQL,
    WINDOWS_DAYS,
    WINDOWS_SQL,
    duckdb_answers,
    polars_latest,
    polars_windows,
)
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.feature_sets import NOW

DEFINITIONS = "benchmarks.features.definitions"
RESULTS = Path(__file__).parents[1] / "results" / "point_in_time.json"
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
FEAST_INSTALL = (
    "python3.11 -m venv VENV && VENV/bin/pip install feast==0.67.0 ibis-framework[duckdb]"
)
Equal = Callable[[pl.DataFrame, pl.DataFrame], bool]


def latest(log: pl.DataFrame, asked: pl.DataFrame, repeats: int = 5) -> dict[str, Any]:
    """The latest of ten values at each question."""
    plan = plan_of(DEFINITIONS, "bench_user")
    runs = {
        "sunloom": lambda: FeatureEngine(plan, {"bench_user": log}).compute(asked),
        "polars": lambda: polars_latest(log, asked),
        "duckdb": lambda: duckdb_answers(LATEST_SQL, asked, log=log),
    }
    return _compared(runs, _latest_equal, repeats) | {"rows": asked.height}


def windows(log: pl.DataFrame, asked: pl.DataFrame, repeats: int = 3) -> dict[str, Any]:
    """Sum and count over three windows at each question."""
    plan, events = plan_of(DEFINITIONS, "bench_account"), as_events(log)
    runs = {
        "sunloom": lambda: FeatureEngine(plan, {"bench_event": events}).compute(asked),
        "polars": lambda: polars_windows(events, asked),
        "duckdb": lambda: duckdb_answers(WINDOWS_SQL, asked, events=events),
    }
    return _compared(runs, _windows_equal, repeats)


def growth(sizes: tuple[int, ...] = SIZES, repeats: int = 3) -> dict[str, Any]:
    """CPU seconds of the windows by number of events: a fifth as many questions, 100 a key.

    ``slope`` is the fitted line's on logarithmic scales (1 is linear), ``steepest`` the largest
    between neighbouring sizes.
    """
    plan = plan_of(DEFINITIONS, "bench_account")
    taken: dict[int, float] = {}
    for size in sizes:
        log, asked = tables(size, size // 5, max(1, size // 100))
        sources = {"bench_event": as_events(log)}
        del log
        times, _ = in_turn(
            {"sunloom": lambda: FeatureEngine(plan, sources).compute(asked)},  # noqa: B023
            repeats,
        )
        taken[size] = times["sunloom"]
    slopes = [math.log(taken[b] / taken[a]) / math.log(b / a) for a, b in pairwise(sizes)]
    logs = [[math.log(value) for value in pair] for pair in taken.items()]
    fitted = statistics.linear_regression(*zip(*logs, strict=True)).slope
    return {
        "cpu_s": {str(size): seconds for size, seconds in taken.items()},
        "slope": round(fitted, 3),
        "steepest": round(max(slopes), 3),
    }


def from_files(log: pl.DataFrame, asked: pl.DataFrame, feast: Path | None) -> dict[str, Any]:
    """Files to rows in a process of its own: CPU seconds, rows and peak memory."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        events, rows = folder / "events.parquet", folder / "rows.parquet"
        log.write_parquet(events)
        asked.rename({NOW: "event_timestamp"}).write_parquet(rows)
        named = folder / "entities.parquet"
        asked.rename({NOW: "event_time"}).write_parquet(named)
        ours = _printed([sys.executable, "-m", f"{__package__}.one_retrieval", events, named])
        result: dict[str, Any] = {"sunloom": ours}
        if feast is None:
            return result | {"feast": f"skipped; install: {FEAST_INSTALL}"}
        script = Path(__file__).with_name("feast_peer.py")
        for offline in ("dask", "duckdb"):
            command = [feast, script, events, rows, folder / offline, offline]
            result[f"feast_{offline}"] = _printed(command)
        return result


def _printed(command: list[Any]) -> dict[str, Any]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return printed


def _compared(
    runs: Mapping[str, Callable[[], pl.DataFrame]], equal: Equal, repeats: int
) -> dict[str, Any]:
    times, frames = in_turn(runs, repeats)
    ours = times["sunloom"]
    peers = [name for name in runs if name != "sunloom"]
    return {
        "cpu_s": times,
        "ratio": {name: round(ours / times[name], 3) for name in peers},
        "equal": all(equal(frames["sunloom"], frames[name]) for name in peers),
    }


def _latest_equal(mine: pl.DataFrame, peer: pl.DataFrame) -> bool:
    return mine.equals(peer.select(mine.columns))


def _windows_equal(mine: pl.DataFrame, peer: pl.DataFrame) -> bool:
    counts = all(
        (mine[f"count__{days * 86400}__"] == peer[f"c{days}"]).all() for days in WINDOWS_DAYS
    )
    gaps = [
        (mine[f"total__{days * 86400}__"] - peer[f"s{days}"]).abs().max() for days in WINDOWS_DAYS
    ]
    return bool(counts and max(float(str(gap)) for gap in gaps) < 1e-9)


def main() -> None:
    """Run all comparisons, print JSON and, if wanted, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--feast-python", type=Path, help="interpreter that has Feast")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    log, asked = tables(options.events, options.rows, options.keys)
    result = {
        "events": options.events,
        "rows": options.rows,
        "keys": options.keys,
        **circumstances("polars", "duckdb", "numpy"),
        "latest_values": latest(log, asked),
        "three_windows": windows(log, asked),
        "from_files": from_files(log, asked, options.feast_python),
        "growth": growth(),
    }
    report(result, RESULTS if options.write else None)


if __name__ == "__main__":
    main()
