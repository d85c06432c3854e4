"""Python resolvers: called as of each row's time, the same by every executor."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sunloom.feature_store.online.read_plan import compile_resolver
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.explain import format_expression, plan_text
from sunloom.features.plan.expressions import Aggregate, Lookup, Output, Resolved
from sunloom.features.plan.feature_sets import NOW, Plan
from sunloom.features.resolvers import to_series

CLASSES = str(Path(__file__).with_name("resolver_classes.py"))
START = datetime(2026, 3, 1, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
UTC_US = pl.Datetime("us", "UTC")
VISITS = {"id": pl.Int64, "guest_id": pl.Int64, "at": UTC_US, "paid": pl.Float64}
GUESTS = {"id": pl.Int64, "noted": UTC_US, "name": pl.String, "hotel_id": pl.String}
HOTELS = {"id": pl.String, "since": UTC_US, "title": pl.String, "stars": pl.Int64}
NAMES = {1: "ann", 2: "bo", 3: "cyrill", 4: None}

_visit = st.fixed_dictionaries(
    {
        "guest_id": st.sampled_from([1, 2, 5]),
        "at": st.integers(0, 60).map(lambda hours: START + hours * HOUR),
        "paid": st.sampled_from([None, 1.5, 20.0, -3.0]),
    }
)
_query = st.tuples(
    st.sampled_from([1, 4, 5]), st.integers(-1, 61).map(lambda hours: START + hours * HOUR)
)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.model_validate_json(plan_of(CLASSES, "rs_guest").model_dump_json())


def _engine(plan: Plan, visits: list[dict[str, Any]]) -> FeatureEngine:
    rows = [{"id": i, **visit} for i, visit in enumerate(visits)]
    guests = [
        {"id": key, "noted": START, "name": name, "hotel_id": "h" if key < 3 else "i"}
        for key, name in NAMES.items()
    ]
    hotels = [
        {"id": "h", "since": START, "title": "Grand", "stars": 3},
        {"id": "h", "since": START + 9 * HOUR, "title": "Old", "stars": 4},
    ]
    return FeatureEngine(
        plan,
        {
            "rs_visit": pl.DataFrame(rows, schema=VISITS),
            "rs_guest": pl.DataFrame(guests, schema=GUESTS),
            "rs_hotel": pl.DataFrame(hotels, schema=HOTELS),
        },
    )


def _query_frame(queries: list[tuple[int, datetime]]) -> pl.DataFrame:
    return pl.DataFrame(queries, schema={"id": pl.Int64, NOW: UTC_US}, orient="row")


def _brute(visits: list[dict[str, Any]], key: int, now: datetime) -> dict[str, Any]:
    name = NAMES.get(key) if now >= START else None
    known = key in NAMES and now >= START
    title = None
    if known and key < 3:
        title = "Old" if now >= START + 9 * HOUR else "Grand"
    seen = [v for v in visits if v["guest_id"] == key and v["at"] <= now]
    day = [v for v in seen if v["at"] > now - 24 * HOUR]
    paid = [v["paid"] for v in seen if v["paid"] is not None]
    stars = {"Grand": 3, "Old": 4}.get(title or "")
    return {
        "greeting": None
        if name is None or title is None
        else f"{name} {len(day)} {title.lower()} {now.hour}",
        "upper": (name.upper() if name else "") + (title or "?"),
        "length": len(name) if name else None,
        "after": len(name) + 1 if name else None,
        "limited": len(name) if name and len(name) <= 3 else None,
        "doubled": None if stars is None else stars * 2.0,
        "spent": sum(paid),
        "last_at": max(v["at"] for v in seen) if seen else None,
        "gap_hours": (now - max(v["at"] for v in seen)) / HOUR if seen else None,
        "taxes": sum(value / 2 for value in paid),
        "both": None if name is None else f"offline {name}",
    }


@settings(max_examples=25, deadline=None)
@given(visits=st.lists(_visit, max_size=12), queries=st.lists(_query, min_size=1, max_size=8))
def test_values_are_those_of_the_functions_as_of_each_time(
    plan: Plan, visits: list[dict[str, Any]], queries: list[tuple[int, datetime]]
) -> None:
    results = _engine(plan, visits).compute(_query_frame(queries)).to_dicts()
    for (key, now), found in zip(queries, results, strict=True):
        for name, value in _brute(visits, key, now).items():
            assert found[name] == (pytest.approx(value) if isinstance(value, float) else value)


def test_a_failed_or_late_call_gives_the_default_and_is_counted(plan: Plan) -> None:
    engine = _engine(plan, [])
    queries = [(1, START), (2, START), (3, START), (3, START + HOUR)]
    assert engine.compute(_query_frame(queries))["careful"].to_list() == [1, 7, 7, 7]
    assert engine.counters.counts()["resolver_failures"] == {"resolver_classes.take_care": 3}


def test_online_reads_use_the_online_resolver_where_there_are_two(plan: Plan) -> None:
    found = _engine(plan.for_online(), []).compute(_query_frame([(1, START)]))
    assert found["both"].to_list() == ["online ann"]
    assert _engine(plan, []).compute(_query_frame([(1, START)]))["both"].to_list() == [
        "offline ann"
    ]


def test_one_row_of_plain_values_gives_what_the_engine_gives(plan: Plan) -> None:
    row = {"id": 1, "name": "ann", "visit_count__86400__": 2, "length": 3}
    for name, expected in (("length", 3), ("upper", "ANN?"), ("careful", 1), ("limited", 3)):
        made = plan.root.feature(name).expression
        assert isinstance(made, Resolved)
        joined = [
            arg.value for arg in made.resolver.args if isinstance(arg.value, Aggregate | Lookup)
        ]
        ask = compile_resolver(made, {node: place for place, node in enumerate(joined)})
        assert ask([dict(row)], START, [[None] * len(joined)]) == [expected]


def test_the_joined_class_reads_a_has_one_through_its_own_resolver() -> None:
    visits = plan_of(CLASSES, "rs_visit")
    engine = _engine(visits, [{"guest_id": 1, "at": START, "paid": 4.0}])
    found = engine.compute(_query_frame([(0, START), (0, START - HOUR)]))
    assert found["shout"].to_list() == ["ANN!", None]
    assert found["tax"].to_list() == [2.0, None]


def test_listing_and_text_name_the_functions(plan: Plan) -> None:
    length = plan.root.feature("length").expression
    assert length is not None
    assert format_expression(length).startswith("@online measure(_.name, _.hotel.t")
    text = plan_text(plan)
    assert "batched" in text
    assert f"{CLASSES}:" in text
    assert "spend(_.visits[_.paid, _.at], now).last_at" in text


def test_the_plan_changes_with_the_function(tmp_path: Path) -> None:
    text = Path(CLASSES).read_text().replace("rs_", "rsx_")
    one, two = tmp_path / "a.py", tmp_path / "b.py"
    one.write_text(text)
    before = plan_of(str(one), "rsx_guest")
    digests = {before.root.feature("spent").expression}
    two.write_text(text.replace("rsx_", "rsy_").replace("spent=0.0", "spent=1.0"))
    after = plan_of(str(two), "rsy_guest")
    digests |= {after.root.feature("spent").expression}
    assert len({node.resolver.digest for node in digests if isinstance(node, Resolved)}) == 2


def test_a_row_that_fails_has_no_value_in_any_output(plan: Plan) -> None:
    node = plan.root.feature("length").expression
    assert isinstance(node, Resolved)
    outputs = tuple(Output(name=name, dtype="int64", required=False) for name in ("a", "b"))
    failures: dict[int, str] = {}
    series = to_series(
        node.resolver.model_copy(update={"outputs": outputs}),
        [{"a": 1, "b": 2}, {"a": 3, "b": 0.5}, None],
        failures,
    )
    assert failures == {1: "it gave 0.5, not a whole number"}
    assert {name: values.to_list() for name, values in series.items()} == {
        "a": [1, None, None],
        "b": [2, None, None],
    }
