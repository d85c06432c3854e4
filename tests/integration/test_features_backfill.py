"""Backfills and data sets on real Ray, and files beyond the object store."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from patience import patience
from polars.testing import assert_frame_equal

from sunloom.config.features import FeaturesRecipe
from sunloom.errors import DataError
from sunloom.feature_store.materialization.backfill import backfill
from sunloom.features.definitions.open import plan_of
from sunloom.features.historical.cluster import historical_dataset
from sunloom.features.historical.retrieve import historical_polars
from sunloom.features.sources.scan import open_scan

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
CLASSES = str(ROOT / "tests" / "unit" / "features" / "chalk_classes.py")
START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def _recipe(folder: Path, engine: str) -> dict:
    folder.mkdir(exist_ok=True)
    file = folder.parent / "sales.parquet"
    if not file.exists():
        draw = np.random.default_rng(1)
        rows = 3_000
        at = [START + timedelta(minutes=int(m)) for m in draw.integers(0, 40 * 1440, rows)]
        frame = {
            "id": np.arange(rows),
            "shop_id": [f"shop {i}" for i in draw.integers(0, 40, rows)],
            "at": at,
            "price": draw.normal(20, 9, rows),
            "units": draw.integers(-3, 9, rows),
            "paid": draw.random(rows) < 0.5,
            "label": [f"l{i}" for i in draw.integers(0, 5, rows)],
        }
        table = pl.DataFrame(frame).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))
        table.write_parquet(file, row_group_size=700)
    return {
        "paths": {"outputs": str(folder / "outputs"), "state": str(folder / "state")},
        "cluster": {"num_cpus": 2, "object_store_bytes": 100_000_000, "dashboard": False},
        "definitions": CLASSES,
        "feature_set": "sl_shop",
        "feature_store": {"batch_source": {"type": "files", "tables": {"sl_sale": str(file)}}},
        "backfill": {
            "start": str(START + 5 * DAY),
            "end": str(START + 35 * DAY),
            "every": "6h",
            "chunk": "12h",
        },
        "execution": {"engine": engine, "partitions": 6},
    }


def _published(folder: Path) -> dict[str, tuple[int, int]]:
    files = folder.glob("outputs/features/*/backfill/*/data/*/part*.parquet")
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def _settled(folder: Path) -> dict[str, tuple[int, int]]:
    """What is published once the killed process's workers have noticed."""
    before = _published(folder)
    while True:
        time.sleep(3.0)
        after = _published(folder)
        if after == before:
            return after
        before = after


def _contents(folder: Path) -> dict[str, bytes]:
    return {"/".join(Path(f).parts[-2:]): Path(f).read_bytes() for f in _published(folder)}


@pytest.mark.timeout(600)
@pytest.mark.faults(kills=1, share=0.03)
def test_killed_on_ray_and_resumed_it_is_the_unbroken_run(
    ray_local: str, tmp_path: Path, fault_seed: int
) -> None:
    least = random.Random(fault_seed).randint(10, 200)
    here, there = tmp_path / "polars", tmp_path / "ray"
    unbroken = backfill(FeaturesRecipe.model_validate(_recipe(here, "polars")))
    recipe = _recipe(there, "ray")
    (there / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    # A process of its own with a cluster of its own, as a user has; both end with the kill.
    command = [Path(sys.executable).with_name("sunloom"), "features", "backfill"]
    process = subprocess.Popen(
        [*map(str, command), "--recipe", str(there / "recipe.yaml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    deadline = time.monotonic() + patience(200)
    while len(_published(there)) < least and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    whole = _settled(there)
    assert least <= len(whole) < 360
    done = backfill(FeaturesRecipe.model_validate(recipe))
    assert done.engine == "ray"
    assert done.chunks == unbroken.chunks == 60 * 6
    assert done.kept == len(whole)
    after = _published(there)
    assert {name: after[name] for name in whole} == whole
    assert _contents(there) == _contents(here)
    assert (done.rows, done.computed) == (unbroken.rows, 360 - len(whole))


def test_a_ray_dataset_holds_the_rows_of_one_process(ray_local: str, tmp_path: Path) -> None:
    _recipe(tmp_path / "any", "polars")
    plan, sources = plan_of(CLASSES, "sl_shop"), {"sl_sale": tmp_path / "sales.parquet"}
    draw = np.random.default_rng(3)
    moments = [START + timedelta(hours=int(h)) for h in draw.integers(0, 900, 400)]
    entities = pl.DataFrame(
        {
            "label": np.arange(400),
            "id": [f"shop {i}" for i in draw.integers(0, 45, 400)],
            "event_time": moments,
        }
    ).with_columns(pl.col("event_time").cast(pl.Datetime("us", "UTC")))
    data = historical_dataset(open_scan(plan, sources), entities, partitions=5)
    assert data.count() == 400
    found = pl.concat(
        [pl.from_arrow(b) for b in data.iter_batches(batch_format="pyarrow", batch_size=None)]
    )
    expected = historical_polars(open_scan(plan, sources), entities).table
    assert found.columns == expected.columns
    assert_frame_equal(found.sort("label"), expected, rel_tol=1e-9, abs_tol=1e-12)


def test_a_workers_error_is_raised_as_it_was(ray_local: str, tmp_path: Path) -> None:
    recipe = FeaturesRecipe.model_validate(_recipe(tmp_path / "any", "ray"))
    file = tmp_path / "sales.parquet"
    pl.read_parquet(file).with_columns(pl.lit(True).alias("units")).write_parquet(file)
    with pytest.raises(DataError, match=r"column 'units' is Boolean.*sl_sale\.units is int64"):
        backfill(recipe)
    assert not _published(tmp_path / "any")


@pytest.mark.timeout(600)
def test_a_file_four_times_the_object_store() -> None:
    options = ["--only-spill", "--store-mb", "80", "--times", "4.05"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.features.ray_path", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout[done.stdout.index("{") :])["beyond_the_store"]
    assert result["equal"]
    assert result["times_the_store"] >= 4
    assert result["largest_worker_mb"] < 1_000
