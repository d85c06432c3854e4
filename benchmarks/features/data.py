"""Tables of the benchmarks: events with ten values, and questions about their keys."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl

from sunloom.features.plan.feature_sets import NOW

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


def as_events(log: pl.DataFrame) -> pl.DataFrame:
    """The rows as the class ``bench_event`` has them."""
    numbered = pl.int_range(log.height, dtype=pl.Int64).alias("id")
    return log.select(numbered, pl.col("id").alias("user_id"), "at", "f0")
