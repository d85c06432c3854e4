"""Python resolvers and limits on real Ray: the same values and the same counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sunloom.errors import DataError
from sunloom.features.definitions.open import plan_of
from sunloom.features.historical.cluster import historical_ray
from sunloom.features.historical.retrieve import historical_polars
from sunloom.features.sources.scan import open_scan

pytestmark = pytest.mark.integration
CLASSES = Path(__file__).parents[1] / "unit" / "features" / "resolver_classes.py"
START = datetime(2026, 3, 1, tzinfo=UTC)
UTC_US = pl.Datetime("us", "UTC")

LIMITED = """
from chalk import _, DataFrame, FeatureTime, Primary, feature, online
from chalk.features import features

@features(name="ri_item")
class Item:
    id: Primary[int]
    box_id: "Box.id"
    at: FeatureTime
    weight: float | None = feature(min=0.0, max=50.0)
    heavy: float | None = feature(expression=_.weight * 2.0, max=60.0, strict=True)

@features(name="ri_box")
class Box:
    id: Primary[int]
    held: DataFrame[Item]
    total: float = feature(expression=_.held[_.heavy].sum(), max=300.0)
    asked: float | None
    sure: float

@online
def ask(total: Box.total, key: Box.id) -> Box.asked:
    if key % 5 == 0:
        raise ValueError("no fives")
    return total + key

@online
def be_sure(total: Box.total) -> Box.sure:
    return total
"""


def _moments(random: np.random.Generator, count: int) -> list[datetime]:
    return [START + timedelta(hours=int(hour)) for hour in random.integers(0, 96, count)]


def test_values_of_functions_are_the_same_on_workers(ray_local: str, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    visits = pl.DataFrame(
        {
            "id": range(400),
            "guest_id": random.integers(1, 12, 400),
            "at": _moments(random, 400),
            "paid": random.normal(20, 9, 400),
        },
        schema_overrides={"at": UTC_US},
    )
    guests = pl.DataFrame(
        {"id": range(1, 10), "noted": [START] * 9, "name": [f"guest {i}" for i in range(9)]},
        schema_overrides={"noted": UTC_US},
    ).with_columns(hotel_id=pl.lit("h"))
    hotels = pl.DataFrame(
        {"id": ["h"], "since": [START], "title": ["Grand"], "stars": [4]},
        schema_overrides={"since": UTC_US},
    )
    tables = {"rs_visit": visits, "rs_guest": guests, "rs_hotel": hotels}
    sources = {name: tmp_path / f"{name}.parquet" for name in tables}
    for name, table in tables.items():
        table.write_parquet(sources[name], row_group_size=100)
    entities = pl.DataFrame(
        {"id": random.integers(1, 12, 60), "event_time": _moments(random, 60)},
        schema_overrides={"event_time": UTC_US},
    )
    plan = plan_of(str(CLASSES), "rs_guest")
    here = historical_polars(open_scan(plan, sources), entities)
    there = historical_ray(open_scan(plan, sources), entities, partitions=3)
    assert_frame_equal(here.table, there.table, rel_tol=1e-9)
    assert here.table["spent"].sum() > 0
    assert here.counters == there.counters
    assert here.counters.resolver_failures["resolver_classes.take_care"] > 0


def test_counts_and_errors_are_the_same_on_workers(ray_local: str, tmp_path: Path) -> None:
    definitions = tmp_path / "limits_on_ray.py"
    definitions.write_text(LIMITED)
    random = np.random.default_rng(6)
    items = pl.DataFrame(
        {
            "id": range(500),
            "box_id": random.integers(0, 30, 500),
            "at": _moments(random, 500),
            "weight": random.normal(25, 20, 500),
        },
        schema_overrides={"at": UTC_US},
    )
    source = {"ri_item": tmp_path / "items.parquet"}
    items.write_parquet(source["ri_item"], row_group_size=90)
    entities = pl.DataFrame(
        {"id": random.integers(0, 35, 80), "event_time": _moments(random, 80)},
        schema_overrides={"event_time": UTC_US},
    )
    plan = plan_of(str(definitions), "ri_box")
    here = historical_polars(open_scan(plan, source), entities)
    there = historical_ray(open_scan(plan, source), entities, partitions=4)
    assert_frame_equal(here.table, there.table, rel_tol=1e-9)
    assert here.counters == there.counters
    assert set(here.counters.validations) == {"ri_item.weight", "ri_item.heavy", "ri_box.total"}
    fives = int((entities["id"] % 5 == 0).sum())
    assert here.counters.resolver_failures == {"limits_on_ray.ask": fives}


def test_a_function_that_fails_says_so_from_a_worker(ray_local: str, tmp_path: Path) -> None:
    definitions = tmp_path / "failing.py"
    text = LIMITED.replace("ri_", "rj_").replace("return total\n", 'raise OSError("down")\n')
    definitions.write_text(text.replace("Item", "Thing").replace("Box", "Crate"))
    entities = pl.DataFrame(
        {"id": [1], "event_time": [START]}, schema_overrides={"event_time": UTC_US}
    )
    empty = pl.DataFrame(
        {"id": [1], "box_id": [1], "at": [START], "weight": [1.0]}, schema_overrides={"at": UTC_US}
    )
    empty.write_parquet(tmp_path / "things.parquet")
    plan = plan_of(str(definitions), "rj_box")
    with pytest.raises(DataError, match=r"'failing\.be_sure' .*failing\.py:\d+.*id 1 at .*OSError"):
        historical_ray(
            open_scan(plan, {"rj_item": tmp_path / "things.parquet"}), entities, partitions=2
        )
