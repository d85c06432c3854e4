"""Lists, structs, composite keys, window defaults and features on features, against brute force."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sunloom.errors import DataError
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.historical.retrieve import historical_polars
from sunloom.features.plan.explain import plan_text
from sunloom.features.plan.feature_sets import NOW, Plan
from sunloom.features.plan.polars_dtypes import POLARS
from sunloom.features.sources.scan import open_scan
from sunloom.features.sources.typed_rows import read_source

CLASSES = str(Path(__file__).with_name("chalk_classes_nested.py"))
START = datetime(2026, 10, 24, 22, tzinfo=UTC)
DAY = timedelta(days=1)
US = timedelta(microseconds=1)

_times = st.builds(
    lambda days, us: START + days * DAY + us * US, st.integers(0, 4), st.integers(-1, 1)
)
_shops = st.sampled_from(["a", "b", None])
_items = st.sampled_from([1, 2, None])
_order = st.fixed_dictionaries(
    {
        "shop": _shops,
        "item": _items,
        "at": _times,
        "units": st.sampled_from([None, 1.0, 2.5]),
        "price": st.sampled_from([None, 4.0, 6.0]),
    }
)
_stock = st.fixed_dictionaries(
    {"shop": _shops, "item": _items, "at": _times, "amount": st.sampled_from([None, 1, 9])}
)
_offer = st.fixed_dictionaries(
    {"shop": _shops, "item": _items, "at": _times, "price": st.sampled_from([None, 4.5])}
)


@pytest.fixture(scope="module")
def stock_plan() -> Plan:
    return plan_of(CLASSES, "sl_stock")


@pytest.fixture(scope="module")
def offer_plan() -> Plan:
    return plan_of(CLASSES, "sl_offer")


def _frame(plan: Plan, namespace: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows numbered from 0, columns that they lack null."""
    item = plan.class_plan(namespace)
    own = [f for f in item.features if f.expression is None]
    held = [{f.name: row.get(f.name) for f in own} | {"id": i} for i, row in enumerate(rows)]
    return pl.DataFrame(held, schema={f.name: POLARS[f.dtype] for f in own})


def _query_frame(queries: list[tuple[int, datetime]]) -> pl.DataFrame:
    schema = {"id": pl.Int64, NOW: pl.Datetime("us", "UTC")}
    return pl.DataFrame(queries, schema=schema, orient="row")


def _matching(rows: list[dict[str, Any]], like: dict[str, Any]) -> list[dict[str, Any]]:
    known = None not in (like["shop"], like["item"])
    return [r for r in rows if known and (r["shop"], r["item"]) == (like["shop"], like["item"])]


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _stock_at(
    stock: dict[str, Any] | None, orders: list[dict[str, Any]], now: datetime
) -> dict[str, Any]:
    """A stock's own features as of a time; its keys are unknown before its row is visible."""
    key = {"shop": None, "item": None} if stock is None or stock["at"] > now else stock
    seen = sorted((o for o in _matching(orders, key) if o["at"] <= now), key=lambda o: o["at"])

    def of(name: str, days: int = 99) -> list[float]:
        return [o[name] for o in seen if o[name] is not None and o["at"] > now - days * DAY]

    ordered = math.fsum(of("units"))

    def or_default(value: float | None) -> float:
        return -1.0 if value is None else value

    return {
        "ordered": ordered,
        "ordered_today__86400__": or_default(_mean(of("units", 1))),
        "ordered_today__172800__": or_default(_mean(of("units", 2))),
        "usual": _mean(of("price")),
        "text": f"{math.floor(ordered + 0.5)}!",
    }


@given(
    st.lists(_order, max_size=15),
    st.lists(_stock, max_size=6),
    st.lists(st.tuples(st.integers(0, 6), _times), min_size=1, max_size=8),
)
@settings(max_examples=150, deadline=None)
def test_composite_has_many(stock_plan: Plan, orders: list, stocks: list, queries: list) -> None:
    tables = {"sl_order": _frame(stock_plan, "sl_order", orders)}
    tables["sl_stock"] = _frame(stock_plan, "sl_stock", stocks)
    results = FeatureEngine(stock_plan, tables).compute(_query_frame(queries)).to_dicts()
    for (number, now), found in zip(queries, results, strict=True):
        stock = stocks[number] if number < len(stocks) else None
        expected = _stock_at(stock, orders, now)
        assert {name: found[name] for name in expected} == pytest.approx(expected), (number, now)


@given(
    st.lists(_order, max_size=12),
    st.lists(_stock, max_size=8),
    st.lists(_offer, min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 4), _times), min_size=1, max_size=8),
)
@settings(max_examples=150, deadline=None)
def test_has_one_over_composite_keys(
    offer_plan: Plan, orders: list, stocks: list, offers: list, queries: list
) -> None:
    names = {"sl_order": orders, "sl_stock": stocks, "sl_offer": offers}
    tables = {name: _frame(offer_plan, name, rows) for name, rows in names.items()}
    results = FeatureEngine(offer_plan, tables).compute(_query_frame(queries)).to_dicts()
    for (number, now), found in zip(queries, results, strict=True):
        offer = offers[number] if number < len(offers) else None
        visible = offer is not None and offer["at"] <= now
        own = offer if visible and offer is not None else {"shop": None, "item": None}
        matching = [s for s in _matching(stocks, own) if s["at"] <= now]
        stock = max(enumerate(matching), key=lambda p: (p[1]["at"], p[0]))[1] if matching else None
        derived = _stock_at(stock, orders, now) if stock else {"ordered": None, "usual": None}
        price = own.get("price")
        usual = 5.0 if derived["usual"] is None else derived["usual"]
        assert found["left"] == (stock["amount"] if stock else None)
        assert found["ordered_before"] == pytest.approx(derived["ordered"])
        assert found["cheap"] == (None if price is None else price < usual)


PEOPLE = [
    {
        "id": 1,
        "at": START.isoformat(),
        "address": {"city": "Ulm", "zip": 7, "place": {"town": "Wien", "code": 2}, "more": 1},
        "tags": ["new", "friend"],
        "marks": [1, 2.5],
        "places": [{"town": "x", "code": 1}, {"town": None}],
    },
    {"id": 2, "at": START.isoformat(), "address": None, "tags": [], "marks": None, "places": None},
    {
        "id": 3,
        "at": START.isoformat(),
        "address": {"city": None, "zip": 1},
        "tags": [None],
        "marks": [None],
        "places": [],
    },
]
VISITS = [
    {
        "id": i,
        "person_id": 1,
        "at": (START + i * DAY).isoformat(),
        "minutes": minutes,
        "tags": tags,
        "place": {"town": f"t{i // 2}", "code": i},
    }
    for i, (minutes, tags) in enumerate([(3.0, ["a"]), (9.0, None), (5.0, []), (None, ["z"])])
]
EXPECTED = [
    {
        "address": {"city": "Ulm", "zip": 7, "place": {"town": "Wien", "code": 2}},
        "tags": ["new", "friend"],
        "marks": [1.0, 2.5],
        "places": [{"town": "x", "code": 1}, {"town": None, "code": None}],
        "city": "Ulm",
        "town": "WIEN",
        "zip_next": 8,
        "tag_count": 2,
        "is_friend": True,
        "last_tag": "friend",
        "best": 2.5,
        "pair": ["Ulm", "friend"],
        "all_places": [{"town": f"t{i // 2}", "code": i} for i in range(4)],
        "last_place": {"town": "t1", "code": 3},
        "tags_of_longest": None,
        "towns__86400__": ["t1"],
        "top_town": "t0",
    },
    {
        "address": None,
        "tags": [],
        "marks": [],
        "places": None,
        "city": None,
        "town": None,
        "zip_next": None,
        "tag_count": 0,
        "is_friend": False,
        "last_tag": None,
        "best": None,
        "pair": [None, None],
        "all_places": None,
        "last_place": None,
        "tags_of_longest": None,
        "towns__86400__": [],
        "top_town": None,
    },
    {
        "address": {"city": None, "zip": 1, "place": None},
        "tags": [None],
        "marks": [None],
        "places": [],
        "city": None,
        "town": None,
        "zip_next": 2,
        "tag_count": 1,
        "is_friend": None,
        "last_tag": None,
        "best": None,
        "pair": [None, None],
        "all_places": None,
        "last_place": None,
        "tags_of_longest": None,
        "towns__86400__": [],
        "top_town": None,
    },
]


def _write(rows: list[dict[str, Any]], path: Path) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        texts = [{k: _as_text(v) for k, v in row.items()} for row in rows]
        pl.DataFrame(texts, infer_schema_length=None).write_csv(path)
    else:
        frame = pl.DataFrame(rows, infer_schema_length=None, strict=False)
        frame.with_columns(pl.col("at").str.to_datetime(time_zone="UTC")).write_parquet(path)
    return path


def _as_text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".csv"])
def test_lists_and_structs_from_files(tmp_path: Path, ending: str) -> None:
    plan = plan_of(CLASSES, "sl_person")
    sources = {
        "sl_person": _write(PEOPLE, tmp_path / f"people{ending}"),
        "sl_visit": _write(VISITS, tmp_path / f"visits{ending}"),
    }
    entities = pl.DataFrame({"id": [1, 2, 3], "event_time": [START + 3 * DAY] * 3})
    result = historical_polars(open_scan(plan, sources), entities)
    assert result.damaged.height == 0
    assert result.table.drop("id", "event_time").to_dicts() == EXPECTED


def test_a_has_one_leads_to_lists_and_structs(tmp_path: Path) -> None:
    plan = plan_of(CLASSES, "sl_visit")
    sources = {
        "sl_person": _write(PEOPLE, tmp_path / "people.jsonl"),
        "sl_visit": _write(VISITS, tmp_path / "visits.jsonl"),
    }
    entities = pl.DataFrame({"id": [0, 77], "event_time": [START + DAY] * 2})
    found = historical_polars(open_scan(plan, sources), entities).table.to_dicts()
    assert found[0]["person_tags"] == ["new", "friend"]
    assert found[0]["person_address"] == EXPECTED[0]["address"]
    assert found[0]["person_city"] == "Ulm"
    assert [found[1][name] for name in ("person_tags", "person_address", "town")] == [None] * 3


def test_damaged_lists_are_set_aside_with_reason_and_position(tmp_path: Path) -> None:
    plan = plan_of(CLASSES, "sl_person")
    broken = [
        PEOPLE[0] | {"tags": "no list"},
        PEOPLE[0] | {"marks": ["x"]},
        PEOPLE[0] | {"address": [1]},
        PEOPLE[0] | {"address": {"zip": 1.5}},
        PEOPLE[1],
    ]
    path = _write(broken, tmp_path / "people.jsonl")
    read = read_source(plan.root, ("id", "at", "address", "tags", "marks"), path)
    assert read.rows.height == 1
    assert read.damaged["position"].to_list() == [1, 2, 3, 4]
    reasons = read.damaged["reason"].to_list()
    assert reasons[0] == "tags is not list[string]"
    assert reasons[1] == "marks is not list[float64]"
    assert reasons[2].startswith("address is not struct[city: string")


def test_a_column_of_another_nested_type_is_an_error(tmp_path: Path) -> None:
    plan = plan_of(CLASSES, "sl_person")
    path = tmp_path / "people.parquet"
    rows = pl.DataFrame({"id": [1], "at": [START], "tags": [[1, 2]]})
    rows.write_parquet(path)
    with pytest.raises(DataError, match=r"'tags' is List\(Int64\).*list\[string\]"):
        read_source(plan.root, ("id", "at", "tags"), path)


def test_versions_enumerations_and_the_window_of_all_time() -> None:
    plan = plan_of(CLASSES, "sl_box")
    box = {"label": "a", "label@2": "b", "color": None}
    times = [datetime(1900, 1, 1, tzinfo=UTC), START - DAY, START]
    balls = [{"box_id": 0, "at": at, "color": "red" if i else "blue"} for i, at in enumerate(times)]
    tables = {"sl_box": _frame(plan, "sl_box", [box, {"label": "c"}])}
    tables["sl_ball"] = _frame(plan, "sl_ball", balls)
    found = FeatureEngine(plan, tables).compute(_query_frame([(0, START), (1, START)])).to_dicts()
    assert found[0] == {
        "label": "a",
        "label@2": "b",
        "color": "blue",
        "both": "a/b",
        "reds": 2,
        "matching": True,
        "counted__86400__": 1,
        "counted__all__": 3,
        "ever": 3,
    }
    assert found[1]["both"] == "c/none"
    assert found[1]["counted__all__"] == 0


def test_a_plan_with_nested_types_survives_json_and_prints() -> None:
    plan = plan_of(CLASSES, "sl_person")
    text = plan_text(plan)
    assert "places: list[struct[town: string, code: int64]]? = read from the source" in text
    assert "town: string? = upper(_.address.place.town)" in text
    again = Plan.model_validate_json(plan.model_dump_json())
    assert again == plan
    assert hash(again) == hash(plan)
