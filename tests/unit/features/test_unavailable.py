"""What cannot be bound is unavailable with its dependents, is listed, and the rest works."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import polars as pl
import pytest
from click.testing import Result
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


def _invoke(words: list[str]) -> Result:
    return CliRunner().invoke(app, ["features", *words])


def _refusal(words: list[str]) -> str:
    error = _invoke(words).exception
    assert isinstance(error, DefinitionError), error
    assert error.exit_code == 2
    return error.message


def test_exit_statuses(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project_root: Path
) -> None:
    monkeypatch.setenv("SUNLOOM_CONF", str(project_root / "conf"))
    nothing, empty = tmp_path / "nothing.py", tmp_path / "empty.py"
    text = SOURCE.format(ns="uv").split("@features")
    nothing.write_text(text[0] + "@features" + text[1])
    empty.write_text("x = 1\n")
    users, tags = tmp_path / "users.csv", tmp_path / "tags.csv"
    users.write_text("id,name\n1,abc\n")
    tags.write_text("id,user_id,at\n1,1,2025-01-01T00:00:00Z\n")
    (tmp_path / "entities.csv").write_text("id,event_time\n1,2025-02-01T00:00:00Z\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"definitions: {file}\nfeature_set: un_user\n"
        "feature_store: {batch_source: {type: files, tables: "
        f"{{un_user: {users}, un_tag: {tags}}}}}}}\n"
        "online: {as_of: 2025-02-01T00:00:00Z}\nexecution: {engine: polars}\n"
    )
    sources = ["--source", f"un_user={users}", "--source", f"un_tag={tags}", "--engine", "polars"]
    rows = ["--entities", str(tmp_path / "entities.csv"), "--out", str(tmp_path / "out.parquet")]
    folders = [f"--set=paths.{name}={tmp_path / name}" for name in ("state", "outputs")]
    commands = (
        ["list", "--definitions"],
        ["plan", "un_user", "--definitions"],
        ["historical", "--feature-set", "un_user", *sources, *rows, "--definitions"],
        ["materialize", str(recipe), *folders, "--set"],
    )
    for command in commands:
        prefix = "definitions=" if command[0] == "materialize" else ""
        result = _invoke([*command, f"{prefix}{file}", "--json"])
        assert (result.exit_code, "un_user.stem" in result.stdout) == (0, True), command
        assert f"{file}:" in _refusal([*command, f"{prefix}{file}", "--strict"])
        assert f"{empty} defines no" in _refusal([*command, f"{prefix}{empty}"])
    assert f"{nothing}:" in _refusal(["list", "--definitions", str(nothing)])
    assert pl.read_parquet(tmp_path / "out.parquet")["tags"].to_list() == [1]


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


UNEXECUTED = """
'''Documentation.'''
from __future__ import annotations
from chalk import _, DataFrame, FeatureTime, Primary, Windowed, online, windowed, no_such_name
from chalk.features import features, feature
from chalk.functions import length, nothing_like_this
import no_such_library

@features(name="{ns}_part", nope=1)
class Piece:
    id: Primary[int]
    size: float

@features(name="{ns}_user")
class User:
    id: Primary[int]
    name: str
    parts: DataFrame[Piece]
    known: Nowhere
    argument: int = feature(nope=1)
    duration: int = feature(max_staleness="long")
    imported: int = no_such_name(_.name)
    deep: int = _.imported + 1
    joined: float = _.parts[_.size].sum()
    windows: Windowed[int] = windowed(
        "3 parsecs", expression=_.parts.count()
    )
    letters: int = length(_.name)
    odds: float
    risk: float

@online(nope=1)
def compute_odds(name: User.name) -> User.odds:
    return 1.0

@online
def compute_risk(name: User.name) -> User.risk:
    return float(len(name))

settings = no_such_library.settings
"""


def check_unexecuted(definitions: str, namespace: str) -> None:
    """One reason for each line that cannot be executed, and the rest is bound."""
    catalogue = catalogue_of(definitions)
    reasons = {item.feature: item.reason for item in catalogue.unavailable}
    lines = UNEXECUTED.format(ns=namespace).splitlines()
    for item in catalogue.unavailable:
        assert item.line is not None
        assert lines[item.line - 1].strip() == item.construct
    user = f"{namespace}_user"
    expected = {
        "no_such_name": "cannot import name 'no_such_name' from 'chalk'",
        "nothing_like_this": "cannot import name 'nothing_like_this'",
        "no_such_library": "No module named 'no_such_library'",
        "settings": "it needs no_such_library, which is unavailable (",
        f"{namespace}_part": "unexpected keyword argument 'nope'",
        f"{user}.parts": "Piece",
        f"{user}.known": "Nowhere",
        f"{user}.argument": "unexpected keyword argument 'nope'",
        f"{user}.duration": "'long'",
        f"{user}.imported": "it needs no_such_name, which is unavailable (",
        f"{user}.deep": f"it needs {user}.imported, which is unavailable (",
        f"{user}.joined": f"it needs {user}.parts, which is unavailable (",
        f"{user}.windows": "3 parsecs",
        f"{user}.odds": "unexpected keyword argument 'nope'",
    }
    assert set(reasons) == set(expected)
    assert [name for name, text in expected.items() if text not in reasons[name]] == []
    assert catalogue.plan(user).outputs == ("name", "letters", "risk")


def test_a_line_that_cannot_be_executed_takes_no_other_with_it(tmp_path: Path) -> None:
    file = tmp_path / "unexecuted.py"
    file.write_text(UNEXECUTED.format(ns="ux"))
    check_unexecuted(str(file), "ux")


def test_nor_in_a_submodule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "sl_unexecuted_package"
    package.mkdir()
    (package / "__init__.py").write_text("from sl_unexecuted_package.users import User\n")
    (package / "users.py").write_text(UNEXECUTED.format(ns="uy"))
    monkeypatch.syspath_prepend(str(tmp_path))
    # Opened again, nothing is imported a second time.
    for _ in range(2):
        check_unexecuted(package.name, "uy")
    assert sys.modules[f"{package.name}.users"].__doc__ == "Documentation."


def test_definitions_without_a_class_are_refused_by_their_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    with pytest.raises(DefinitionError, match=rf"{empty} defines no features class"):
        catalogue_of(str(empty))
