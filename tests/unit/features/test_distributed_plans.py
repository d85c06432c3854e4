"""Random plans on random rows: however the rows are cut, the results are those of one process."""

from __future__ import annotations

import math
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from feature_parts import in_parts
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from sunloom.features.historical.retrieve import historical_polars
from sunloom.features.plan.expressions import (
    Aggregate,
    Bound,
    Call,
    Column,
    Const,
    Expr,
    Lookup,
    Now,
    Window,
)
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan, JoinPlan, Plan
from sunloom.features.plan.polars_dtypes import POLARS
from sunloom.features.sources.scan import open_scan

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = 3_600_000_000
SALE = {"id": "int64", "shop_id": "string", "at": "datetime", "price": "float64"}
SALE |= {"units": "int64", "paid": "bool", "label": "string"}
SHOP = {"id": "string", "seen": "datetime", "city": "string", "size": "int64"}

_bounds = st.builds(Bound, ago_us=st.sampled_from([0, HOUR, 30 * HOUR]), inclusive=st.booleans())
_windows = st.builds(
    Window, column=st.just("at"), start=st.none() | _bounds, end=st.none() | _bounds
)
_wheres = st.lists(
    st.sampled_from(
        [
            Call(
                function=">",
                args=(
                    Column(name="price", dtype="float64"),
                    Const(value=0.0, dtype="float64"),
                ),
                dtype="bool",
            ),
            Column(name="paid", dtype="bool"),
        ]
    ),
    max_size=1,
).map(tuple)


_NUMBERS = ("sum", "mean", "min", "max", "std", "var")
_KINDS = ("count", *_NUMBERS, "first", "last", "any", "all", "count_distinct", "max_by")
_DTYPES = {"count": "int64", "count_distinct": "int64", "any": "bool", "all": "bool"}
_DTYPES |= dict.fromkeys(("mean", "std", "var"), "float64")


@st.composite
def _aggregates(draw: st.DrawFn) -> Aggregate:
    kind = draw(st.sampled_from(_KINDS))
    columns = ("price", "units") if kind in _NUMBERS else ("price", "units", "paid", "label")
    name = "paid" if kind in ("any", "all") else draw(st.sampled_from(columns))
    return Aggregate(
        join="sold",
        kind=kind,
        value=None if kind == "count" else Column(name=name, dtype=SALE[name]),
        by=Column(name="units", dtype="int64") if kind == "max_by" else None,
        where=draw(_wheres),
        window=draw(_windows),
        dtype=_DTYPES.get(kind, SALE[name]),
    )


def _feature(namespace: str, name: str, dtype: Any, expression: Expr | None = None) -> FeaturePlan:
    kind = {"id": "primary", "at": "time", "seen": "time"}.get(name, "scalar")
    return FeaturePlan(
        name=name,
        fqn=f"{namespace}.{name}",
        dtype=dtype,
        nullable=True,
        kind=kind,
        expression=expression,
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Shops with aggregates of their sales; or sales with features of their shop."""
    aggregates = draw(st.lists(_aggregates(), min_size=1, max_size=6))
    computed = [_feature("shop", f"a{i}", node.dtype, node) for i, node in enumerate(aggregates)]
    idle = Call(function="-", args=(Now(), Column(name="seen", dtype="datetime")), dtype="duration")
    computed.append(_feature("shop", "idle", "duration", idle))
    sold = JoinPlan(
        name="sold", many=True, target="sale", own_keys=("id",), target_keys=("shop_id",)
    )
    shop = ClassPlan(
        namespace="shop",
        class_name="Shop",
        key="id",
        time="seen",
        features=(*(_feature("shop", n, t) for n, t in SHOP.items()), *computed),
        joins=(sold,),
    )
    looked_up = [Lookup(join="shop", feature=f.name, dtype=f.dtype) for f in computed]
    looked_up.append(Lookup(join="shop", feature="size", dtype="int64"))
    up = JoinPlan(
        name="shop", many=False, target="shop", own_keys=("shop_id",), target_keys=("id",)
    )
    sale = ClassPlan(
        namespace="sale",
        class_name="Sale",
        key="id",
        time="at",
        features=(
            *(_feature("sale", n, t) for n, t in SALE.items()),
            *(_feature("sale", f"l{i}", node.dtype, node) for i, node in enumerate(looked_up)),
        ),
        joins=(up,),
    )
    root = draw(st.sampled_from([shop, sale]))
    return Plan(
        feature_set=root.namespace,
        namespace=root.namespace,
        outputs=root.outputs,
        classes=(shop, sale),
    )


_hours = st.integers(0, 60).map(lambda h: START + timedelta(hours=h))
_shops = st.sampled_from(["a", "b", "c", "ü"])
_prices = st.none() | st.sampled_from([0.5, -3.25, 1e17, math.inf, math.nan]) | st.floats(-9, 9)


def _tables(kinds: dict[str, str], rows: list[tuple]) -> pl.DataFrame:
    schema = {name: POLARS[dtype] for name, dtype in kinds.items()}
    return pl.DataFrame(rows, schema=schema, orient="row")


_sales = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.none() | _shops,
        _hours,
        _prices,
        st.none() | st.integers(-(2**62), 2**62) | st.integers(-3, 3),
        st.none() | st.booleans(),
        st.none() | st.sampled_from(["x", "y"]),
    ),
    max_size=40,
).map(lambda rows: _tables(SALE, rows))
_seen = st.lists(
    st.tuples(_shops, _hours, st.none() | st.sampled_from(["Ulm", "Bonn"]), st.integers(0, 5)),
    max_size=12,
).map(lambda rows: _tables(SHOP, rows))
_queries = st.lists(st.tuples(st.integers(0, 9), _shops, _hours), max_size=20)


@given(plans(), _sales, _seen, _queries, st.integers(1, 9), st.integers(1, 15))
@settings(max_examples=40, deadline=None)
def test_any_plan_in_any_number_of_parts(
    plan: Plan,
    sales: pl.DataFrame,
    seen: pl.DataFrame,
    queries: list[tuple[int, str, datetime]],
    partitions: int,
    chunk_rows: int,
) -> None:
    keys = [shop if plan.namespace == "shop" else sale for sale, shop, _ in queries]
    dtype = POLARS[plan.root.feature("id").dtype]
    entities = pl.DataFrame(
        {"id": keys, "event_time": [now for *_, now in queries]},
        schema={"id": dtype, "event_time": POLARS["datetime"]},
    )
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sunloom.features.sources.scan.SPLIT_ROWS", chunk_rows)
        sources = {"sale": Path(folder) / "sale.parquet", "shop": Path(folder) / "shop.parquet"}
        sales.write_parquet(sources["sale"], row_group_size=chunk_rows)
        seen.write_parquet(sources["shop"], row_group_size=chunk_rows)
        whole = historical_polars(open_scan(plan, sources), entities).table.select(plan.outputs)
        cut, _ = in_parts(plan, sources, entities, partitions)
    assert_frame_equal(cut, whole, rel_tol=1e-9, abs_tol=1e-12)
