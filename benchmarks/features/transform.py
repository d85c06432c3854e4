"""Fit and transform a million rows, and one row, against a scikit-learn ``Pipeline``.

    .venv/bin/python -m benchmarks.features.transform --rows 1000000

Each arm runs in a process of its own and reads the same Parquet file: ours fits, then writes the
prepared training rows to a file; scikit-learn fits and transforms in memory. CPU seconds are of
the work after imports; the peak is the whole process's. Ratios are ours / scikit-learn's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

NUMBERS = [f"n{i}" for i in range(20)]
ENCODED, HOT = ["c0", "c1", "c2"], ["c3", "c4"]
STEPS: list[dict[str, Any]] = [
    {"type": "simple_imputer", "columns": NUMBERS, "strategy": "median"},
    {"type": "robust_scaler", "columns": NUMBERS},
    {"type": "target_encoder", "columns": ENCODED, "target": "y"},
    {"type": "one_hot_encoder", "columns": HOT},
]


def make_rows(path: Path, rows: int, seed: int = 0) -> None:
    """A Parquet file of ``frame_of``."""
    frame_of(rows, seed).write_parquet(path)


def frame_of(rows: int, seed: int = 0) -> pl.DataFrame:
    """Twenty numbers with gaps, three categories of 1,000 levels, two of 20, a 0/1 target."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for name in NUMBERS:
        values = rng.lognormal(1, 1, rows)
        values[rng.random(rows) < 0.05] = np.nan
        columns[name] = pl.Series(values, nan_to_null=True)
    for name, levels in zip(ENCODED + HOT, (1000, 1000, 1000, 20, 20), strict=True):
        columns[name] = pl.Series([f"level {i}" for i in range(levels)]).gather(
            rng.integers(0, levels, rows)
        )
    columns["y"] = (rng.random(rows) < 0.3).astype(np.int64)
    return pl.DataFrame(columns)


def ours(path: Path) -> dict[str, Any]:
    """Fit, and write the prepared training rows."""
    from sunloom.preprocessing.fit import fit
    from sunloom.preprocessing.tables import open_source
    from sunloom.preprocessing.transform import write_prepared

    start = _used()
    fitted = fit(STEPS, path)
    middle = _used()
    source, out = open_source(path), path.with_name("prepared.parquet")
    rows = write_prepared(fitted, source, out, training=True)
    spent, one = _used(), pl.read_parquet(path, n_rows=1).row(0, named=True)
    return {
        "fit_cpu_s": middle[0] - start[0],
        "cpu_s": spent[0] - start[0],
        "wall_s": spent[1] - start[1],
        "peak_mib": _peak_mib(),
        "one_row_us": _each_us(lambda: fitted.apply_row(one), 20_000),
        "rows": rows,
    }


def peer(path: Path) -> dict[str, Any]:
    """The same recipe as a scikit-learn pipeline."""
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, RobustScaler, TargetEncoder

    start = _used()
    frame = pd.read_parquet(path)
    model = ColumnTransformer(
        [
            ("n", make_pipeline(SimpleImputer(strategy="median"), RobustScaler()), NUMBERS),
            ("t", TargetEncoder(), ENCODED),
            ("h", OneHotEncoder(handle_unknown="ignore"), HOT),
        ]
    )
    prepared = model.fit_transform(frame, frame["y"])
    spent, one = _used(), frame.iloc[:1]
    return {
        "cpu_s": spent[0] - start[0],
        "wall_s": spent[1] - start[1],
        "peak_mib": _peak_mib(),
        "one_row_us": _each_us(lambda: model.transform(one), 200),
        "rows": int(prepared.shape[0]),
    }


def _used() -> tuple[float, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, time.perf_counter()


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _each_us(call: Any, times: int) -> float:
    call()
    start = _used()[0]
    for _ in range(times):
        call()
    return (_used()[0] - start) / times * 1e6


def in_own_process(arm: str, path: Path) -> dict[str, Any]:
    """One arm's figures."""
    command = [sys.executable, "-m", "benchmarks.features.transform", "--arm", arm, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Run both arms in turn and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--arm", nargs=2, metavar=("NAME", "FILE"))
    options = parser.parse_args()
    if options.arm:
        run = {"ours": ours, "sklearn": peer}[options.arm[0]]
        print(json.dumps(run(Path(options.arm[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        make_rows(path, options.rows)
        runs: dict[str, list[dict[str, Any]]] = {"ours": [], "sklearn": []}
        for _ in range(options.repeats):
            for arm, found in runs.items():
                found.append(in_own_process(arm, path))
    best = {
        arm: {key: round(min(run[key] for run in found), 2) for key in found[0]}
        for arm, found in runs.items()
    }
    keys = ("cpu_s", "wall_s", "peak_mib", "one_row_us")
    ratios = {key: round(best["ours"][key] / best["sklearn"][key], 3) for key in keys}
    result = {
        "rows": options.rows,
        "columns": "20 numbers (5 % gaps), 3 categories of 1,000 levels, 2 of 20",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **best,
        "ratios": ratios,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
