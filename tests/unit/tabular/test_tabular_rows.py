"""Rows files of a tabular model: any form that has a reader, and errors that name the file."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from sunloom.config.tabular import TabularRecipe
from sunloom.errors import DataError
from sunloom.tabular.trainer import read_rows

ROWS = pl.DataFrame({"id": [1, 2, 3, 4], "x": [0.5, 1.0, 2.0, 3.5], "label": [0, 1, 0, 1]})


def _recipe(folder: Path, train: str) -> TabularRecipe:
    rows = {
        "feature_set": "shop",
        "label": "label",
        "train_path": str(folder / train),
        "judge_path": str(folder / "judge.parquet"),
    }
    algorithm = {"name": "logistic_regression"}
    return TabularRecipe.model_validate(
        {"rows": rows, "algorithms": [algorithm], "output": {"name": "model"}}
    )


def test_rows_are_read_from_text_and_files_that_are_none_are_named(tmp_path: Path) -> None:
    ROWS.write_parquet(tmp_path / "judge.parquet")
    ROWS.write_csv(tmp_path / "train.csv")
    rows = read_rows(_recipe(tmp_path, "train.csv"))
    assert (rows.columns.features, rows.train_target.tolist()) == (("x",), [0, 1, 0, 1])
    (tmp_path / "broken.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"broken\.parquet cannot be read as parquet"):
        read_rows(_recipe(tmp_path, "broken.parquet"))
    ROWS.head(0).write_csv(tmp_path / "none.csv")
    with pytest.raises(DataError, match="There are no rows"):
        read_rows(_recipe(tmp_path, "none.csv"))
