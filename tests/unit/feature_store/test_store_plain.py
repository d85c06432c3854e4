"""JSON's values in stored types, and what is none of a type."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sunloom.errors import RequestError
from sunloom.feature_store.stores.online.json_values import json_converter
from sunloom.feature_store.stores.online.lmdb import EmbeddedStore
from sunloom.serving.apps.features.ingest import check_rows, ingest_rows
from sunloom.serving.asgi import encode_json, parse_object

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("dtype", "value", "made"),
    [
        ("float64", 2, 2.0),
        ("int64", None, None),
        ("datetime", "2026-03-01T17:00:00+05:00", NOON),
        ("date", "2026-03-01", date(2026, 3, 1)),
        ("duration", 1.5, timedelta(seconds=1.5)),
        ("list[datetime]", ["2026-03-01T12:00:00Z", None], [NOON, None]),
        ("struct[a: float64, b: list[int64]]", {"a": 1}, {"a": 1.0, "b": None}),
    ],
)
def test_values(dtype: str, value: Any, made: Any) -> None:
    assert json_converter(dtype)(value) == made


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int64", 1.0),
        ("int64", True),
        ("int64", 2**63),
        ("float64", "1"),
        ("bool", 1),
        ("string", 1),
        ("datetime", "2026-03-01T12:00:00"),
        ("datetime", 5),
        ("date", "soon"),
        ("list[int64]", 1),
        ("list[int64]", [True]),
        ("struct[a: int64]", {"b": 1}),
    ],
)
def test_what_is_none_of_the_type(dtype: str, value: Any) -> None:
    with pytest.raises(ValueError):
        json_converter(dtype)(value)


def test_what_a_read_returns_can_be_ingested(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    table = pl.DataFrame(
        {
            "id": [1],
            "event_time": [NOON],
            "when": [NOON],
            "day": [date(2026, 3, 1)],
            "span": [timedelta(hours=1)],
            "amount": [2.5],
            "boxes": [[{"a": 1, "at": NOON}, None]],
        }
    )
    store.write("s", table)
    [values] = store.read("s", [1])
    sent = parse_object(encode_json({"feature_set": "s", "rows": [{"id": 2, **(values or {})}]}))
    assert check_rows(store, sent)["passed"] is True
    assert ingest_rows(store, sent)["written"] == 1
    assert store.read("s", [2]) == [values]
    sent["rows"][0] |= {"id": 3, "amount": 7}
    assert ingest_rows(store, sent)["written"] == 1
    assert store.read("s", [3], ["amount"]) == [{"amount": 7.0}]
    sent["rows"][0]["when"] = "yesterday"
    with pytest.raises(RequestError, match=r"when \(is_datetime\)"):
        ingest_rows(store, sent)
    sent["rows"][0] |= {"id": "three", "when": None}
    with pytest.raises(RequestError, match=r"rows\[0\]: id is no int64"):
        ingest_rows(store, sent)
    sent["rows"] = [{**sent["rows"][0], "id": 3}, {**sent["rows"][0], "id": 2**63}]
    with pytest.raises(RequestError, match=r"rows\[1\]: id is no int64"):
        ingest_rows(store, sent)
    sent["rows"][1] |= {"id": 4, "event_time": "0001-01-01T00:00:00+14:00"}
    with pytest.raises(RequestError, match=r"rows\[1\]: event_time '0001.* is not an ISO"):
        ingest_rows(store, sent)
    with pytest.raises(RequestError, match="nested more than 100 levels deep"):
        parse_object(b'{"rows": ' + b"[" * 200 + b"]" * 200 + b"}")
