"""What cannot be bound is unavailable with its dependents, is listed, and the rest works."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from memory_store import MemoryStore
from typer.testing import CliRunner

from sunloom.cli.main import app
from sunloom.errors import DefinitionError, NotFoundError
from sunloom.feature_store.online.registry import open_feature_set, store_stream
from sunloom.features.definitions.open import catalogue_of, outline_of, plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.explain import plan_text
from sunloom.features.plan.feature_sets import NOW, Plan

SOURCE = """
from chalk import _, DataFrame, FeatureTime, Primary, offline, online
from chalk.features import features
import chalk.functions as F

@features(name="{ns}_part")
class Part:
    serial: int
    size: float

@features(name="{ns}_tag")
class Tag:
    id: Primary[int]
    user_id: "User.id"
    at: FeatureTime
    part_id: "Part.serial"
    weight: dict[str, int]

@features(name="{ns}_user")
class User:
    id: Primary[int]
    name: str
    labels: list[str | None]
    other: "Nowhere"
    rows: DataFrame[Tag]
    stem: str = F.no_such_function(_.name)
    length: int = F.length(_.stem)
    twice: int = _.length * 2
    heaviest: int = _.rows[_.weight].max()
    there: int = _.back + 1
    back: int = _.there + 1
    letters: int = F.length(_.name)
    tags: int = _.rows.count()
    risk: float
    odds: float
    guess: float

@online(cron="30d")
def compute_risk(name: User.name) -> User.risk:
    return float(len(name))

@online(environment="prod")
def compute_odds(name: User.name) -> User.odds:
    return 1.0

@online
def compute_guess(name: int) -> User.guess:
    return 1.0
"""
BOUND = ("name", "letters", "tags", "risk")
LOST = {
    "tag.weight": "weight: dict[str, int]",
    "user.labels": "labels: list[str | None]",
    "user.other": 'other: "Nowhere"',
    "user.stem": "stem: str = F.no_such_function(_.name)",
    "user.length": "length: int = F.length(_.stem)",
    "user.twice": "twice: int = _.length * 2",
    "user.heaviest": "heaviest: int = _.rows[_.weight].max()",
    "user.there": "there: int = _.back + 1",
    "user.back": "back: int = _.there + 1",
    "user.odds": '@online(environment="prod")',
    "user.guess": "@online",
    "part": "class Part:",
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("unavailable") / "partly.py"
    path.write_text(SOURCE.format(ns="un"))
    return path


def test_each_is_listed_with_construct_file_line_and_reason(file: Path) -> None:
    listed = CliRunner().invoke(app, ["features", "list", "--definitions", str(file), "--json"])
    assert listed.exit_code == 0
    document = json.loads(listed.stdout)
    unavailable = {item["feature"].removeprefix("un_"): item for item in document["unavailable"]}
    assert {name: item["construct"] for name, item in unavailable.items()} == LOST
    lines = SOURCE.splitlines()
    for item in unavailable.values():
        assert item["file"] == str(file)
        assert lines[item["line"] - 1].strip() == item["construct"] or item["construct"] in (
            LOST["part"],
        )
    assert "no_such_function" in unavailable["user.stem"]["reason"]
    assert "un_user.stem, which is unavailable" in unavailable["user.length"]["reason"]
    assert "no_such_function" in unavailable["user.twice"]["reason"]
    assert "circle" in unavailable["user.back"]["reason"]
    assert "primary key" in unavailable["part"]["reason"]
    risk = next(row for row in document["features"] if row["feature"] == "un_user.risk")
    assert risk["made by"] == "@online compute_risk (cron 30d)"
    assert risk["resolvers"][0]["cron"] == "30d"


def test_exit_statuses(file: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.py"
    text = SOURCE.format(ns="uv").split("@features")
    nothing.write_text(text[0] + "@features" + text[1])
    invoke = CliRunner().invoke
    strict = invoke(app, ["features", "list", "--definitions", str(file), "--strict"])
    none = invoke(app, ["features", "list", "--definitions", str(nothing)])
    plan = ["features", "plan", "un_user", "--definitions", str(file)]
    for result in (strict, none, invoke(app, [*plan, "--strict"])):
        assert isinstance(result.exception, DefinitionError)
        assert result.exception.exit_code == 2
    assert invoke(app, plan).exit_code == 0


def test_the_rest_is_computed_and_no_fingerprint_depends_on_places(file: Path) -> None:
    plan = Plan.model_validate_json(plan_of(str(file), "un_user").model_dump_json())
    assert plan.outputs == BOUND
    users = pl.DataFrame({"id": [1], "name": ["abc"]})
    tags = pl.DataFrame(schema={"user_id": pl.Int64, "at": pl.Datetime("us", "UTC")})
    query = pl.DataFrame({"id": [1], NOW: ["2026-01-01T00:00:00Z"]}).with_columns(
        pl.col(NOW).str.to_datetime(time_zone="UTC").dt.cast_time_unit("us")
    )
    computed = FeatureEngine(plan, {"un_user": users, "un_tag": tags}).compute(query)
    assert computed.to_dicts() == [{"name": "abc", "letters": 3, "tags": 0, "risk": 3.0}]
    assert f"un_user.stem: {file}:" in plan_text(plan)
    assert plan.fingerprint == plan.model_copy(update={"unavailable": ()}).fingerprint
    assert "unavailable" not in plan_of("retail", "customer").model_dump_json()


def test_what_is_unavailable_is_refused_when_it_is_asked_for(file: Path) -> None:
    with pytest.raises(DefinitionError, match=rf"{file}:\d+: un_part is unavailable: .*key"):
        plan_of(str(file), "un_part")
    store = MemoryStore()
    store_stream(store, plan_of(str(file), "un_user").for_online(), ["un_tag", "un_user"])
    online = open_feature_set(store, "un_user")
    assert online.read([7], ["letters"]) == [None]
    with pytest.raises(DefinitionError, match=rf"{file}:\d+: un_user.stem is .*no_such_function"):
        online.read([7], ["letters", "stem"])
    with pytest.raises(NotFoundError):
        online.read([7], ["lettres"])


def test_an_outline_for_chalk_has_what_has_a_column_form(file: Path) -> None:
    plan = outline_of(str(file), "un_tag")
    assert plan.outputs == ("user_id", "part_id")
    assert [item.feature for item in plan.unavailable] == ["un_tag.weight"]


def test_a_folder_is_one_project_and_one_broken_file_leaves_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "sunloom_project_of_two"
    folder.mkdir()
    (folder / "sl_project_classes.py").write_text(
        "from chalk import Primary\nfrom chalk.features import features\n\n"
        '@features(name="sl_project")\nclass P:\n    id: Primary[int]\n    a: float\n    b: float\n'
    )
    (folder / "sl_project_resolvers.py").write_text(
        "from chalk import online\nfrom sl_project_classes import P\n\n"
        "@online\ndef f(a: P.a) -> P.b:\n    return 1.0\n"
    )
    (folder / "sl_project_broken.py").write_text("import no_such_library\n")
    catalogue = catalogue_of(str(folder))
    resolver = catalogue.plan("sl_project").root.feature("b").resolver
    assert resolver is not None
    assert resolver.fqn == "sl_project_resolvers.f"
    (broken,) = catalogue.unavailable
    assert (broken.file, broken.line) == (str(folder / "sl_project_broken.py"), 1)
    assert "no_such_library" in broken.reason
    shutil.rmtree(folder)


def test_definitions_without_a_class_are_refused_by_their_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    with pytest.raises(DefinitionError, match=rf"{empty}: .*defines no features class"):
        catalogue_of(str(empty))
