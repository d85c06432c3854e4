"""A model's folder: text only, whole or refused, same answers after loading."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sunloom.errors import ArtifactError, DataError
from sunloom.tabular.algorithms import ALGORITHMS, load_algorithm
from sunloom.tabular.columns import Columns, RatioColumn
from sunloom.tabular.model import TabularModel, load_model, predictions

COLUMNS = Columns(("a", "b"), (RatioColumn("share", "a", "b", 1.0),))


def _frame(rows: int = 400) -> pl.DataFrame:
    generator = np.random.default_rng(1)
    return pl.DataFrame(
        {"id": np.arange(rows), "a": generator.random(rows) * 9, "b": generator.random(rows)}
    )


def _model(name: str = "logistic_regression") -> TabularModel:
    frame = _frame()
    target = (frame["a"].to_numpy() > 4).astype(float)
    fitted = load_algorithm(name).fit(COLUMNS.matrix(frame), target, {"seed": 0, "rounds": 10})
    return TabularModel(name, {"seed": 0}, COLUMNS, fitted, ("lapse", "return"), 0.4, {"rows": 400})


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_a_loaded_model_predicts_as_the_saved_one(name: str, tmp_path: Path) -> None:
    model = _model(name)
    loaded = load_model(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(_frame()), model.predict(_frame()))
    assert loaded.feature_names == ("a", "b")
    assert (loaded.labels, loaded.threshold) == (("lapse", "return"), 0.4)
    assert loaded.about == {"rows": 400}
    for path in (tmp_path / "model").iterdir():
        path.read_text()


def test_predictions_name_entity_probability_and_label() -> None:
    model = _model()
    rows = [{"id": 7, "b": 0.1, "a": 8.5}, {"id": 8, "b": 0.1, "a": 0.5}]
    answers = predictions(model, rows)
    assert [answer.entity_id for answer in answers] == [7, 8]
    assert [answer.prediction for answer in answers] == ["return", "lapse"]
    expected = model.predict(pl.DataFrame(rows))
    assert [answer.probability for answer in answers] == expected.tolist()


def test_the_threshold_itself_is_the_second_label() -> None:
    model = _model()
    assert model.label(0.4) == "return"
    assert model.label(np.nextafter(0.4, 0)) == "lapse"


def test_rows_without_an_entity_get_predictions_too() -> None:
    assert predictions(_model(), [{"a": 1, "b": None}])[0].entity_id is None
    assert predictions(_model(), _frame(0)) == []


def test_a_missing_feature_is_named() -> None:
    with pytest.raises(DataError, match="'b' is missing"):
        predictions(_model(), [{"id": 1, "a": 2.0}])


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no whole tabular model"):
        load_model(tmp_path)
    folder = _model().save(tmp_path / "model")
    classifier = folder / "logistic_regression.json"
    classifier.write_text(classifier.read_text()[:50])
    with pytest.raises(ArtifactError, match="no whole tabular model"):
        load_model(folder)


def test_a_manifest_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    folder = _model().save(tmp_path / "model")
    manifest = json.loads((folder / "model.json").read_text())
    (tmp_path / "other.json").write_text((folder / "logistic_regression.json").read_text())
    manifest["classifier"] = "../other.json"
    (folder / "model.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"other\.json"):
        load_model(folder)


def test_loading_stays_cheap(tmp_path: Path) -> None:
    folder = _model().save(tmp_path / "model")
    program = (
        "import sys; from sunloom.tabular.model import load_model, predictions;"
        f"print(predictions(load_model({str(folder)!r}), [{{'id': 1, 'a': 8.5, 'b': 0.1}}]));"
        "heavy = {'sklearn', 'xgboost', 'lightgbm', 'ray', 'matplotlib', 'scipy', 'pandas'};"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "prediction='return'" in done.stdout


def test_infinite_inputs_count_as_missing() -> None:
    model = _model()
    infinite, missing = ([{"a": value, "b": 0.5}] for value in (float("inf"), None))
    assert predictions(model, infinite) == predictions(model, missing)
