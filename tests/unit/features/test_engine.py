"""Historical features against brute force over random streams."""

from __future__ import annotations

import math
import statistics
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.feature_sets import NOW, Plan

CLASSES = str(Path(__file__).with_name("chalk_classes.py"))
START = datetime(2026, 3, 28, 22, tzinfo=UTC)
DAY = timedelta(days=1)
US = timedelta(microseconds=1)
SALES = {
    "id": pl.Int64,
    "shop_id": pl.String,
    "at": pl.Datetime("us", "UTC"),
    "price": pl.Float64,
    "units": pl.Int64,
    "paid": pl.Boolean,
    "label": pl.String,
}
SHOPS = {"id": pl.String, "city": pl.String, "opened": pl.Datetime("us", "UTC")}

# Moments that meet each other, and each other a window later, to the microsecond.
_times = st.builds(
    lambda days, us: START + days * DAY + us * US, st.integers(0, 9), st.integers(-1, 1)
)
_sale = st.fixed_dictionaries(
    {
        "shop_id": st.sampled_from(["a", "b", None]),
        "at": st.one_of(_times, st.none()),
        "price": st.sampled_from([None, 1.5, 20.0, 0.0, 99.25]),
        "units": st.sampled_from([None, 1, 2, -3]),
        "paid": st.sampled_from([None, True, False]),
        "label": st.sampled_from([None, "x", "y"]),
    }
)
_query = st.tuples(st.sampled_from(["a", "b", "nobody"]), _times)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(CLASSES, "sl_shop")


def _compute(plan: Plan, sales: list[dict[str, Any]], queries: list[tuple[str, datetime]]):
    rows = [{"id": i, **sale} for i, sale in enumerate(sales)]
    frame = pl.DataFrame(rows, schema=SALES)
    shops = pl.DataFrame([{"id": "a", "city": "Ulm", "opened": START}], schema=SHOPS)
    query_frame = pl.DataFrame(
        queries, schema={"id": pl.String, NOW: pl.Datetime("us", "UTC")}, orient="row"
    )
    return FeatureEngine(plan, {"sl_sale": frame, "sl_shop": shops}).compute(query_frame).to_dicts()


def _brute(sales: list[dict[str, Any]], shop: str, now: datetime) -> dict[str, Any]:
    seen = [s for s in sales if s["shop_id"] == shop and s["at"] is not None and s["at"] <= now]
    seen = sorted(seen, key=lambda s: s["at"])

    def of(name: str, rows: list[dict[str, Any]] = seen) -> list[Any]:
        return [row[name] for row in rows if row[name] is not None]

    day = [s for s in seen if s["at"] > now - DAY]
    closed = [s for s in seen if s["at"] >= now - DAY]
    week = [s for s in seen if s["at"] > now - 7 * DAY]
    prices, labels = of("price"), of("label")
    last = seen[-1]["at"] if seen else None
    idle = None if last is None else math.trunc((now - last) / timedelta(seconds=1)) / 3600
    mean = statistics.fmean(prices) if prices else None
    gross = [s["price"] * s["units"] for s in seen if None not in (s["price"], s["units"])]
    return {
        "city": "Ulm" if shop == "a" else None,
        "opened": START if shop == "a" else None,
        "sales__86400__": len(day),
        "sales__604800__": len(week),
        "revenue__86400__": math.fsum(of("price", day)),
        "revenue__604800__": math.fsum(of("price", week)),
        "units_in__86400__": sum(of("units", closed)),
        "revenue_before_yesterday": math.fsum(
            of("price", [s for s in seen if s["at"] <= now - DAY])
        ),
        "all_sales": len(seen),
        "mean_price": mean,
        "low": min(prices, default=None),
        "high": max(prices, default=None),
        "spread": statistics.stdev(prices) if len(prices) > 1 else None,
        "most_units": max(of("units"), default=None),
        "labels__604800__": len(set(of("label", week))),
        "last_label": labels[-1] if labels else None,
        "first_label": labels[0] if labels else None,
        "any_paid": any(of("paid")),
        "all_paid": all(of("paid")),
        "large": sum(
            1 for s in seen if s["price"] is not None and s["price"] > 10 and s["label"] is not None
        ),
        "gross_total": math.fsum(gross),
        "last_sale": last,
        "idle_hours": idle,
        "whole_days": None if idle is None else math.floor(idle / 24),
        "ratio": math.fsum(prices) / len(seen) if seen else math.nan,
        "size": "big" if len(seen) > 3 else "small",
        "capped": None if mean is None or mean > 50 else mean,
    }


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(found, float):
        if math.isnan(expected):
            return math.isnan(found)
        return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)
    return bool(found == expected)


@given(st.lists(_sale, max_size=25), st.lists(_query, min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_every_feature_equals_brute_force(plan: Plan, sales: list, queries: list) -> None:
    results = _compute(plan, sales, queries)
    assert len(results) == len(queries)
    for (shop, now), found in zip(queries, results, strict=True):
        expected = _brute(sales, shop, now)
        assert set(found) == set(expected)
        wrong = {n: (found[n], expected[n]) for n in found if not _same(found[n], expected[n])}
        assert not wrong, (shop, now)


@pytest.mark.parametrize(
    ("offset", "inside_open", "inside_closed"),
    [(-DAY - US, 0, 0), (-DAY, 0, 1), (-DAY + US, 1, 1), (0 * US, 1, 1), (US, 0, 0)],
)
def test_edges_of_a_window(
    plan: Plan, offset: timedelta, inside_open: int, inside_closed: int
) -> None:
    now = START + 5 * DAY
    sale = {"shop_id": "a", "at": now + offset, "price": 1.0, "units": 1, "paid": True}
    found = _compute(plan, [{**sale, "label": "x"}], [("a", now)])[0]
    assert found["sales__86400__"] == inside_open
    assert found["units_in__86400__"] == inside_closed
    assert found["all_sales"] == (1 if offset <= 0 * US else 0)


def test_no_rows_at_all(plan: Plan) -> None:
    assert _compute(plan, [], []) == []
    found = _compute(plan, [], [("a", START)])[0]
    assert found["all_sales"] == 0
    assert found["revenue__86400__"] == 0.0
    assert found["mean_price"] is None
    assert found["any_paid"] is False
    assert found["all_paid"] is True


def test_has_one_leads_to_the_other_classs_value_at_the_same_time() -> None:
    plan = plan_of(CLASSES, "sl_sale")
    sales = pl.DataFrame(
        [
            (1, "a", START, 1.0, 1, True, "x"),
            (2, "a", START + DAY / 2, 1.0, 1, True, "x"),
            (3, None, START, 1.0, 1, True, "x"),
        ],
        schema=SALES,
        orient="row",
    )
    query_frame = pl.DataFrame(
        {"id": [1, 1, 2, 3, 9], NOW: [START, START + DAY, START + DAY, START, START]},
        schema={"id": pl.Int64, NOW: pl.Datetime("us", "UTC")},
    )
    found = FeatureEngine(plan, {"sl_sale": sales}).compute(query_frame)
    assert found["shop_sales"].to_list() == [1, 1, 1, None, None]
    assert found["gross"].to_list() == [1.0, 1.0, 1.0, 1.0, None]


def test_the_latest_visible_row_gives_a_classs_own_values() -> None:
    plan = plan_of(CLASSES, "sl_sale")
    versions = [(1, "a", START + i * DAY, float(i), 1, True, f"v{i}") for i in (2, 0, 1)]
    versions.append((1, "a", START + 2 * DAY, 9.0, 1, True, "tie, later row"))
    sales = pl.DataFrame(versions, schema=SALES, orient="row")
    times = [START - US, START, START + DAY, START + 2 * DAY]
    query_frame = pl.DataFrame(
        {"id": [1] * 4, NOW: times}, schema={"id": pl.Int64, NOW: pl.Datetime("us", "UTC")}
    )
    found = FeatureEngine(plan, {"sl_sale": sales}).compute(query_frame)
    assert found["label"].to_list() == [None, "v0", "v1", "tie, later row"]


def test_a_plan_survives_json_and_hashes(plan: Plan) -> None:
    again = Plan.model_validate_json(plan.model_dump_json())
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.fingerprint == plan.fingerprint


def test_a_strict_limit_holds_for_aggregates_too() -> None:
    plan = plan_of(CLASSES, "sl_sale_limit")
    rows = pl.DataFrame(
        [(1, 7, START, 5.0), (2, 7, START, -3.0), (3, 7, START, None)],
        schema={"id": pl.Int64, "till_id": pl.Int64, "at": SALES["at"], "amount": pl.Float64},
        orient="row",
    )
    query_frame = pl.DataFrame(
        {"id": [1, 2, 3], NOW: [START] * 3}, schema={"id": pl.Int64, NOW: SALES["at"]}
    )
    sources = {"sl_sale_limit": rows}
    assert FeatureEngine(plan, sources).compute(query_frame)["amount"].to_list() == [5.0, None, 0.5]
    till = pl.DataFrame({"id": [7], NOW: [START]}, schema={"id": pl.Int64, NOW: SALES["at"]})
    found = FeatureEngine(plan_of(CLASSES, "sl_till"), sources).compute(till)
    assert found.to_dicts() == [{"total": 5.5, "known": 2}]
