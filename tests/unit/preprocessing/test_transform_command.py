"""``sunloom features fit`` and ``transform`` as people type them, and the jobs beside them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from commands import run_forked, run_here
from polars.testing import assert_frame_equal

from sunloom.config.preprocessing.transformations import PreparationRecipe
from sunloom.core.model_registry import open_registry
from sunloom.preprocessing.artifact import load, open_fitted
from sunloom.preprocessing.fit import fit
from tests.unit.preprocessing.tables import bundled, colours

RECIPE: dict[str, Any] = {
    "transformations": {
        "categorical_encoding": {"method": "target_encoding", "smoothing": 10},
        "numerical_scaling": {"method": "robust_scaler"},
        "missing_values": {"strategy": "median"},
        "target": "bought",
    }
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUNLOOM_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    colours().drop("grade").write_parquet("in.parquet")
    Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def called(arguments: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status and what was printed; in this process, so without ``--json``."""
    done = run_here(["features", *arguments.split()], capfd)
    return done.status, done.out + done.err


def document(arguments: str) -> Any:
    """The JSON document of a command in a process of its own."""
    words = ["features", *arguments.split(), "--json"]
    done = run_forked(words, Path.cwd(), os.environ.copy(), Path.cwd())
    assert done.status == 0, done.err
    return done.json


def test_fit_and_transform(place: Path) -> None:
    command = "fit --recipe recipe.yaml --input in.parquet --artifact fitted --out train.parquet"
    result = document(command)
    assert result["rows"] == result["rows_out"] == 500
    result = document("transform --artifact fitted --input in.parquet --out out.parquet")
    assert result["outputs"] == ["colour", "size", "amount", "score", "bought"]
    frame = pl.read_parquet("in.parquet")
    fitted = fit(RECIPE["transformations"], frame)
    wanted = fitted.apply_frame(frame)
    assert_frame_equal(pl.read_parquet("out.parquet"), wanted, check_exact=True)
    training = pl.read_parquet("train.parquet")
    assert training["amount"].equals(wanted["amount"])
    assert not training["colour"].equals(wanted["colour"])


def test_a_named_artifact_is_registered(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = "fit --recipe recipe.yaml --input in.parquet --artifact fitted"
    code, text = called(f"{command} --name colours --alias production", capfd)
    assert (code, "colours@1" in text) == (0, True)
    settings = PreparationRecipe()
    version = open_registry(settings).get("colours@production")
    assert version.kind == "features-transform"
    assert version.lineage["fingerprint"] in text
    again = open_fitted(settings, "colours@1")
    assert again.stages[0][0].inputs == load(Path("fitted")).stages[0][0].inputs
    code, _ = called("transform --artifact colours --input in.parquet --out o.parquet", capfd)
    assert code == 0


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("fit --recipe no.yaml --input in.parquet --artifact a", 2, "no recipe file no.yaml"),
        ("fit --recipe recipe.yaml --input no.parquet --artifact a", 2, "no file no.parquet"),
        ("fit --recipe empty.yaml --input in.parquet --artifact a", 2, "no `transformations`"),
        ("fit --recipe typo.yaml --input in.parquet --artifact a", 2, "'transformations.tarket'"),
        ("fit --recipe target.yaml --input in.parquet --artifact a", 2, "lacks the column nope"),
        ("fit --recipe recipe.yaml --input none.parquet --artifact a", 1, "no rows to learn"),
        ("fit --recipe recipe.yaml --input in.parquet --artifact full", 2, "something else"),
        (
            "fit --recipe recipe.yaml --input in.parquet --artifact a --out o.csv",
            2,
            "does not end in .parquet",
        ),
        ("transform --artifact a --input in.parquet --out o.parquet", 2, "no model 'a'"),
        ("transform --artifact ./a --input in.parquet --out o.parquet", 2, "no fitted artifact"),
    ],
)
def test_impossible_requests_are_refused(
    place: Path, capfd: pytest.CaptureFixture[str], command: str, code: int, words: str
) -> None:
    Path("empty.yaml").write_text("preparation: {}")
    wrong = RECIPE["transformations"] | {"target": "nope"}
    Path("target.yaml").write_text(yaml.safe_dump({"transformations": wrong}))
    Path("typo.yaml").write_text(yaml.safe_dump({"transformations": {"tarket": "a"}}))
    pl.read_parquet("in.parquet").clear().write_parquet("none.parquet")
    Path("full").mkdir()
    Path("full/letter.txt").write_text("mine")
    found, text = called(command, capfd)
    assert (found, words in text) == (code, True), text
    assert not Path("a").exists()
    assert not Path("o.parquet").exists()


def test_the_input_is_never_the_output(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    called("fit --recipe recipe.yaml --input in.parquet --artifact fitted", capfd)
    before = Path("in.parquet").read_bytes()
    code, text = called("transform --artifact fitted --input in.parquet --out in.parquet", capfd)
    assert (code, "is the input itself" in text) == (2, True)
    assert Path("in.parquet").read_bytes() == before


def test_an_empty_input_gives_an_empty_table(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    called("fit --recipe recipe.yaml --input in.parquet --artifact fitted", capfd)
    pl.read_parquet("in.parquet").clear().write_parquet("none.parquet")
    code, _ = called("transform --artifact fitted --input none.parquet --out o.parquet", capfd)
    assert code == 0
    assert pl.read_parquet("o.parquet").height == 0
    assert pl.read_parquet("o.parquet").columns == pl.read_parquet("in.parquet").columns


def test_the_example_recipes_fit(place: Path, project_root: Path) -> None:
    tree = yaml.safe_load((project_root / "conf/preparation/wine.yaml").read_text())
    frame = bundled("wine")
    prepared = fit(tree["transformations"], frame)
    assert prepared.apply_frame(frame).width == frame.width + 3
    row = {name: value for name, value in frame.row(0, named=True).items() if name != "target"}
    assert set(prepared.apply_row(row)) == set(prepared.outputs) - {"target"}


def test_the_example_of_reviews_fits(place: Path, project_root: Path) -> None:
    tree = yaml.safe_load((project_root / "conf/preparation/reviews.yaml").read_text())
    vectors = [[0.5, 1.0], [2.0, -1.0]]
    pl.DataFrame({"artist": [1, 2], "vector": vectors}).write_parquet("artists.parquet")
    frame = pl.DataFrame(
        {
            "review": ["I love this record", "Das ist eine schlechte Platte", None] * 10,
            "artist": [1, 2, 3] * 10,
            "recency": [float(i) for i in range(30)],
            "amount": [float(i % 7) for i in range(30)],
            "bought": [i % 2 for i in range(30)],
        }
    )
    prepared = fit(tree["transformations"], frame).apply_frame(frame)
    assert prepared["review_language"].to_list()[:3] == ["en", "de", None]
    assert prepared.select("artist_0", "artist_1").rows()[:3] == [(0.5, 1), (2, -1), (0, 0)]
    assert prepared["review_compound"][0] == pytest.approx(0.6369)
    assert prepared["neighbor_bought"].is_between(0, 1).all()


def test_jobs_do_the_same(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from jobs.features_fit import run as fit_job
    from jobs.features_transform import run as transform_job

    paths = {"input": "in.parquet", "artifact": "fitted"}
    recipe = PreparationRecipe.model_validate(RECIPE | {"preparation": paths | {"name": "c"}})
    outcome = fit_job(recipe)
    assert outcome.artifacts == {"artifact": "fitted", "model": "c@1"}
    assert outcome.metrics["rows"] == 500
    paths["out"] = "out.parquet"
    recipe = PreparationRecipe.model_validate({"preparation": paths})
    assert transform_job(recipe).artifacts == {"out": "out.parquet"}
    assert pl.read_parquet("out.parquet").height == 500
