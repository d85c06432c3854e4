"""Lags, windows and decaying means on real Ray: the one-process values to the bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest
from polars.testing import assert_frame_equal

from sunloom.config.preprocessing.transformations import PreparationConfig, PreparationRecipe
from sunloom.errors import DataError
from sunloom.preprocessing.artifact import load, save
from sunloom.preprocessing.cluster.fit_transform import read_ray, write_prepared_ray
from sunloom.preprocessing.fit import fit
from sunloom.preprocessing.job import fit_file, transform_file
from sunloom.preprocessing.tables import open_source

pytestmark = pytest.mark.integration

START = datetime(2026, 3, 1, tzinfo=UTC)
COMMON: dict[str, Any] = {"time": "at", "by": ["shop", "till"]}
STEPS: list[dict[str, Any]] = [
    {"type": "simple_imputer", "strategy": "median", "columns": ["y"]},
    {"type": "lags", "columns": ["x", "y"], "periods": [1, 3]} | COMMON,
    {"type": "rolling", "columns": ["x"], "windows": ["6h", "2d"], "aggregations": ["mean", "std"]}
    | COMMON,
    {"type": "expanding", "columns": ["x"], "aggregations": ["sum", "max"]} | COMMON,
    {"type": "standard_scaler", "columns": ["x", "x_lag_1"]},
    # These look back on what was looked back before, over other entities.
    {"type": "exponentially_weighted", "columns": ["x_lag_1"], "half_lives": ["1d"], "time": "at",
     "by": ["shop"]},
    {"type": "target_encoder", "columns": ["shop"], "target": "bought"},
    {"type": "lags", "columns": ["x"], "time": "at", "periods": [2]},
]  # fmt: skip


def events(rows: int) -> pl.DataFrame:
    """Shuffled rows of 40 shops with two tills, gaps, shops without a name and equal moments."""
    rng = np.random.default_rng(0)
    value = rng.normal(5, 3, rows)
    return pl.DataFrame(
        {
            "row": np.arange(rows),
            "shop": [f"shop {i}" if i else None for i in rng.integers(0, 40, rows)],
            "till": rng.integers(0, 2, rows).astype(np.int32),
            "at": [START + timedelta(minutes=int(m)) for m in rng.integers(0, 9_000, rows)],
            "x": pl.Series(np.where(rng.random(rows) < 0.1, np.nan, value), nan_to_null=True),
            "y": rng.integers(0, 100, rows),
            "bought": rng.integers(0, 2, rows),
        },
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return events(9_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, frame: pl.DataFrame) -> Path:
    """The rows over three files; an entity's lie in every row group."""
    folder = tmp_path_factory.mktemp("rows")
    frame.head(4_000).write_parquet(folder / "a.parquet", row_group_size=500)
    frame.clear().write_parquet(folder / "b.parquet")
    frame.slice(4_000).write_parquet(folder / "c.parquet", row_group_size=2_000)
    return folder


def test_the_cluster_looks_back_as_one_process_does(
    ray_local: str, frame: pl.DataFrame, folder: Path, tmp_path: Path
) -> None:
    request = PreparationConfig(
        input=folder, artifact=tmp_path / "fitted", out=tmp_path / "train.parquet", engine="ray"
    )
    recipe = PreparationRecipe.model_validate({"transformations": STEPS})
    result = fit_file(recipe, recipe.transformations, request)
    assert (result.rows, result.rows_out, result.rank_error) == (9_000, 9_000, 0.0)
    here = request.model_copy(
        update={
            "engine": "polars",
            "artifact": tmp_path / "fitted here",
            "out": tmp_path / "train here.parquet",
        }
    )
    assert fit_file(recipe, recipe.transformations, here).passes == result.passes
    # What is learnt is merged in another order: equal to rounding.
    training = [pl.read_parquet(one.out) for one in (request, here) if one.out]
    assert_frame_equal(*training, rel_tol=1e-9, abs_tol=1e-12)
    # What one artifact prepares is the same to the bit.
    outs = [tmp_path / "ray.parquet", tmp_path / "polars.parquet"]
    for one, out in zip((request, here), outs, strict=True):
        transform_file(load(tmp_path / "fitted"), one.model_copy(update={"out": out}))
    prepared = [pl.read_parquet(out) for out in outs]
    assert_frame_equal(*prepared, check_exact=True)
    assert prepared[0]["row"].to_list() == list(range(9_000))
    assert prepared[0]["x_lag_1"].null_count() < 2_000
    assert list(result.outputs) == prepared[0].columns


@pytest.mark.parametrize("rows", [0, 1])
def test_no_row_and_one_row(ray_local: str, frame: pl.DataFrame, tmp_path: Path, rows: int) -> None:
    steps = [{"type": "lags", "columns": ["x"]} | COMMON]
    fitted = fit(steps, frame)
    few = frame.head(rows)
    few.write_parquet(tmp_path / "few.parquet")
    out = tmp_path / "out.parquet"
    assert write_prepared_ray(fitted, open_source(tmp_path / "few.parquet"), out) == rows
    assert_frame_equal(pl.read_parquet(out), fitted.apply_frame(few), check_exact=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.parquet", "out.parquet"]


def test_what_a_worker_refuses_is_said_here(
    ray_local: str, frame: pl.DataFrame, tmp_path: Path
) -> None:
    fitted = fit([{"type": "lags", "columns": ["x"]} | COMMON], frame)
    save(fitted, tmp_path / "fitted")
    gap = pl.when(pl.col("row") != 700).then("at").alias("at")
    frame.with_columns(gap).write_parquet(tmp_path / "gap.parquet", row_group_size=500)
    request = PreparationConfig(
        input=tmp_path / "gap.parquet", out=tmp_path / "out.parquet", engine="ray"
    )
    with pytest.raises(DataError, match="lacks the timestamp of a row"):
        transform_file(fitted, request)
    endless = pl.when(pl.col("row") == 8_000).then(np.inf).otherwise("x").alias("x")
    frame.with_columns(endless).write_parquet(tmp_path / "inf.parquet", row_group_size=500)
    with pytest.raises(DataError, match="infinite value"):
        transform_file(fitted, request.model_copy(update={"input": tmp_path / "inf.parquet"}))
    with pytest.raises(DataError, match="infinite value"):
        fit(
            [{"type": "robust_scaler", "columns": ["x"]}], tmp_path / "inf.parquet", reader=read_ray
        )
    # Nothing is left of a file that was begun.
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"fitted", "gap.parquet", "inf.parquet"}


def test_a_killed_workers_share_is_prepared_again(
    ray_local: str, frame: pl.DataFrame, tmp_path: Path
) -> None:
    many = pl.concat([frame] * 40).with_columns(pl.int_range(pl.len()).alias("row"))
    path, out = tmp_path / "many.parquet", tmp_path / "out.parquet"
    many.write_parquet(path, row_group_size=60_000)
    steps = [
        {"type": "rolling", "columns": ["x"], "windows": ["2d"]} | COMMON,
        {"type": "quantile_transformer", "columns": ["x", "y"]},
    ]
    fitted = fit(steps, frame)
    killed: list[int] = []
    with ThreadPoolExecutor() as pool:
        prepared = pool.submit(write_prepared_ray, fitted, open_source(path), out)
        while not prepared.done() and not killed:
            sleep(0.02)
            for worker in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if worker.name().startswith("ray::Map"):
                        worker.kill()
                        killed.append(worker.pid)
                        break
        assert prepared.result() == many.height
    assert len(killed) == 1
    assert_frame_equal(pl.read_parquet(out), fitted.apply_frame(many), check_exact=True)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["many.parquet", "out.parquet"]
