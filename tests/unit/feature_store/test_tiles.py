"""Streams against the engine: any order, any batches, any as-of time, to the bit or to 1e-9."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_store import MemoryStore
from same_values import differences

from sunloom.errors import ConflictError, UsageError
from sunloom.feature_store.online.reader import OnlineReader
from sunloom.feature_store.online.tile_layout import build_layout
from sunloom.feature_store.streaming.ingest import TileIngest
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.feature_sets import NOW, Plan

CLASSES = str(Path(__file__).parents[1].joinpath("features", "stream_classes.py"))
START = datetime(2026, 3, 28, 22, tzinfo=UTC)
HOUR, DAY, US = timedelta(hours=1), timedelta(days=1), timedelta(microseconds=1)
UTC_US = pl.Datetime("us", "UTC")
FOREVER_US = 10**17
TRIPS = {
    "id": pl.Int64,
    "rider_id": pl.Int64,
    "city_id": pl.String,
    "at": UTC_US,
    "fare": pl.Float64,
    "seats": pl.Int64,
    "paid": pl.Boolean,
    "note": pl.String,
    "tip": pl.Float64,
    "until": UTC_US,
}
CITIES = {"id": pl.String, "at": UTC_US, "name": pl.String}

# Moments that meet each other, and each other a window later, to the microsecond.
_time = st.builds(
    lambda days, hours, us: START + days * DAY + hours * HOUR + us * US,
    st.integers(0, 8),
    st.sampled_from([0, 6, 7]),
    st.integers(-1, 1),
)
_fare = st.sampled_from([None, 1.5, 20.0, -0.0, 0.0, 99.25, math.nan, math.inf, 1e-9])
_trip = st.fixed_dictionaries(
    {
        "rider_id": st.sampled_from([1, 2, -(2**63), None]),
        "city_id": st.sampled_from(["ulm", "bonn", None]),
        "at": _time,
        "fare": _fare,
        "seats": st.sampled_from([None, 1, 2, -3, 2**62]),
        "paid": st.sampled_from([None, True, False]),
        "note": st.sampled_from([None, "x", "ü", ""]),
        "tip": st.sampled_from([None, 1.0]),
        "until": st.one_of(st.none(), _time),
    }
)
_city = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["ulm", "bonn"]),
        "at": _time,
        "name": st.sampled_from([None, "Ulm", "Bonn"]),
    }
)


@pytest.fixture(scope="module", params=["st_rider", "st_trip"])
def plan(request: pytest.FixtureRequest) -> Plan:
    return plan_of(CLASSES, request.param)


@pytest.fixture(scope="module")
def rider_plan() -> Plan:
    return plan_of(CLASSES, "st_rider")


def _differences(plan: Plan, read: list, sources: dict, queries: list) -> dict:
    """Query to the values that differ; all queries are one run of the engine."""
    key = pl.String if plan.root.feature(plan.root.key).dtype == "string" else pl.Int64
    spine = pl.DataFrame(queries, schema={"id": key, NOW: UTC_US}, orient="row")
    wrong = {}
    for query, found, row in zip(
        queries, read, FeatureEngine(plan, sources).compute(spine).to_dicts(), strict=True
    ):
        if found is not None and (other := differences(found, row)):
            wrong[query] = other
    return wrong


def _no_overflow(trips: list[dict]) -> bool:
    return sum(abs(trip["seats"] or 0) for trip in trips) < 2**63


@given(
    trips=st.lists(_trip, max_size=24).filter(_no_overflow),
    cities=st.lists(_city, max_size=4),
    cuts=st.lists(st.integers(0, 24), max_size=3),
    as_of_times=st.lists(_time, min_size=1, max_size=3),
    tile_s=st.sampled_from([None, 3_600, 86_400, 7 * 86_400]),
)
@settings(max_examples=80, deadline=None)
def test_any_order_and_batches_give_what_the_engine_gives(
    plan: Plan, trips: list, cities: list, cuts: list, as_of_times: list, tile_s: int | None
) -> None:
    store = MemoryStore()
    layout = build_layout(plan, ("st_trip", "st_city"), tile_s)
    ingest = TileIngest(store, layout, FOREVER_US)
    all_trips = pl.DataFrame([{"id": i, **t} for i, t in enumerate(trips)], schema=TRIPS)
    all_cities = pl.DataFrame(cities, schema=CITIES)
    if layout.indexes_of("st_city"):
        ingest.apply("st_city", all_cities, None)
    ends = sorted({min(cut, len(trips)) for cut in cuts} | {len(trips)})
    for start, end in zip([0, *ends], ends, strict=False):
        ingest.apply("st_trip", all_trips.slice(start, end - start), None)
    reader = OnlineReader(store, plan, layout)
    ids = [1, 2, -(2**63), 77] if plan.feature_set == "st_rider" else [0, 1, 5, 99]
    sources = {"st_trip": all_trips, "st_city": all_cities}
    read = [values for now in as_of_times for values in reader.read(ids, now)]
    queries = [(one, now) for now in as_of_times for one in ids]
    assert not _differences(plan, read, sources, queries)


@given(
    trips=st.lists(_trip, min_size=1, max_size=24).filter(_no_overflow),
    size=st.integers(1, 9),
    lateness_h=st.sampled_from([0, 6, 48]),
    ahead=st.sampled_from([0 * US, HOUR, DAY, 3 * DAY, 3 * DAY + US]),
)
@settings(max_examples=80, deadline=None)
def test_a_replay_is_right_as_of_every_time_it_has_reached(
    rider_plan: Plan, trips: list, size: int, lateness_h: int, ahead: timedelta
) -> None:
    """Old tiles go into totals as time goes on; what is read at the present stays exact."""
    plan = rider_plan
    store = MemoryStore()
    layout = build_layout(plan, ("st_trip",), 3_600)
    ingest = TileIngest(store, layout, lateness_h * 3_600_000_000)
    reader = OnlineReader(store, plan, layout)
    table = pl.DataFrame([{"id": i, **t} for i, t in enumerate(trips)], schema=TRIPS)
    for end in range(size, len(trips) + size, size):
        latest = table.head(end)["at"].max()
        micros = int((latest - datetime(1970, 1, 1, tzinfo=UTC)) / US)
        ingest.apply("st_trip", table.slice(end - size, size), micros)
        ids = [1, 2, -(2**63)]
        now = latest + ahead
        sources, queries = {"st_trip": table.head(end)}, [(one, now) for one in ids]
        assert not _differences(plan, reader.read(ids, now), sources, queries), end


def _table(*rows: tuple[int, datetime, float]) -> pl.DataFrame:
    events = [
        {"id": i, "rider_id": rider, "at": at, "fare": fare}
        for i, (rider, at, fare) in enumerate(rows)
    ]
    return pl.DataFrame(events, schema=TRIPS)


def test_old_tiles_lose_their_events_and_keep_their_totals() -> None:
    plan = plan_of(CLASSES, "st_rider").model_copy(update={"outputs": ("trips_ever", "mean_ever")})
    layout = build_layout(plan, ("st_trip",), 3_600)
    store = MemoryStore()
    ingest = TileIngest(store, layout, 0)
    days = [(1, START + day * DAY, float(day)) for day in range(10)]
    ingest.apply("st_trip", _table(*days), int(days[-1][1].timestamp() * 1e6))
    _, tiles = (store.spaces[name] for name in sorted(store.spaces))
    assert len(tiles) == 1
    reader = OnlineReader(store, plan, layout)
    assert reader.read([1], days[-1][1]) == [{"trips_ever": 10, "mean_ever": 4.5}]
    with pytest.raises(UsageError, match="too early"):
        reader.read([1], days[3][1])
    # A straggler from before still counts.
    ingest.apply("st_trip", _table((1, START, 45.5)), int(days[-1][1].timestamp() * 1e6))
    assert reader.read([1], days[-1][1]) == [
        {"trips_ever": 11, "mean_ever": pytest.approx(90.5 / 11)}
    ]
    assert len(tiles) == 1


def test_a_second_writer_of_a_place_is_found_out() -> None:
    plan = plan_of(CLASSES, "st_rider")
    layout = build_layout(plan, ("st_trip",))
    store = MemoryStore()
    ingest = TileIngest(store, layout, 0)
    first = (("offset", b"t/0", b"1"), None)
    ingest.apply("st_trip", _table((1, START, 1.0)), None, first)
    with pytest.raises(ConflictError, match="advanced t/0"):
        ingest.apply("st_trip", _table((1, START, 1.0)), None, first)
    assert OnlineReader(store, plan, layout).read([1], START)[0]["trips_ever"] == 1


def test_writers_of_one_entity_do_not_lose_each_others_events() -> None:
    plan = plan_of(CLASSES, "st_rider")
    layout = build_layout(plan, ("st_trip",))

    class Contended(MemoryStore):
        """Another writer always comes between a batch's read and its write, three times."""

        others = 3

        def apply(self, writes: Any, expected: Any = ()) -> bool:
            if self.others:
                self.others -= 1
                TileIngest(self, layout, 0).apply("st_trip", _table((1, START, 2.0)), None)
            return super().apply(writes, expected)

    store = Contended()
    TileIngest(store, layout, 0).apply("st_trip", _table((1, START, 1.0)), None)
    found = OnlineReader(store, plan, layout).read([1], START)[0]
    assert found["trips_ever"] == 4
    assert found["spent__86400__"] == 7.0


def test_unknown_entities_and_naive_times() -> None:
    plan = plan_of(CLASSES, "st_rider")
    layout = build_layout(plan, ("st_trip",))
    reader = OnlineReader(MemoryStore(), plan, layout)
    assert reader.read([5, "6"], START) == [None, None]
    with pytest.raises(UsageError, match="no time zone"):
        reader.read([5], datetime(2026, 1, 1))
    with pytest.raises(UsageError, match="not an integer"):
        reader.read(["five"], START)
