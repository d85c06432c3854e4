"""Point-in-time joins and windows against Polars, in one process and one run.

    .venv/bin/python -m benchmarks.features.point_in_time --events 1000000 --rows 200000

Prints CPU seconds and ratios as JSON; ours / peer, so below 1 is faster.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from sunloom.features.catalogue import plan_of
from sunloom.features.engine import Engine
from sunloom.features.lowering import NOW

DEFINITIONS = "benchmarks.features.definitions"
WINDOWS_DAYS = (1, 7, 30)
SPAN_US = 30 * 86_400_000_000


def tables(events: int, rows: int, keys: int, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events with ten values, and questions, both uniform over keys and 30 days."""
    rng = np.random.default_rng(seed)
    start = np.datetime64(datetime(2026, 1, 1), "us")

    def moments(count: int) -> pl.Series:
        drawn = start + rng.integers(0, SPAN_US, count).astype("timedelta64[us]")
        return pl.Series(drawn).dt.replace_time_zone("UTC")

    values = {f"f{i}": rng.normal(size=events) for i in range(10)}
    log = pl.DataFrame({"id": rng.integers(0, keys, events), "at": moments(events), **values})
    asked = pl.DataFrame({"id": rng.integers(0, keys, rows), NOW: moments(rows)})
    return log, asked


def latest(log: pl.DataFrame, asked: pl.DataFrame) -> dict[str, Any]:
    """The latest of ten values at each question, against ``join_asof``."""
    plan = plan_of(DEFINITIONS, "bench_user")

    def ours() -> pl.DataFrame:
        return Engine(plan, {"bench_user": log}).answer(asked)

    def polars() -> pl.DataFrame:
        left = asked.rename({NOW: "at"}).with_row_index().sort("at")
        joined = left.join_asof(log.sort("at"), on="at", by="id", strategy="backward")
        return joined.sort("index")

    return _compare(ours, polars, lambda a, b: bool(a["f3"].equals(b["f3"])))


def windows(log: pl.DataFrame, asked: pl.DataFrame) -> dict[str, Any]:
    """Three windows of sum and count, against a join and a group-by."""
    plan = plan_of(DEFINITIONS, "bench_account")
    events = log.select(
        pl.int_range(log.height).alias("id"), pl.col("id").alias("user_id"), "at", "f0"
    )

    def ours() -> pl.DataFrame:
        return Engine(plan, {"bench_event": events}).answer(asked)

    def polars() -> pl.DataFrame:
        numbered = asked.with_row_index()
        pairs = numbered.join(events, left_on="id", right_on="user_id")
        visible = pairs.filter(pl.col("at") <= pl.col(NOW))
        inside = {days: pl.col("at") > pl.col(NOW) - timedelta(days=days) for days in WINDOWS_DAYS}
        counts = [inside[days].sum().alias(f"c{days}") for days in WINDOWS_DAYS]
        sums = [pl.col("f0").filter(inside[d]).sum().alias(f"s{d}") for d in WINDOWS_DAYS]
        grouped = visible.group_by("index").agg(*counts, *sums)
        return numbered.join(grouped, on="index", how="left", maintain_order="left")

    return _compare(ours, polars, _windows_equal)


def _windows_equal(mine: pl.DataFrame, peer: pl.DataFrame) -> bool:
    counts = all(
        (mine[f"count__{days * 86400}__"] == peer[f"c{days}"].fill_null(0)).all()
        for days in WINDOWS_DAYS
    )
    gaps = [
        (mine[f"total__{days * 86400}__"] - peer[f"s{days}"].fill_null(0)).abs().max()
        for days in WINDOWS_DAYS
    ]
    return bool(counts and max(float(gap or 0) for gap in gaps) < 1e-9)


def _compare(
    ours: Callable[[], pl.DataFrame],
    peer: Callable[[], pl.DataFrame],
    equal: Callable[[pl.DataFrame, pl.DataFrame], bool],
    repeats: int = 3,
) -> dict[str, Any]:
    times: dict[str, list[float]] = {"ours": [], "polars": []}
    frames = {}
    for _ in range(repeats):  # in turn, so that a machine's moods meet both
        for name, run in (("ours", ours), ("polars", peer)):
            start = _cpu_s()
            frames[name] = run()
            times[name].append(_cpu_s() - start)
    mine, other = min(times["ours"]), min(times["polars"])
    return {
        "ours_cpu_s": round(mine, 3),
        "polars_cpu_s": round(other, 3),
        "ratio": round(mine / other, 3),
        "equal": equal(frames["ours"], frames["polars"]),
    }


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run both comparisons and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--keys", type=int, default=10_000)
    options = parser.parse_args()
    start = time.perf_counter()
    log, asked = tables(options.events, options.rows, options.keys)
    result = {
        "events": options.events,
        "rows": options.rows,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "latest_values": latest(log, asked),
        "three_windows": windows(log, asked),
        "wall_s": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
