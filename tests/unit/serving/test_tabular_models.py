"""Tabular models of a replica: one version at a time, rows with the model's columns only."""

from __future__ import annotations

import asyncio
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from asgi import OpenGate, call

from sunloom.config import Settings
from sunloom.core.model_registry import open_registry
from sunloom.serving.apps.tabular import KIND, LoadedModels, build_tabular_app
from sunloom.serving.asgi import ASGIApp
from sunloom.serving.auth.middleware import GatewayMiddleware
from sunloom.tabular.algorithms import load_algorithm
from sunloom.tabular.columns import Columns
from sunloom.tabular.model import TabularModel


def register(settings: Settings, folder: Path, threshold: float) -> None:
    columns = Columns(("a",))
    matrix = columns.matrix(pl.DataFrame({"a": np.arange(40.0)}))
    target = (np.arange(40) > 20).astype(float)
    fitted = load_algorithm("logistic_regression").fit(matrix, target, {"seed": 0})
    model = TabularModel(
        "logistic_regression", {"seed": 0}, columns, fitted, ("no", "yes"), threshold, {}
    )
    open_registry(settings).register("churn", KIND, model.save(folder))


@pytest.fixture
def app(settings: Settings, tmp_path: Path) -> ASGIApp:
    register(settings, tmp_path / "churn", 0.5)
    return GatewayMiddleware(build_tabular_app(settings), OpenGate("models"), "tabular")


def post(app: ASGIApp, body: Any) -> Any:
    return asyncio.run(call(app, "POST", "/predict/churn", json=body))


def test_versions_that_replace_each_other_are_found_by_all_threads(
    settings: Settings, tmp_path: Path
) -> None:
    for number in (1, 2):
        register(settings, tmp_path / str(number), number / 10)
    models = LoadedModels(settings)

    def find(number: int) -> None:
        for _ in range(25):
            version, model = models.find(f"churn@{number}")
            assert (version.ref, model.threshold) == (f"churn@{number}", number / 10)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(find, (1, 2, 1, 2)))


def test_a_table_has_the_columns_of_the_model_only(app: ASGIApp) -> None:
    # One column for each key of any row: 8,000 of these were 3 GB.
    rows = [{"a": 39.0, "id": number, f"k{number}": number} for number in range(8000)]
    tracemalloc.start()
    answer = post(app, {"rows": rows})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.status_code == 200
    predictions = answer.json()["predictions"]
    assert (len(predictions), predictions[-1]["entity_id"]) == (8000, 7999)
    assert {one["prediction"] for one in predictions} == {"yes"}
    assert peak < 100 << 20
    assert (
        post(app, {"rows": [{"a": 0.0, "b": [[1]]}]}).json()["predictions"][0]["entity_id"] is None
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": [1]}, "rows[0]: a is a list or an object"),
        ({"a": {"b": 1}}, "rows[0]: a is a list or an object"),
        ({"a": "x"}, "'a' has values that are not numbers"),
        ({"b": 1}, "'a' is missing"),
        ({"a": 1, "id": True}, "rows[0]: id is neither a whole number nor text"),
        ({"a": 1, "id": 1.5}, "rows[0]: id is neither a whole number nor text"),
        ({"a": 1, "entity_id": [1]}, "rows[0]: entity_id is neither"),
    ],
)
def test_a_row_that_no_model_reads_is_refused(app: ASGIApp, row: Any, message: str) -> None:
    answer = post(app, {"rows": [row]})
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (422, True)


@pytest.mark.parametrize(
    "body",
    [
        {"entity_ids": [True]},
        {"entity_ids": [1.5]},
        {"entity_ids": ["x" * 201]},
        {"entity_ids": [1], "feature_sets": "a"},
        {"rows": [{}], "entity_ids": [1]},
        {},
    ],
)
def test_a_request_for_no_entity_is_refused(app: ASGIApp, body: Any) -> None:
    assert post(app, body).status_code == 422
