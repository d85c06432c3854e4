"""Online reads call @online functions with stored or streamed values, as of a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from memory_store import MemoryStore

from sunloom.errors import FeatureError
from sunloom.feature_store.online.registry import open_feature_set, store_plan, store_stream
from sunloom.feature_store.stores.online.lmdb import EmbeddedStore
from sunloom.feature_store.streaming.ingest import TileIngest
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.feature_sets import NOW

CLASSES = str(Path(__file__).parents[1].joinpath("features", "resolver_classes.py"))
START = datetime(2026, 3, 1, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
UTC_US = pl.Datetime("us", "UTC")
VISITS = {"id": pl.Int64, "guest_id": pl.Int64, "at": UTC_US, "paid": pl.Float64}
GUESTS = {"id": pl.Int64, "noted": UTC_US, "name": pl.String, "hotel_id": pl.String}


def _visits() -> pl.DataFrame:
    rows = [(1, 10, START, 4.0), (2, 11, START + HOUR, 7.0), (3, 10, START + 2 * HOUR, 9.0)]
    return pl.DataFrame(rows, schema=VISITS, orient="row")


def _guests() -> pl.DataFrame:
    rows = [(10, START, "ann", "h"), (11, START, "bo", "h")]
    return pl.DataFrame(rows, schema=GUESTS, orient="row")


def test_a_streamed_class_with_functions_reads_as_historical() -> None:
    plan = plan_of(CLASSES, "rs_visit").for_online()
    store = MemoryStore()
    layout = store_stream(store, plan, ["rs_visit", "rs_guest"])
    ingest = TileIngest(store, layout, 10**17)
    ingest.apply("rs_visit", _visits(), None)
    ingest.apply("rs_guest", _guests(), None)
    engine = FeatureEngine(plan, {"rs_visit": _visits(), "rs_guest": _guests()})
    for now in (START - HOUR, START, START + HOUR, START + 3 * HOUR):
        spine = pl.DataFrame({"id": [1, 2, 3], NOW: [now] * 3}).cast({NOW: UTC_US})
        expected = engine.compute(spine).to_dicts()
        found = open_feature_set(store, "rs_visit").read([1, 2, 3], now=now)
        nothing = dict.fromkeys(plan.outputs)
        assert [row or nothing for row in found] == expected
    assert found[0] == {"guest_id": 10, "paid": 4.0, "tax": 2.0, "shout": "ANN!"}


def test_records_are_completed_by_online_functions_as_of_a_time(tmp_path: Path) -> None:
    plan = plan_of(CLASSES, "rs_guest").for_online()
    store = EmbeddedStore(tmp_path / "online")
    hotels = pl.DataFrame(
        {"id": ["h"], "since": [START], "title": ["Grand"], "stars": [3]},
    ).cast({"since": UTC_US})
    engine = FeatureEngine(plan, {"rs_visit": _visits(), "rs_guest": _guests(), "rs_hotel": hotels})
    spine = pl.DataFrame({"id": [10, 11], NOW: [START + HOUR] * 2}).cast({NOW: UTC_US})
    rows = spine.hstack(engine.compute(spine)).rename({NOW: "event_time"})
    store.write("rs_guest", rows, key="id", time="event_time")
    store_plan(store, plan)
    later = START + 5 * HOUR
    as_written = open_feature_set(store, "rs_guest").read([10, 11])
    as_of_later = open_feature_set(store, "rs_guest").read([10, 11], now=later)
    assert as_written[0] is not None
    assert as_of_later[0] is not None
    # Visits are not streamed: what is counted of them stays as it was written.
    for name in ("spent", "taxes", "greeting", "doubled", "upper", "visit_count__86400__"):
        assert as_of_later[0][name] == as_written[0][name]
    assert as_written[0]["doubled"] == 6.0
    assert as_of_later[0]["both"] == "online ann"
    assert (as_of_later[0]["limited"], as_of_later[0]["careful"]) == (3, 10)


def test_rows_for_a_function_cannot_be_streamed() -> None:
    plan = plan_of(CLASSES, "rs_guest")
    with pytest.raises(FeatureError, match="cannot keep values of type struct"):
        store_stream(MemoryStore(), plan, ["rs_visit"])
