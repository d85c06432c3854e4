"""Tabular models of a replica: one version at a time, whatever its threads ask for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl

from sunloom.config import Settings
from sunloom.core.model_registry import open_registry
from sunloom.serving.apps.tabular import KIND, LoadedModels
from sunloom.tabular.algorithms import load_algorithm
from sunloom.tabular.columns import Columns
from sunloom.tabular.model import TabularModel


def test_versions_that_replace_each_other_are_found_by_all_threads(
    settings: Settings, tmp_path: Path
) -> None:
    columns = Columns(("a",))
    matrix = columns.matrix(pl.DataFrame({"a": np.arange(40.0)}))
    target = (np.arange(40) > 20).astype(float)
    fitted = load_algorithm("logistic_regression").fit(matrix, target, {"seed": 0})
    registry = open_registry(settings)
    for number in (1, 2):
        model = TabularModel(
            "logistic_regression", {"seed": 0}, columns, fitted, ("no", "yes"), number / 10, {}
        )  # fmt: skip
        registry.register("churn", KIND, model.save(tmp_path / str(number)))
    models = LoadedModels(settings)

    def find(number: int) -> None:
        for _ in range(25):
            version, model = models.find(f"churn@{number}")
            assert (version.ref, model.threshold) == (f"churn@{number}", number / 10)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(find, (1, 2, 1, 2)))
