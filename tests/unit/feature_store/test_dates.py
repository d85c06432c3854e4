"""Dates: from CSV and JSON through every executor, and out as ISO text."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from memory_store import MemoryStore
from typer.testing import CliRunner

from sunloom.cli.main import app
from sunloom.config.features import FeaturesRecipe
from sunloom.config.loading.load import load_config
from sunloom.feature_store.materialization.materialize import materialize
from sunloom.feature_store.online.registry import open_feature_set, store_stream
from sunloom.feature_store.streaming.decode import MessageDecoder
from sunloom.feature_store.streaming.ingest import TileIngest
from sunloom.features.definitions.open import plan_of
from sunloom.features.historical.retrieve import historical_polars
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.sources.scan import open_scan
from sunloom.features.sources.typed_rows import conform

DEFINITIONS = """
from datetime import date, datetime, timedelta
from chalk import _, DataFrame, FeatureTime, Primary, online
from chalk.features import features
import chalk.functions as F, pyarrow as pa

@features(name="dt_visit")
class Visit:
    id: Primary[int]
    user_id: "User.id"
    at: FeatureTime
    day: date

@features(name="dt_user")
class User:
    id: Primary[str]
    at: FeatureTime
    dob: date
    known: date = date(2020, 1, 1)
    days: list[date]
    visits: DataFrame[Visit]
    first: date = _.visits[_.day].min()
    last: date = _.visits[_.day].last()
    different: int = _.visits[_.day].count_distinct()
    seen: list[date] = _.visits[_.day].array_agg()
    year: int = F.year(_.dob)
    age_days: float = F.total_seconds(_.chalk_now - _.dob) / 86400
    later: datetime = _.dob + timedelta(hours=5)
    text: str = F.cast(_.dob, pa.string())
    again: date = F.cast(F.cast(_.text, pa.date32()), pa.date32())
    midnight: datetime = F.cast(_.dob, pa.timestamp("us"))
    is_old: bool = _.dob < date(2000, 1, 1)
    grown: date

@online
def grown(dob: User.dob) -> User.grown:
    return dob.replace(year=dob.year + 18)
"""
USERS = """id,at,dob,known,days
a,2025-01-01T00:00:00Z,1999-02-03,,"[""2020-01-02"", null]"
b,2025-01-01T00:00:00Z,2001-12-31 00:00:00,2021-01-01,
"""
VISITS = """id,user_id,at,day
1,a,2025-01-02T00:00:00Z,2024-05-06
2,a,2025-01-03T00:00:00Z,2024-05-05
3,a,2025-01-04T00:00:00Z,2024-05-05
"""
AS_OF = datetime(2025, 2, 1, tzinfo=UTC)
EXPECTED: list[dict[str, Any]] = [
    {
        "dob": date(1999, 2, 3),
        "known": date(2020, 1, 1),
        "days": [date(2020, 1, 2), None],
        "first": date(2024, 5, 5),
        "last": date(2024, 5, 5),
        "different": 2,
        "seen": [date(2024, 5, 6), date(2024, 5, 5), date(2024, 5, 5)],
        "year": 1999,
        "age_days": 9495.0,
        "later": datetime(1999, 2, 3, 5, tzinfo=UTC),
        "text": "1999-02-03",
        "again": date(1999, 2, 3),
        "midnight": datetime(1999, 2, 3, tzinfo=UTC),
        "is_old": True,
        "grown": date(2017, 2, 3),
    },
    {
        "dob": date(2001, 12, 31),
        "known": date(2021, 1, 1),
        "days": None,
        "first": None,
        "last": None,
        "different": 0,
        "seen": None,
        "year": 2001,
        "age_days": 8433.0,
        "later": datetime(2001, 12, 31, 5, tzinfo=UTC),
        "text": "2001-12-31",
        "again": date(2001, 12, 31),
        "midnight": datetime(2001, 12, 31, tzinfo=UTC),
        "is_old": False,
        "grown": date(2019, 12, 31),
    },
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dates")
    (path / "dates.py").write_text(DEFINITIONS)
    (path / "users.csv").write_text(USERS)
    (path / "visits.csv").write_text(VISITS)
    return path


@pytest.fixture(scope="module")
def plan(folder: Path) -> Plan:
    plan = plan_of(str(folder / "dates.py"), "dt_user")
    return Plan.model_validate_json(plan.model_dump_json())


def test_historical_values_of_csv(plan: Plan, folder: Path) -> None:
    sources = {"dt_user": folder / "users.csv", "dt_visit": folder / "visits.csv"}
    entities = pl.DataFrame({"id": ["a", "b"], "event_time": [AS_OF, AS_OF]})
    table = historical_polars(open_scan(plan, sources), entities).table
    assert table.select(plan.outputs).to_dicts() == EXPECTED


def test_materialised_values_and_their_json(
    folder: Path, monkeypatch: pytest.MonkeyPatch, project_root: Path
) -> None:
    monkeypatch.setenv("SUNLOOM_CONF", str(project_root / "conf"))
    recipe = folder / "dates.yaml"
    recipe.write_text(
        f"definitions: {folder / 'dates.py'}\nfeature_set: dt_user\n"
        "feature_store: {batch_source: {type: files, tables: "
        f"{{dt_user: {folder / 'users.csv'}, dt_visit: {folder / 'visits.csv'}}}}}}}\n"
        f"online: {{as_of: {AS_OF.isoformat()}}}\nexecution: {{engine: polars}}\n"
    )
    sets = [f"paths.state={folder / 'state'}", f"paths.outputs={folder / 'outputs'}"]
    assert materialize(load_config(FeaturesRecipe, recipe=recipe, sets=sets).config)
    options = [option for value in sets for option in ("--set", value)]
    printed = CliRunner().invoke(app, ["features", "get", "dt_user", "a", "b", "--json", *options])
    assert printed.exit_code == 0, printed.output
    rows = [result["features"] for result in json.loads(printed.stdout)["results"]]
    assert rows == [{name: _to_json(value) for name, value in row.items()} for row in EXPECTED]


def _to_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value


def test_streamed_values_of_json(plan: Plan) -> None:
    store = MemoryStore()
    # Streams keep scalars alone.
    outputs = tuple(name for name in plan.outputs if name != "days")
    plan = plan.model_copy(update={"outputs": outputs})
    layout = store_stream(store, plan, ["dt_user", "dt_visit"])
    users = [
        {"id": "a", "dob": "1999-02-03"},
        {"id": "b", "dob": "2001-12-31", "known": "2021-01-01"},
    ]
    visits = [
        {"id": 1, "user_id": "a", "at": "2025-01-02T00:00:00Z", "day": "2024-05-06"},
        {"id": 2, "user_id": "a", "at": "2025-01-03T00:00:00Z", "day": "2024-05-05"},
        {"id": 3, "user_id": "a", "at": "2025-01-04T00:00:00Z", "day": "2024-05-05"},
        {"id": 4, "user_id": "a", "at": "2025-01-05T00:00:00Z", "day": "5 May"},
    ]
    for user in users:
        user["at"] = "2025-01-01T00:00:00Z"
    for namespace, events in (("dt_user", users), ("dt_visit", visits)):
        item = plan.class_plan(namespace)
        names = [f.name for f in item.features if f.expression is None and f.name != "days"]
        decoder = MessageDecoder(item, names, ["at"])
        decoded = decoder.decode([json.dumps(event).encode() for event in events])
        assert [place for place, _ in decoded.rejected] == ([3] if namespace == "dt_visit" else [])
        TileIngest(store, layout, 10**17).apply(namespace, decoded.rows, None)
    assert open_feature_set(store, "dt_user").read(["a", "b"], now=AS_OF) == [
        {name: row[name] for name in outputs} for row in EXPECTED
    ]


def test_a_time_of_day_is_never_lost(plan: Plan) -> None:
    times = pl.DataFrame({"dob": [datetime(2001, 2, 3), datetime(2001, 2, 3, 4)]})
    typed = conform(times, plan.root, ["dob"], "users.parquet")
    assert typed.rows["dob"].to_list() == [date(2001, 2, 3)]
    assert typed.damaged["reason"].to_list() == ["dob is not a date such as 2026-03-01"]
