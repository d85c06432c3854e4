from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import polars as pl
import pytest
from asgi import OpenGate, call

from sunloom.config import Settings
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.serving.apps.features.app import build_features_app, read_query
from sunloom.serving.asgi import ASGIApp
from sunloom.serving.auth.middleware import GatewayMiddleware

TIME = datetime(1998, 6, 30, tzinfo=UTC)


@pytest.fixture
def app(settings: Settings) -> ASGIApp:
    frame = pl.DataFrame(
        {
            "id": [1, 2],
            "event_time": [TIME, TIME],
            "recency_days": [3.5, float("nan")],
            "name": ["ann", None],
        }
    )
    open_online_store(settings).write("customer", frame)
    return GatewayMiddleware(
        build_features_app(settings), OpenGate("features", "ingest"), "features"
    )


def get(app: ASGIApp, path: str) -> Any:
    return asyncio.run(call(app, "GET", path))


def post(app: ASGIApp, path: str, body: Any) -> Any:
    return asyncio.run(call(app, "POST", path, json=body))


def test_one_entity(app: ASGIApp) -> None:
    assert get(app, "/features/customer?entity_id=1").json() == {
        "feature_set": "customer",
        "entity_id": 1,
        "found": True,
        "features": {"recency_days": 3.5, "name": "ann"},
    }
    assert get(app, "/features/customer?entity_id=2&features=recency_days").json()["features"] == {
        "recency_days": None
    }


def test_missing_entities_are_null_and_in_order(app: ASGIApp) -> None:
    body = {"feature_set": "customer", "entity_ids": [9, "2", 1]}
    results = post(app, "/features/batch", body).json()["results"]
    assert [(one["entity_id"], one["found"]) for one in results] == [
        (9, False),
        (2, True),
        (1, True),
    ]
    assert results[0]["features"] == {"recency_days": None, "name": None}


@pytest.mark.parametrize(
    ("path", "status", "param"),
    [
        ("/features/custmer?entity_id=1", 404, "feature_set"),
        ("/features/customer?entity_id=1&features=x", 404, "features"),
        ("/features/customer?entity_id=abc", 400, "entity_id"),
        ("/features/customer", 400, "entity_id"),
    ],
)
def test_bad_reads_name_the_field(app: ASGIApp, path: str, status: int, param: str) -> None:
    answer = get(app, path)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "feature_set"),
        ({"feature_set": "customer"}, "entity_ids"),
        ({"feature_set": "customer", "entity_ids": [1.5]}, "entity_ids"),
        ({"feature_set": "customer", "entity_ids": [True]}, "entity_ids"),
        ({"feature_set": "customer", "entity_ids": [1], "features": "a"}, "features"),
    ],
)
def test_bad_batches_name_the_field(app: ASGIApp, body: Any, param: str) -> None:
    answer = post(app, "/features/batch", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_other_methods_are_405(app: ASGIApp) -> None:
    assert asyncio.run(call(app, "DELETE", "/features/customer")).status_code == 405


def test_rows_are_checked_and_written(app: ASGIApp) -> None:
    wrong = {"feature_set": "customer", "rows": [{"id": 3, "recency_days": "x", "extra": 1}]}
    report = post(app, "/features/validate", wrong).json()
    failed = {(one["check"], one["feature"]) for one in report["checks"] if not one["passed"]}
    assert report["passed"] is False
    assert {("known_columns", "*"), ("is_float64", "recency_days"), ("present", "name")} <= failed
    assert post(app, "/features/ingest", wrong).status_code == 400
    row = {"id": 1, "recency_days": 1.0, "name": "new", "event_time": "1998-07-01T00:00:00+00:00"}
    right = {"feature_set": "customer", "rows": [row]}
    assert post(app, "/features/validate", right).json()["passed"] is True
    assert post(app, "/features/ingest", right).json()["written"] == 1
    assert get(app, "/features/customer?entity_id=1").json()["features"]["name"] == "new"


def test_a_key_that_reads_does_not_write(settings: Settings) -> None:
    reader = GatewayMiddleware(build_features_app(settings), OpenGate("features"), "features")
    refused = post(reader, "/features/ingest", {"feature_set": "customer", "rows": []})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
    writer = GatewayMiddleware(build_features_app(settings), OpenGate("ingest"), "features")
    assert get(writer, "/features").status_code == 403
    assert post(writer, "/features/ingest", {"rows": []}).status_code == 400


@pytest.mark.parametrize("time", ["9999-01-01T00:00:00Z", None])
def test_a_row_ahead_of_the_clock_is_not_written(app: ASGIApp, time: str | None) -> None:
    ahead = time or (datetime.now(UTC) + timedelta(days=1, minutes=1)).isoformat()
    rows = [
        {"id": 2, "recency_days": 1.0, "name": "now"},
        {"id": 1, "recency_days": 1.0, "name": "new", "event_time": ahead},
    ]
    answer = post(app, "/features/ingest", {"feature_set": "customer", "rows": rows})
    assert answer.status_code == 422
    assert "rows[1]: event_time is in the future" in answer.json()["error"]["message"]
    body = {"feature_set": "customer", "entity_ids": [1, 2], "features": ["name"]}
    results = post(app, "/features/batch", body).json()["results"]
    assert [one["features"]["name"] for one in results] == ["ann", None]
    rows[1]["event_time"] = (datetime.now(UTC) + timedelta(hours=23)).isoformat()
    answer = post(app, "/features/ingest", {"feature_set": "customer", "rows": rows})
    assert answer.json()["written"] == 2


def test_an_unknown_field_is_named_with_the_nearest(app: ASGIApp) -> None:
    body = {"feature_set": "customer", "entity_ids": [1], "feature": ["name"]}
    answer = post(app, "/features/batch", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "feature")
    assert "Did you mean 'features'" in answer.json()["error"]["hint"]


@pytest.mark.parametrize(
    "now",
    [
        "9999-12-31T23:59:59.999999-23:59",
        "0001-01-01T00:00:00+23:59",
        "2026-01-01T00:00:00",
        "x" * 4000,
    ],
)
def test_an_as_of_time_that_is_none_is_refused(app: ASGIApp, now: str) -> None:
    answer = get(app, f"/features/customer?entity_id=1&now={now}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "now")
    assert len(answer.text) < 400


def test_sets_are_listed(app: ASGIApp) -> None:
    assert get(app, "/features").json()["feature_sets"] == [
        {
            "name": "customer",
            "key": "id",
            "key_dtype": "int64",
            "features": {"recency_days": "float64", "name": "string"},
        }
    ]


@pytest.mark.parametrize(
    "query",
    [
        "entity_id=12",
        "entity_id=12&features=a,b",
        "features=&entity_id=12&entity_id=13",
        "entity_id=a%20b+c&now=1998-06-30T00:00:00%2B00:00",
        "entity_id",
        "&&entity_id=x=y&",
        "",
    ],
)
def test_queries_are_read_as_the_standard_library_reads_them(query: str) -> None:
    expected = {name: values[0] for name, values in parse_qs(query).items()}
    assert read_query(query) == expected
