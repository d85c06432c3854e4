"""A value older than its feature allows is null, or the default, as of every moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_store import MemoryStore

from sunloom.config import load_config
from sunloom.config.features import FeaturesRecipe
from sunloom.errors import DefinitionError
from sunloom.feature_store.materialization.materialize import materialize
from sunloom.feature_store.online.registry import open_feature_set, store_stream
from sunloom.feature_store.stores.offline_store import open_offline_store
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.feature_store.streaming.ingest import TileIngest
from sunloom.features.definitions.open import catalogue_of, plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.historical.retrieve import historical_polars
from sunloom.features.plan.feature_sets import NOW, Plan
from sunloom.features.sources.scan import open_scan

US = timedelta(microseconds=1)
HOUR = timedelta(hours=1)
START = datetime(2026, 3, 28, 23, tzinfo=UTC)
UTC_US = pl.Datetime("us", "UTC")

SOURCE = """
from datetime import timedelta
from chalk import _, DataFrame, FeatureTime, Primary, feature, online
from chalk.features import features

@features(name="sl_age", max_staleness="3h")
class Reading:
    id: Primary[int]
    at: FeatureTime
    plain: float | None
    always: float | None = feature(max_staleness="infinity")
    exact: float | None = feature(max_staleness="0s")
    hour: float | None = feature(max_staleness=timedelta(hours=1))
    filled: float = feature(max_staleness="1h", default=-1.0)
    limited: float | None = feature(max_staleness="1h", max=5.0, strict=True)
    twice: float | None = _.hour * 2.0
    asked: float | None = feature(max_staleness="1h")

@online
def ask(value: Reading.hour) -> Reading.asked:
    return value + 1

@features(name="sl_age_site")
class Site:
    id: Primary[int]
    reading_id: Reading.id
    reading: Reading
    seen: float | None = _.reading.hour
"""
READ = ("plain", "always", "exact", "hour", "filled", "limited")


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("age") / "ages.py"
    file.write_text(SOURCE)
    return str(file)


@pytest.fixture(scope="module")
def plan(definitions: str) -> Plan:
    return Plan.model_validate_json(plan_of(definitions, "sl_age").model_dump_json())


def _answer(plan: Plan, seen: list[tuple[datetime, float | None]], asked: list[datetime]):
    readings = pl.DataFrame(
        {"id": [1] * len(seen), "at": [at for at, _ in seen]},
        schema={"id": pl.Int64, "at": UTC_US},
    ).with_columns(pl.Series(name, [v for _, v in seen], pl.Float64) for name in READ)
    sites = pl.DataFrame({"id": [1], "reading_id": [1]})
    questions = pl.DataFrame({"id": [1] * len(asked), NOW: asked}, schema_overrides={NOW: UTC_US})
    tables = {"sl_age": readings, "sl_age_site": sites}
    return (
        FeatureEngine(
            plan, {n: tables[n] for n in tables if n in {c.namespace for c in plan.classes}}
        )
        .compute(questions)
        .to_dicts()
    )


def _brute(seen: list[tuple[datetime, float | None]], now: datetime) -> dict[str, float | None]:
    visible = [pair for pair in seen if pair[0] <= now]
    at, value = max(visible, key=lambda pair: pair[0]) if visible else (START, None)
    within = {
        name: value if now - at <= limit else None
        for name, limit in (
            ("plain", 3 * HOUR),
            ("always", timedelta.max),
            ("exact", timedelta(0)),
            ("hour", HOUR),
            ("filled", HOUR),
        )
    }
    within["filled"] = -1.0 if within["filled"] is None else within["filled"]
    hour = within["hour"]
    return within | {
        "limited": hour if hour is not None and hour <= 5 else None,
        "twice": None if hour is None else hour * 2,
        "asked": None if hour is None else hour + 1,
    }


_moments = st.builds(
    lambda hours, us: START + hours * HOUR + us * US, st.integers(0, 6), st.integers(-1, 1)
)


@settings(max_examples=40, deadline=None)
@given(
    seen=st.lists(
        st.tuples(_moments, st.sampled_from([None, 1.0, 9.0])), unique_by=lambda p: p[0], max_size=6
    ),
    asked=st.lists(_moments, min_size=1, max_size=6),
)
def test_every_age_is_judged_as_of_the_moment(
    plan: Plan, seen: list[tuple[datetime, float | None]], asked: list[datetime]
) -> None:
    for now, found in zip(asked, _answer(plan, seen, asked), strict=True):
        expected = _brute(seen, now)
        assert {name: found[name] for name in expected} == expected


def test_exactly_as_old_as_allowed_counts(plan: Plan) -> None:
    at_edge, after = _answer(plan, [(START, 2.0)], [START + HOUR, START + HOUR + US])
    assert (at_edge["hour"], at_edge["filled"]) == (2.0, 2.0)
    assert (after["hour"], after["filled"], after["always"]) == (None, -1.0, 2.0)


def test_through_a_has_one_too(definitions: str) -> None:
    site = plan_of(definitions, "sl_age_site")
    found = _answer(site, [(START, 2.0)], [START + HOUR, START + HOUR + US])
    assert [row["seen"] for row in found] == [2.0, None]


@pytest.mark.parametrize(
    ("declared", "construct"),
    [
        ('feature(max_staleness="1d")', "needs to know when"),
        ('feature(offline_ttl="1d")', "offline_ttl=1 day"),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path: Path, declared: str, construct: str) -> None:
    name = f"sl_stale_{declared[8:15]}".replace("(", "")
    file = tmp_path / "stale.py"
    file.write_text(
        "from chalk import Primary, feature\nfrom chalk.features import features\n\n\n"
        f'@features(name="{name}")\nclass R:\n    id: Primary[int]\n    a: float = {declared}\n'
    )
    with pytest.raises(DefinitionError, match=rf"stale\.py:8.*{construct}") as caught:
        catalogue_of(str(file)).check_complete()
    assert "FeatureTime" in caught.value.hint or "max_staleness" in caught.value.hint


def _recipe(tmp_path: Path, definitions: str) -> FeaturesRecipe:
    readings = pl.DataFrame(
        {"id": [1, 2, 3], "at": [START, START - HOUR, START - 4 * HOUR]},
        schema={"id": pl.Int64, "at": UTC_US},
    ).with_columns(pl.Series(name, [2.0, 2.0, 2.0], pl.Float64) for name in READ)
    readings.write_parquet(tmp_path / "readings.parquet")
    recipe = tmp_path / "ages.yaml"
    recipe.write_text(
        f"definitions: {definitions}\nfeature_set: sl_age\n"
        "feature_store: {batch_source: {type: files, tables: "
        f"{{sl_age: {tmp_path / 'readings.parquet'}}}}}}}\n"
        f"online: {{as_of: {START.isoformat()}}}\nexecution: {{engine: polars}}\n"
    )
    sets = [f"paths.state={tmp_path / 'state'}", f"paths.outputs={tmp_path / 'outputs'}"]
    return load_config(FeaturesRecipe, recipe=recipe, sets=sets).config


@pytest.mark.parametrize("later", [timedelta(0), HOUR, HOUR + US, 3 * HOUR, 3 * HOUR + US])
def test_stored_values_grow_stale_as_historical_ones_do(
    plan: Plan,
    definitions: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    project_root: Path,
    later: timedelta,
) -> None:
    monkeypatch.setenv("SUNLOOM_CONF", str(project_root / "conf"))
    recipe = _recipe(tmp_path, definitions)
    assert materialize(recipe).online_entities == 3
    store = open_online_store(recipe)
    ids, now = [1, 2, 3], START + later
    read = open_feature_set(store, "sl_age").read(ids, now=now)
    entities = pl.DataFrame({"id": ids, "event_time": [now] * 3}).cast({"event_time": UTC_US})
    sources = {"sl_age": tmp_path / "readings.parquet"}
    expected = (
        historical_polars(open_scan(plan, sources), entities).table.select(plan.outputs).to_dicts()
    )
    assert read == expected
    assert open_feature_set(store, "sl_age").schema.names == plan.outputs
    assert "hour__until__" not in open_offline_store(recipe).read("sl_age").columns
    # Without a moment the present counts: all but what holds for ever has ended.
    [present, *_] = open_feature_set(store, "sl_age").read(ids)
    assert present is not None
    assert {name for name, value in present.items() if value is not None} == {"always", "filled"}
    assert present["filled"] == -1.0


def test_streamed_values_grow_stale_too(plan: Plan) -> None:
    store = MemoryStore()
    events = [(START, 2.0), (START + HOUR, 3.0)]
    layout = store_stream(store, plan, ["sl_age"])
    rows = pl.DataFrame(
        {"id": [1, 1], "at": [at for at, _ in events]}, schema={"id": pl.Int64, "at": UTC_US}
    ).with_columns(pl.Series(name, [v for _, v in events], pl.Float64) for name in READ)
    TileIngest(store, layout, 10**17).apply("sl_age", rows, None)
    for now in (START, START + HOUR - US, START + HOUR, START + 2 * HOUR, START + 2 * HOUR + US):
        [expected] = _answer(plan, events, [now])
        assert open_feature_set(store, "sl_age").read([1], now=now) == [expected]
