"""Drift of 20 features over 100,000 rows: Evidently, PSI written in Polars, ours, and histograms.

    .venv/bin/python -m benchmarks.features.drift --write

Prints CPU seconds and ratios as JSON; ours / peer, so below 1 is faster. All PSI figures are on
Evidently's binning and compared with its own; the stored histograms have bins of their own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.features.measure import circumstances, in_turn, report, wall_s
from sunloom.config import load_config
from sunloom.config.data import DriftConfig
from sunloom.config.monitoring import WatchConfig
from sunloom.config.settings import Settings
from sunloom.core.database import open_database
from sunloom.core.telemetry import silence_libraries
from sunloom.data.quality.drift import drift_report
from sunloom.monitoring.findings import drift_findings
from sunloom.monitoring.histogram_store import HistogramStore
from sunloom.monitoring.histograms import Bins, build_bins, count_rows
from sunloom.monitoring.windows import TimeSpan

RESULTS = Path(__file__).parents[1] / "results" / "drift.json"
START = datetime(2026, 1, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)


def table(rows: int, features: int, seed: int, shift: float) -> pl.DataFrame:
    """Numbers of four shapes; every fourth feature moves by ``shift``."""
    random = np.random.default_rng(seed)
    shapes: list[Callable[[], Any]] = [
        lambda: random.normal(shift, 1, rows),
        lambda: random.lognormal(0, 1, rows),
        lambda: random.gamma(2, 2, rows),
        lambda: random.integers(0, 12, rows).astype(np.float64),
    ]
    return pl.DataFrame({f"f{n:02}": shapes[n % 4]() for n in range(features)})


def polars_psi(reference: pl.DataFrame, current: pl.DataFrame) -> list[float]:
    """PSI of each column, as one writes it in Polars: Sturges' bins, or values up to 20."""
    return [_polars_psi(reference[name], current[name]) for name in reference.columns]


def _polars_psi(before: pl.Series, after: pl.Series) -> float:
    if before.n_unique() <= 20:
        shares = [s.alias("v").value_counts(normalize=True, name="p") for s in (before, after)]
        both = shares[0].join(shares[1], on="v", how="full")
        one, other = (both[name].fill_null(0).to_numpy() for name in ("p", "p_right"))
    else:
        low, high = min(before.min(), after.min()), max(before.max(), after.max())  # type: ignore[type-var]
        bins = int(np.ceil(np.log2(len(before) + len(after)) + 1))
        edges = np.linspace(low, high, bins + 1)  # type: ignore[arg-type]
        counts = [
            s.hist(bins=list(edges), include_category=False)["count"] for s in (before, after)
        ]
        one, other = (count.to_numpy() / count.sum() for count in counts)
    one, other = np.where(one == 0, 1e-4, one), np.where(other == 0, 1e-4, other)
    return float(((one - other) * np.log(one / other)).sum())


def from_tables(reference: pl.DataFrame, current: pl.DataFrame, repeats: int) -> dict[str, Any]:
    """Whole tables compared in the three ways."""

    def ours(engine: str) -> list[float]:
        report = drift_report(reference, current, DriftConfig.model_validate({"engine": engine}))
        return [feature.value for feature in report.features]

    taken, values = in_turn(
        {"sunloom": lambda: ours("direct"), "polars": lambda: polars_psi(reference, current)},
        repeats,
    )
    ours("evidently")
    peer, theirs = in_turn({"evidently": lambda: ours("evidently")}, 2)
    furthest = max(abs(a - b) for a, b in zip(values["sunloom"], theirs["evidently"], strict=True))
    cpu = taken | peer
    return {
        "cpu_s": cpu,
        "ratio": {name: round(cpu["sunloom"] / cpu[name], 3) for name in ("polars", "evidently")},
        "furthest_from_evidently": furthest,
    }


def from_histograms(
    reference: pl.DataFrame, current: pl.DataFrame, folder: Path, repeats: int
) -> dict[str, Any]:
    """One day of 24 stored hours against a stored reference, read anew each time."""
    sets = [f"paths.state={folder}"]
    settings = load_config(Settings, sets=sets, environ={}).config
    config = WatchConfig.model_validate({"name": "bench", "source": {"path": "-"}})
    bins: Bins = build_bins(reference, reference.columns, 20)
    history = HistogramStore(open_database(settings), "bench", bins)
    counting_s, whole = wall_s(lambda: count_rows(reference, bins))
    history.put_reference(whole)
    size = -(-current.height // 24)
    parts = [current.slice(n * size, size) for n in range(24)]
    history.put({START + n * HOUR: count_rows(part, bins) for n, part in enumerate(parts)})

    def judge() -> int:
        now = history.read([TimeSpan(START, START + 24 * HOUR)])
        findings = drift_findings(history.read_reference(), now, bins, config)
        return sum(one.flagged for one in findings)

    judge()
    walls = [wall_s(judge) for _ in range(repeats)]
    times = sorted(1000 * wall for wall, _ in walls)
    return {
        "milliseconds_p50": round(statistics.median(times), 2),
        "milliseconds_best": round(times[0], 2),
        "drifted": walls[0][1],
        "counting_s": round(counting_s, 4),
        "bytes_an_hour": len(count_rows(parts[0], bins).encode()),
    }


def main() -> None:
    """Measure and print; keep the results with ``--write``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    silence_libraries()
    reference = table(options.rows, options.features, 1, 0.0)
    current = table(options.rows, options.features, 2, 0.5)
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "rows": options.rows,
            "features": options.features,
            **circumstances("polars", "evidently", "numpy"),
            "tables": from_tables(reference, current, options.repeats),
            "histograms": from_histograms(reference, current, Path(folder), options.repeats),
        }
    report(result, RESULTS if options.write else None)


if __name__ == "__main__":
    main()
