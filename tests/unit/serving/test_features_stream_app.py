"""Streamed sets over HTTP: post events, read features of them, as of a time or now."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asgi import OpenGate, call

from sunloom.config import Settings
from sunloom.feature_store.online.registry import store_plan, store_stream
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.features.definitions.open import plan_of
from sunloom.serving.apps.features.app import build_features_app
from sunloom.serving.asgi import ASGIApp
from sunloom.serving.auth.middleware import GatewayMiddleware

CLASSES = str(Path(__file__).parents[1] / "features" / "stream_classes.py")
NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def app(settings: Settings) -> ASGIApp:
    store_stream(open_online_store(settings), plan_of(CLASSES, "st_rider"), ["st_trip"])
    return GatewayMiddleware(
        build_features_app(settings), OpenGate("features", "ingest"), "features"
    )


def _get(app: ASGIApp, path: str) -> Any:
    return asyncio.run(call(app, "GET", path))


def _post(app: ASGIApp, path: str, body: Any) -> Any:
    return asyncio.run(call(app, "POST", path, json=body))


def _trip(number: int, hours_ago: float, **values: Any) -> dict[str, Any]:
    at = (NOW - timedelta(hours=hours_ago)).isoformat()
    return {"id": number, "rider_id": 7, "at": at, "fare": 2.5, **values}


def test_events_count_at_once_and_as_of_a_time(app: ASGIApp) -> None:
    rows = [_trip(1, 30), _trip(2, 2, fare=None), _trip(3, 1, note="late")]
    answer = _post(app, "/features/ingest", {"feature_set": "st_rider", "rows": rows})
    assert answer.status_code == 200
    assert answer.json() == {"feature_sets": ["st_rider"], "rows": 3, "written": 3}
    wanted = "features=trips_in__86400__,trips_ever,spent__259200__,last_note,busy"
    now = _get(app, f"/features/st_rider?entity_id=7&{wanted}").json()
    assert now["found"] is True
    assert now["features"] == {
        "trips_in__86400__": 2,
        "trips_ever": 3,
        "spent__259200__": 5.0,
        "last_note": "late",
        "busy": "idle",
    }
    # The day's window was (yesterday, then]: the first trip was in it, the two later ones unseen.
    then = (NOW - timedelta(hours=7)).isoformat()
    past = _get(app, f"/features/st_rider?entity_id=7&{wanted}&now={then}").json()["features"]
    assert (past["trips_in__86400__"], past["trips_ever"], past["last_note"]) == (1, 1, None)
    body = {"feature_set": "st_rider", "entity_ids": [7, 8], "features": ["trips_ever"]}
    results = _post(app, "/features/batch", body).json()["results"]
    assert [one["found"] for one in results] == [True, False]
    assert results[1]["features"] == {"trips_ever": None}


def test_a_source_reaches_every_set_that_streams_it(app: ASGIApp, settings: Settings) -> None:
    store_stream(open_online_store(settings), plan_of(CLASSES, "st_city"), ["st_trip", "st_city"])
    rows = [_trip(1, 1, city_id="ulm")]
    answer = _post(app, "/features/ingest", {"source": "st_trip", "rows": rows})
    assert answer.json()["feature_sets"] == ["st_city", "st_rider"]
    city = _get(app, "/features/st_city?entity_id=ulm").json()
    assert city["features"] == {"name": None, "trips_in__86400__": 1}
    listed = {
        one["name"]: one["key_dtype"] for one in _get(app, "/features").json()["feature_sets"]
    }
    assert listed == {"st_city": "string", "st_rider": "int64"}
    ambiguous = _post(app, "/features/ingest", {"feature_set": "st_city", "rows": rows})
    assert ambiguous.status_code == 400
    assert "st_city, st_trip" in ambiguous.json()["error"]["hint"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"fare": "dear"}, "fare is not a number"),
        ({"at": "yesterday"}, "at is not a datetime"),
        ({"at": "2026-03-01T12:00:00"}, "at is not a datetime with a time zone"),
        ({"at": None}, "at is missing"),
        ({"rider_id": None}, "rider_id is missing"),
        ({"at": (NOW + timedelta(days=3)).isoformat()}, "at is in the future"),
    ],
)
def test_a_row_that_is_no_event_writes_nothing(app: ASGIApp, row: dict, reason: str) -> None:
    rows = [_trip(1, 1), _trip(2, 1) | row]
    answer = _post(app, "/features/ingest", {"feature_set": "st_rider", "rows": rows})
    assert answer.status_code == 422
    assert reason in answer.json()["error"]["message"]
    assert _get(app, "/features/st_rider?entity_id=7").json()["found"] is False


def test_wrong_requests(app: ASGIApp) -> None:
    assert _get(app, "/features/st_rider?entity_id=7&now=2026-03-01").status_code == 400
    assert _get(app, "/features/st_rider?entity_id=x").status_code == 400
    unknown = _get(app, "/features/st_ridr?entity_id=7")
    assert unknown.status_code == 404
    assert "st_rider" in unknown.json()["error"]["hint"]
    nobody = _post(app, "/features/ingest", {"source": "st_nobody", "rows": [{}]})
    assert nobody.status_code == 404
    assert "st_trip" in nobody.json()["error"]["hint"]
    assert _post(app, "/features/ingest", {"rows": [{}]}).status_code == 400


def test_a_materialized_set_is_derived_again_only_for_an_as_of_time(settings: Settings) -> None:
    import polars as pl

    store = open_online_store(settings)
    plan = plan_of(CLASSES, "st_rider")
    last = NOW - timedelta(hours=5)
    row = {"id": 7, "event_time": NOW, "last_trip": last, "idle_hours": 5.0, "trips_ever": 4}
    frame = pl.DataFrame([row]).with_columns(
        pl.col("event_time", "last_trip").cast(pl.Datetime("us", "UTC"))
    )
    store.write("st_rider", frame)
    store_plan(store, plan)
    app = GatewayMiddleware(
        build_features_app(settings), OpenGate("features", "ingest"), "features"
    )
    path = "/features/st_rider?entity_id=7&features=idle_hours,trips_ever"
    assert _get(app, path).json()["features"] == {"idle_hours": 5.0, "trips_ever": 4}
    later = (NOW + timedelta(hours=3)).isoformat()
    assert _get(app, f"{path}&now={later}").json()["features"] == {
        "idle_hours": 8.0,
        "trips_ever": 4,
    }
