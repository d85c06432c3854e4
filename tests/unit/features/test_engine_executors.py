"""Every aggregation, list and struct: one answer of the engine, of parts and of the stream."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from feature_parts import in_parts
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_store import MemoryStore
from readings import MOMENTS, ONE_READING, READINGS, START

from sunloom.feature_store.online.reader import OnlineReader
from sunloom.feature_store.online.tile_layout import build_layout
from sunloom.feature_store.streaming.ingest import TileIngest
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.historical.retrieve import historical_polars
from sunloom.features.plan.feature_sets import NOW, Plan
from sunloom.features.sources.scan import open_scan

HERE = Path(__file__).parent
AGGREGATES = str(HERE / "chalk_classes_aggregates.py")
NESTED = str(HERE / "chalk_classes_nested.py")
UTC_US = pl.Datetime("us", "UTC")
FOREVER_US = 10**17
METERS = ["a", "ä", "", "nobody"]


@pytest.fixture(scope="module")
def meter_plan() -> Plan:
    return plan_of(AGGREGATES, "sl_meter")


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, list) and isinstance(found, list):
        return len(found) == len(expected) and all(map(_same, found, expected))
    if isinstance(expected, float) and isinstance(found, float):
        both_nan = math.isnan(expected) and math.isnan(found)
        return both_nan or math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)
    return type(found) is type(expected) and bool(found == expected)


def _frame(readings: list[dict[str, Any]]) -> pl.DataFrame:
    small = [r | {"units": r["units"] and max(-9, min(9, r["units"]))} for r in readings]
    return pl.DataFrame([{"id": i, **r} for i, r in enumerate(small)], schema=READINGS)


@given(st.lists(ONE_READING, max_size=25), st.lists(MOMENTS, min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_the_stream_gives_what_the_engine_gives(
    meter_plan: Plan, readings: list, times: list[datetime]
) -> None:
    timed = [reading for reading in readings if reading["at"] is not None]
    store, layout = MemoryStore(), build_layout(meter_plan, ("sl_reading",))
    frame = _frame(timed)
    ingest = TileIngest(store, layout, FOREVER_US)
    for start in range(0, len(timed), 7):
        ingest.apply("sl_reading", frame.slice(start, 7), None)
    reader = OnlineReader(store, meter_plan, layout)
    queries = [(meter, now) for now in times for meter in METERS]
    query_frame = pl.DataFrame(queries, schema={"id": pl.String, NOW: UTC_US}, orient="row")
    results = FeatureEngine(meter_plan, {"sl_reading": frame}).compute(query_frame).to_dicts()
    read = [values for now in times for values in reader.read(METERS, now)]
    for query, found, row in zip(queries, read, results, strict=True):
        if found is not None:
            wrong = {n: (found[n], row[n]) for n in row if not _same(found[n], row[n])}
            assert not wrong, query


def _readings(rows: int) -> list[dict[str, Any]]:
    return [
        {
            "meter_id": METERS[i % 3],
            "at": START + timedelta(hours=i % 50),
            "level": None if i % 7 == 0 else float(i % 13) - 5.5,
            "units": i % 5,
            "flag": i % 3 == 0,
            "label": f"l{i % 4}",
            "seen": START + timedelta(minutes=i * 37 % 101),
        }
        for i in range(rows)
    ]


@pytest.mark.parametrize("partitions", [1, 3])
def test_parts_give_what_the_whole_gives(tmp_path: Path, partitions: int) -> None:
    plan = plan_of(AGGREGATES, "sl_meter")
    path = tmp_path / "readings.parquet"
    _frame(_readings(300)).write_parquet(path, row_group_size=90)
    times = [START + timedelta(hours=h) for h in (0, 24, 30, 60)]
    entities = pl.DataFrame({"id": METERS * 4, "event_time": sorted(times * 4)})
    found, _ = in_parts(plan, {"sl_reading": path}, entities, partitions)
    expected = historical_polars(open_scan(plan, {"sl_reading": path}), entities).table
    for name in found.columns:
        assert _same(found[name].to_list(), expected[name].to_list()), name
    assert found["labels"].list.len().max() == 100


@pytest.mark.parametrize("partitions", [1, 3])
def test_parts_carry_lists_and_structs(tmp_path: Path, partitions: int) -> None:
    plan = plan_of(NESTED, "sl_person")
    people = pl.DataFrame(
        {
            "id": range(6),
            "at": [START] * 6,
            "address": [{"city": f"c{i}", "zip": i, "place": {"town": "t"}} for i in range(6)],
            "tags": [[f"t{j}" for j in range(i)] for i in range(6)],
            "marks": [[0.5] * i for i in range(6)],
            "places": [[{"town": "x", "code": i}] for i in range(6)],
        }
    )
    visits = pl.DataFrame(
        {
            "id": range(30),
            "person_id": [i % 6 for i in range(30)],
            "at": [START + timedelta(hours=i) for i in range(30)],
            "minutes": [float(i * 7 % 11) for i in range(30)],
            "tags": [["v"] * (i % 3) for i in range(30)],
            "place": [{"town": f"t{i % 2}", "code": i} for i in range(30)],
        }
    )
    sources = {"sl_person": tmp_path / "p.parquet", "sl_visit": tmp_path / "v.parquet"}
    people.with_columns(pl.col("at").cast(UTC_US)).write_parquet(sources["sl_person"])
    visits.with_columns(pl.col("at").cast(UTC_US)).write_parquet(sources["sl_visit"])
    entities = pl.DataFrame({"id": range(7), "event_time": [START + timedelta(days=1)] * 7})
    found, _ = in_parts(plan, sources, entities, partitions)
    expected = historical_polars(open_scan(plan, sources), entities).table.select(found.columns)
    assert found.to_dicts() == expected.to_dicts()
    assert found["last_place"].to_list()[0] == {"town": "t0", "code": 24}
