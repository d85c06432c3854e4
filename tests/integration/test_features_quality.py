"""A stranger's Parquet and recipe through the command line: a broken column, a report, a gate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from commands import Outcome, run_here

pytestmark = pytest.mark.integration
SUNLOOM = Path(sys.executable).parent / "sunloom"
Here = Callable[..., Outcome]
RECIPE = """
transformations:
  numerical_scaling: {method: robust_scaler}
validation:
  quality_checks: {completeness_threshold: 0.95, uniqueness_threshold: 0.99}
  drift_detection: {threshold: 0.1}
  columns:
    price: {type: float64, min: 0, max: 500}
    country: {allowed: [de, fr, pl]}
"""


def _table(rows: int = 2_000, seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "id": np.arange(rows),
            "price": random.gamma(4, 20, rows).clip(0, 500),
            "country": random.choice(["de", "fr", "pl"], rows),
            "weight": random.normal(5, 1, rows),
        }
    )


def sunloom(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"SUNLOOM_HOME": str(folder / "home")}
    return subprocess.run(
        [str(SUNLOOM), *words],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def sunloom_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Here:
    """Runs a command in this process and the test's folder, so without ``--json``."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SUNLOOM_HOME", str(folder / "home"))

    return lambda *words: run_here(words, capfd)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    _table().write_parquet(tmp_path / "normal.parquet")
    return tmp_path


def validated(folder: Path, *more: str) -> tuple[int, dict[str, Any]]:
    words = ("--recipe", "recipe.yaml", "--input", "rows.parquet", "--json")
    done = sunloom(folder, "features", "validate", *words, *more)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_good_rows_pass(folder: Path) -> None:
    _table(seed=1).write_parquet(folder / "rows.parquet")
    status, found = validated(folder, "--reference", "normal.parquet")
    assert (status, found["passed"]) == (0, True)
    assert [one["feature"] for one in found["drift"]] == ["price", "country", "weight"]
    assert {"feature", "method", "value", "threshold", "drifted"} <= set(found["drift"][0])
    assert found["quarantine"] is None


def test_a_broken_column_is_in_the_report(folder: Path, sunloom_here: Here) -> None:
    broken = _table(seed=1).with_columns(
        price=pl.when(pl.col("id") % 10 == 0).then(None).otherwise(pl.col("price") + 60)
    )
    broken.write_parquet(folder / "rows.parquet")
    status, found = validated(folder, "--reference", "normal.parquet")
    assert (status, found["passed"]) == (1, False)
    failed = [(one["check"], one["feature"]) for one in found["checks"] if not one["passed"]]
    assert failed == [("completeness", "price")]
    drifted = {one["feature"]: one["drifted"] for one in found["drift"]}
    assert drifted == {"price": True, "country": False, "weight": False}
    page = Path(found["report"]).read_text()
    assert "200 of 2,000 rows" in page
    assert "<svg class='drift'" in page
    aside = Path(found["quarantine"]).read_text().splitlines()
    assert len(aside) == 200
    assert json.loads(aside[1]) == {
        "position": 11,
        "reason": "price is missing",
        "content": {
            "id": 10,
            "price": None,
            "country": broken["country"][10],
            "weight": broken["weight"][10],
        },
    }
    words = ("features", "validate", "--recipe", "recipe.yaml", "--input", "rows.parquet")
    shown = sunloom_here(*words)
    assert shown.status == 1
    assert "price is missing" in shown.out


@pytest.mark.parametrize("method", ["jensenshannon", "wasserstein", "ks", "kl_div"])
def test_evidentlys_other_methods(folder: Path, method: str) -> None:
    from sunloom.config.data import ValidationConfig
    from sunloom.data.quality.checked_table import table_from_frame, table_from_path
    from sunloom.data.quality.validate import validate

    moved = _table(seed=1).with_columns(pl.col("price") + 60)
    config = ValidationConfig.model_validate({"drift_detection": {"method": method}})
    rows = table_from_frame(moved, "rows")
    found = validate(rows, config, table_from_path(folder / "normal.parquet")).drift
    numbers = {one.feature: (one.method, one.drifted) for one in found}
    assert numbers["price"] == (method, True)
    assert numbers["weight"] == (method, False)
    assert numbers["country"][0] == (method if method in ("jensenshannon", "kl_div") else "psi")


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (
            "validation: {completness_threshold: 1}",
            "validation.quality_checks.completeness_threshold",
        ),
        ("validation: {drift_detection: {threshold: 0}}", "validation.drift_detection.threshold"),
        ("validation: {drift_threshold: 1}", "It is now 'validation.drift_detection.threshold'"),
        ("validation: [1", "not valid YAML"),
        ("paths: {}", "validation"),
        ("validation: {columns: {price: {min: 2026-01-01}}}", "does not fit a column of Float64"),
    ],
)
def test_a_wrong_recipe_is_usage(folder: Path, sunloom_here: Here, recipe: str, words: str) -> None:
    (folder / "recipe.yaml").write_text(recipe)
    _table(50).write_parquet(folder / "rows.parquet")
    command = ("features", "validate", "--recipe", "recipe.yaml", "--input", "rows.parquet")
    done = sunloom_here(*command)
    assert done.status == 2
    assert words in done.err


def test_missing_files_are_usage(sunloom_here: Here) -> None:
    for words in (
        ("--recipe", "none.yaml", "--input", "normal.parquet"),
        ("--recipe", "recipe.yaml", "--input", "none.parquet"),
        ("--recipe", "recipe.yaml", "--input", "normal.parquet", "--reference", "none.parquet"),
    ):
        done = sunloom_here("features", "validate", *words)
        assert done.status == 2, done.err
        assert "none." in done.err
