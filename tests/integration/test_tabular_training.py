"""The whole life of a tabular model on a real Ray: search, judge, register, promote, load."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from sunloom.config import Settings, load_config
from sunloom.config.tabular import TabularRecipe
from sunloom.core.interrupts import Interrupted, interrupt_on_signals
from sunloom.core.model_registry import open_registry
from sunloom.errors import DataError, UsageError
from sunloom.tabular.model import load_model, predictions
from sunloom.tabular.trainer import train_tabular

pytestmark = pytest.mark.integration

ROWS = 1500


def _rows(seed: int) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    recency, count = generator.gamma(2, 30, ROWS), generator.poisson(3, ROWS)
    score = 0.8 * np.log1p(count) - 0.9 * np.log1p(recency) + 2.2
    label = (generator.random(ROWS) < 1 / (1 + np.exp(-score))).astype(int)
    return pl.DataFrame(
        {"id": np.arange(ROWS), "recency": recency, "count": count, "bought": label}
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    _rows(1).write_parquet(folder / "train.parquet")
    _rows(2).write_parquet(folder / "judge.parquet")
    return folder


def _recipe(settings: Settings, rows: Path, *sets: str, seed: int = 0) -> TabularRecipe:
    assignments = [
        f"paths.state={settings.paths.state}",
        f"paths.outputs={settings.paths.outputs}",
        f"seed={seed}",
        "rows.label=bought",
        f"rows.train_path={rows / 'train.parquet'}",
        f"rows.judge_path={rows / 'judge.parquet'}",
        "tuning.folds=3",
        # Two at a time: a process for a third trial would be started and then hardly used.
        "tuning.max_concurrent=2",
        "gate.min_auc=0.6",
        "gate.max_calibration_error=0.2",
        "algorithms=[{name: logistic_regression, trials: 1, search: {c: {low: 0.1, high: 1}}},"
        " {name: xgboost, trials: 1, search: {max_depth: [2], rounds: [20, 30]}},"
        " {name: lightgbm, trials: 1, search: {num_leaves: [4], rounds: [20, 30]}}]",
        *sets,
    ]
    return load_config(TabularRecipe, sets=assignments).config


def test_train_judge_register_promote(ray_local: str, settings: Settings, rows: Path) -> None:
    recipe = _recipe(settings, rows)
    result = train_tabular(recipe)
    figures = result.metrics
    assert result.promoted
    assert result.failures == ()
    assert set(figures["algorithms"]) == {"logistic_regression", "xgboost", "lightgbm"}
    assert all(one["auc"] > 0.65 for one in figures["algorithms"].values())
    assert figures["winner"] == "logistic_regression"
    assert figures["log_loss"] < figures["base_log_loss"]
    assert Path(result.files["calibration_plot"]).read_bytes()[:4] == b"\x89PNG"

    registry = open_registry(settings)
    version = registry.get("repurchase@production")
    model = load_model(registry.path(version))
    judge = pl.read_parquet(rows / "judge.parquet")
    probability = model.predict(judge)
    assert figures["auc"] == pytest.approx(roc_auc_score(judge["bought"], probability), abs=1e-12)
    assert model.feature_names == ("recency", "count")
    answers = predictions(model, judge.head(3))
    assert [answer.entity_id for answer in answers] == [0, 1, 2]
    assert {answer.prediction for answer in answers} <= {"lapse", "return"}

    again = train_tabular(recipe)
    assert again.reused
    assert again.version.version == version.version
    assert again.metrics["auc"] == figures["auc"]


def test_a_closed_gate_registers_without_promoting(
    ray_local: str, settings: Settings, rows: Path
) -> None:
    sets = (
        "gate.min_auc=0.99",
        "tuning.scheduler=asha",
        "algorithms=[{name: logistic_regression, trials: 2, search: {c: {low: 0.1, high: 1}}}]",
    )
    result = train_tabular(_recipe(settings, rows, *sets))
    assert not result.promoted
    assert "is not above 0.99" in result.failures[0]
    registry = open_registry(settings)
    assert registry.aliases("repurchase") == {}
    assert registry.get("repurchase").version == 1


def test_bad_rows_stop_before_any_trial(settings: Settings, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no rows file .*train_1\.parquet") as caught:
        train_tabular(_recipe(settings, rows, f"rows.train_path={rows / 'train_1.parquet'}"))
    assert "train.parquet" in caught.value.hint
    with pytest.raises(DataError, match="'buys' is missing"):
        train_tabular(_recipe(settings, rows, "rows.label=buys"))


def test_an_interrupted_search_registers_nothing(
    ray_local: str, settings: Settings, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)]

    def press_ctrl_c() -> None:
        # Only then does Tune handle signals, and only then could a search pass for a whole one.
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*/tune/search/*/result.json")):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    many = "algorithms=[{name: logistic_regression, trials: 500, search: {c: {low: 0.1, high: 1}}}]"
    thread = threading.Thread(target=press_ctrl_c)
    with pytest.raises(Interrupted), interrupt_on_signals():
        thread.start()
        train_tabular(_recipe(settings, rows, many))
    thread.join()
    assert open_registry(settings).list() == []
    assert list(tmp_path.glob("*/tune")) == []
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)]
    # The trials' actors end with their handles, which the traceback held.
    gc.collect()
