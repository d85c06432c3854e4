"""Every aggregation against brute force: ties, late rows, nulls, NaN, infinities, DST, edges."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from readings import DAY, LARGE, MOMENTS, ONE_READING, READINGS, START, US

from sunloom.errors import DataError
from sunloom.features.definitions.bind_aggregates import AGGREGATIONS
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.kernels.aggregates import AGGREGATE_KERNELS
from sunloom.features.plan.expressions import Aggregate, Aggregation, walk
from sunloom.features.plan.feature_sets import NOW, Plan

CLASSES = str(Path(__file__).with_name("chalk_classes_aggregates.py"))
_query = st.tuples(st.sampled_from(["a", "ä", "", "nobody"]), MOMENTS)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(CLASSES, "sl_meter")


def _compute(plan: Plan, readings: Sequence[dict[str, Any]], queries: Sequence[Any]):
    rows = [{"id": i, **reading} for i, reading in enumerate(readings)]
    query_frame = pl.DataFrame(queries, schema={"id": pl.String, NOW: READINGS["at"]}, orient="row")
    frame = pl.DataFrame(rows, schema=READINGS)
    return FeatureEngine(plan, {"sl_reading": frame}).compute(query_frame).to_dicts()


def _order(value: Any) -> tuple[bool, Any]:
    nan = isinstance(value, float) and math.isnan(value)
    return nan, 0 if nan else value


def _total(values: Sequence[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    others = [v for v in values if not math.isfinite(v)]
    return sum(others) if others else math.fsum(finite)


def _deviation(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def _at_extreme(rows: list[dict[str, Any]], value: str, by: str, choose: Callable[..., Any]) -> Any:
    known = [row for row in rows if row[by] is not None]
    return choose(known, key=lambda row: _order(row[by]))[value] if known else None


def _top(values: Sequence[Any], size: int) -> list[Any] | None:
    held = {_order(v): v for v in values}
    counts = Counter(map(_order, values))
    ordered = sorted(counts, key=lambda key: (-counts[key], key))
    return [held[key] for key in ordered[:size]] or None


def _percentile(values: Sequence[Any], share: float) -> float | None:
    ordered = sorted(values, key=_order)
    place = min(math.floor(share * len(ordered)), len(ordered) - 1)
    return float(ordered[place]) if ordered else None


def _brute(readings: list[dict[str, Any]], meter: str, now: datetime) -> dict[str, Any]:
    mine = [r for r in readings if r["meter_id"] == meter and r["at"] is not None]
    seen = sorted((r for r in mine if r["at"] <= now), key=lambda r: r["at"])
    day = [r for r in seen if r["at"] > now - DAY]

    def of(name: str, rows: list[dict[str, Any]] = seen) -> list[Any]:
        return [row[name] for row in rows if row[name] is not None]

    levels, units = of("level"), of("units")
    finite = [v for v in levels if not math.isnan(v)]
    return {
        "rows": len(seen),
        "rows_in__86400__": len(day),
        "level_sum": _total(levels),
        "level_sum_in__86400__": _total(of("level", day)),
        "units_sum": sum(units),
        "level_mean": _total(levels) / len(levels) if levels else None,
        "level_min": min(finite) if finite else (math.nan if levels else None),
        "level_max": max(levels, key=_order, default=None),
        "level_min_in__86400__": min(of("level", day), key=_order, default=None),
        "level_std": _deviation(levels),
        "units_var": float(statistics.variance(units)) if len(units) > 1 else None,
        "first_label": next(iter(of("label")), None),
        "last_level_in__86400__": next(reversed(of("level", day)), None),
        "any_flag": any(of("flag")),
        "all_flags": all(of("flag")),
        "different": len(set(of("label"))),
        "levels_in__86400__": len(set(map(_order, of("level", day)))),
        "highest_label": _at_extreme(seen, "label", "level", max),
        "highest_label_in__86400__": _at_extreme(day, "label", "level", max),
        "lowest_units": _at_extreme(seen, "units", "level", min),
        "earliest_seen": min(of("seen"), default=None),
        "unit_at_last_label": _at_extreme([r for r in seen if r["flag"]], "units", "label", max),
        "labels": [r["label"] for r in seen] or None,
        "labels_in__86400__": [r["label"] for r in day] or None,
        "high_units": [
            r["units"] for r in seen if r["level"] is not None and _order(r["level"]) > (False, 1.0)
        ]
        or None,
        "top_labels": _top(of("label"), 2),
        "top_levels_in__86400__": _top(of("level", day), 2),
        "median": _percentile(levels, 0.5),
        "units_90": _percentile(units, 0.9),
        "quartile_in__86400__": _percentile(of("level", day), 0.25),
    }


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, list) and isinstance(found, list):
        return len(found) == len(expected) and all(map(_same, found, expected))
    if isinstance(expected, float) and isinstance(found, float):
        if math.isnan(expected):
            return math.isnan(found)
        return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)
    return bool(found == expected)


def _check(plan: Plan, readings: list[dict[str, Any]], queries: list[Any]) -> None:
    results = _compute(plan, readings, queries)
    assert len(results) == len(queries)
    for (meter, now), found in zip(queries, results, strict=True):
        expected = _brute(readings, meter, now)
        assert set(found) == set(expected)
        wrong = {n: (found[n], expected[n]) for n in found if not _same(found[n], expected[n])}
        assert not wrong, (meter, now)


@given(st.lists(ONE_READING, max_size=25), st.lists(_query, min_size=1, max_size=12))
@settings(max_examples=150, deadline=None)
def test_every_aggregation_equals_brute_force(plan: Plan, readings: list, queries: list) -> None:
    small = [r | {"units": r["units"] and max(-9, min(9, r["units"]))} for r in readings]
    _check(plan, small, queries)


@given(st.lists(ONE_READING, min_size=30, max_size=120), st.lists(MOMENTS, min_size=1, max_size=40))
@settings(max_examples=25, deadline=None)
def test_one_key_with_everything(plan: Plan, readings: list, times: list) -> None:
    one = [r | {"meter_id": "a", "units": r["units"] and r["units"] % 5} for r in readings]
    _check(plan, one, [("a", now) for now in times])


def test_sums_of_integers_are_exact(plan: Plan) -> None:
    blank = dict.fromkeys(READINGS) | {"meter_id": "a"}
    del blank["id"]
    values = [LARGE, 1, LARGE - 2, -LARGE, -1, 7]
    rows = [blank | {"at": START + i * US, "units": v} for i, v in enumerate(values)]
    found = _compute(plan, rows, [("a", START + i * US) for i in range(len(values))])
    assert [row["units_sum"] for row in found] == [sum(values[: i + 1]) for i in range(len(values))]


def test_a_sum_beyond_64_bits_is_an_error(plan: Plan) -> None:
    blank = dict.fromkeys(READINGS) | {"meter_id": "a", "at": START}
    del blank["id"]
    rows = [blank | {"units": v} for v in (LARGE, LARGE)]
    with pytest.raises(DataError, match="does not fit in 64 bits"):
        _compute(plan, rows, [("a", START)])


def test_late_rows_count_by_their_event_time(plan: Plan) -> None:
    blank = dict.fromkeys(READINGS) | {"meter_id": "a"}
    del blank["id"]
    order = [4, 0, 3, 1, 2]
    rows = [blank | {"at": START + i * US, "label": f"l{i}", "level": float(-i)} for i in order]
    found = _compute(plan, rows, [("a", START + i * US) for i in range(-1, 5)])
    assert [row["labels"] for row in found] == [
        None,
        *([f"l{i}" for i in range(stop)] for stop in range(1, 6)),
    ]
    assert [row["highest_label"] for row in found] == [None, *["l0"] * 5]


def test_among_equals_the_first_in_time_is_chosen(plan: Plan) -> None:
    blank = dict.fromkeys(READINGS) | {"meter_id": "a", "level": 1.0}
    del blank["id"]
    rows = [
        blank | {"at": START + US, "label": "later", "units": 2},
        blank | {"at": START, "label": None, "units": None},
        blank | {"at": START, "label": "same moment, later row", "units": 5},
    ]
    found = _compute(plan, rows, [("a", START + US)])[0]
    # The row decides: its null is the answer, not the next row's value.
    assert found["highest_label"] is None
    assert found["lowest_units"] is None


@pytest.mark.parametrize("readings", [[], [{"meter_id": None, "at": None}]])
def test_no_rows(plan: Plan, readings: list) -> None:
    rows = [dict.fromkeys(n for n in READINGS if n != "id") | row for row in readings]
    _check(plan, rows, [("a", START), ("", START)])
    assert _compute(plan, rows, []) == []


def test_every_aggregation_has_types_a_kernel_and_a_feature_here(plan: Plan) -> None:
    own = {"count", "min_by", "max_by"}
    assert set(AGGREGATIONS) == (set(AGGREGATE_KERNELS) | own) - {"rows"}
    assert set(AGGREGATIONS) == set(get_args(Aggregation)) - {"rows"}
    expressions = [f.expression for f in plan.root.features if f.expression is not None]
    used = {n.kind for e in expressions for n in walk(e) if isinstance(n, Aggregate)}
    assert used == set(AGGREGATIONS)
