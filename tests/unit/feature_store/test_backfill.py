"""Backfills: the values of ``historical``, chunk by chunk, whatever ends them on the way."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from forked import start
from hypothesis import given, settings
from hypothesis import strategies as st
from killable import backfill_slowly
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from sunloom.config.features import BackfillConfig, FeaturesRecipe
from sunloom.errors import DataQualityError, UsageError
from sunloom.feature_store.materialization.backfill import backfill
from sunloom.feature_store.materialization.backfill_grid import build_grid
from sunloom.feature_store.stores.offline_store import open_offline_store
from sunloom.features.definitions.open import plan_of
from sunloom.features.historical.retrieve import historical_polars
from sunloom.features.sources.scan import open_scan

CLASSES = str(Path(__file__).parents[1].joinpath("features", "chalk_classes.py"))
START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
CHUNKS = 13 * 3
UTC_US = pl.Datetime("us", "UTC")


def sales(rows: int = 2_000, seed: int = 4) -> pl.DataFrame:
    draw = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "id": np.arange(rows),
            "shop_id": [f"shop {i}" for i in draw.integers(0, 30, rows)],
            "at": [START + timedelta(minutes=int(m)) for m in draw.integers(0, 40 * 1440, rows)],
            "price": draw.normal(20, 9, rows),
            "units": draw.integers(-3, 9, rows),
            "paid": draw.random(rows) < 0.5,
            "label": [None if i == 0 else f"l{i}" for i in draw.integers(0, 5, rows)],
        }
    ).with_columns(pl.col("at").cast(UTC_US))


def recipe_of(folder: Path, **changes: Any) -> FeaturesRecipe:
    if not (folder / "sales.parquet").exists():
        sales().write_parquet(folder / "sales.parquet", row_group_size=500)
    given_: dict[str, Any] = {
        "paths": {"outputs": folder / "outputs", "state": folder / "state"},
        "definitions": CLASSES,
        "feature_set": "sl_shop",
        "feature_store": {
            "batch_source": {"type": "files", "tables": {"sl_sale": folder / "sales.parquet"}}
        },
        "backfill": {"start": START + 5 * DAY, "end": START + 30 * DAY, "every": "12h"},
        "execution": {"engine": "polars", "partitions": 3},
    }
    return FeaturesRecipe.model_validate(given_ | changes)


def written(folder: str) -> pl.DataFrame:
    files = sorted(Path(folder).glob("data/*/*.parquet"))
    return pl.concat([pl.read_parquet(file, hive_partitioning=False) for file in files])


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each published file: a new one for each time that it was written."""
    files = folder.glob("outputs/features/*/backfill/*/data/*/part*.parquet")
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def test_every_entity_at_every_moment_has_the_value_of_historical(tmp_path: Path) -> None:
    done = backfill(recipe_of(tmp_path))
    rows = written(done.folder)
    assert done.rows == rows.height
    assert done.computed == done.chunks == CHUNKS
    assert rows["event_time"].n_unique() == 50
    assert rows.select("id", "event_time").is_unique().all()
    since = sales().group_by("shop_id").agg(pl.col("at").min())
    moments = pl.Series("m", [START + 5 * DAY + i * DAY / 2 for i in range(50)], dtype=UTC_US)
    pairs = since.join(moments.to_frame(), how="cross").filter(pl.col("at") <= pl.col("m"))
    assert rows.height == pairs.height
    plan, sources = plan_of(CLASSES, "sl_shop"), {"sl_sale": tmp_path / "sales.parquet"}
    expected = historical_polars(open_scan(plan, sources), rows.select("id", "event_time")).table
    assert_frame_equal(rows, expected, rel_tol=1e-9, abs_tol=1e-12)


def test_entities_with_their_own_moments(tmp_path: Path) -> None:
    draw = np.random.default_rng(9)
    times = [START + timedelta(hours=int(h)) for h in draw.integers(0, 960, 300)]
    entities = pl.DataFrame(
        {"id": [f"shop {i}" for i in draw.integers(0, 40, 300)], "event_time": times}
    ).with_columns(pl.col("event_time").cast(UTC_US))
    entities.write_parquet(tmp_path / "asked.parquet")
    config = {
        "start": START + 10 * DAY,
        "end": START + 20 * DAY,
        "entities": tmp_path / "asked.parquet",
    }
    done = backfill(recipe_of(tmp_path, backfill=config))
    rows = written(done.folder)
    inside = entities.filter(pl.col("event_time").is_between(*list(config.values())[:2], "left"))
    assert (
        rows.select("id", "event_time")
        .sort("event_time", "id")
        .equals(inside.sort("event_time", "id"))
    )
    plan, sources = plan_of(CLASSES, "sl_shop"), {"sl_sale": tmp_path / "sales.parquet"}
    expected = historical_polars(open_scan(plan, sources), rows.select("id", "event_time")).table
    assert_frame_equal(rows, expected, rel_tol=1e-9, abs_tol=1e-12)


def test_keys_from_a_file_are_asked_from_the_beginning(tmp_path: Path) -> None:
    pl.DataFrame({"id": ["shop 1", "nobody", "shop 1"]}).write_parquet(tmp_path / "keys.parquet")
    config = {"start": START - DAY, "end": START + DAY, "every": "1d"}
    done = backfill(recipe_of(tmp_path, backfill=config | {"entities": tmp_path / "keys.parquet"}))
    rows = written(done.folder).sort("event_time", "id")
    assert rows["id"].to_list() == ["nobody", "shop 1"] * 2
    assert rows["all_sales"].to_list() == [0, 0, 0, 0]


def test_what_is_whole_is_kept_and_what_is_gone_or_torn_is_made_again(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    first = backfill(recipe)
    whole, before = written(first.folder), states(tmp_path)
    names = sorted(before)
    Path(names[3]).unlink()
    Path(names[20]).write_bytes(Path(names[20]).read_bytes()[:100])
    (Path(names[5]).parent / ".part=0001.parquet.77.new").write_bytes(b"half")
    again = backfill(recipe)
    assert (again.computed, again.kept) == (2, first.chunks - 2)
    assert written(again.folder).equals(whole)
    after = states(tmp_path)
    assert {n for n in names if after[n] != before[n]} == {names[3], names[20]}
    assert not list(Path(again.folder).rglob("*.new"))
    assert backfill(recipe).computed == 0


def test_rows_become_the_stores_and_a_second_run_adds_nothing(tmp_path: Path) -> None:
    config = {"start": START + 5 * DAY, "end": START + 9 * DAY, "every": "6h", "into_store": True}
    recipe = recipe_of(tmp_path, backfill=config)
    done = backfill(recipe)
    assert done.stored == 4
    store = open_offline_store(recipe)
    expected = written(done.folder).sort("event_time", "id")
    assert store.read("sl_shop").select(expected.columns).sort("event_time", "id").equals(expected)
    # As if it had been ended after a write and before the mark of it.
    marks = sorted(Path(done.folder).glob("stored/*.json"))
    marks[2].unlink()
    assert backfill(recipe).stored == 1
    assert store.read("sl_shop").height == expected.height
    assert backfill(recipe).stored == 0


@pytest.mark.parametrize("change", [{"start": START + DAY / 2}, {"chunk": "36h"}])
def test_chunks_that_share_a_day_do_not_go_into_the_store(tmp_path: Path, change: dict) -> None:
    config = {"start": START, "end": START + 9 * DAY, "every": "6h", "into_store": True}
    with pytest.raises(UsageError, match="needs whole days"):
        backfill(recipe_of(tmp_path, backfill=config | change))


def test_other_sources_or_another_range_begin_anew(tmp_path: Path) -> None:
    span = {"start": START + 5 * DAY, "end": START + 9 * DAY, "every": "12h"}
    first = backfill(recipe_of(tmp_path, backfill=span))
    sales(2_001).write_parquet(tmp_path / "sales.parquet")
    second = backfill(recipe_of(tmp_path, backfill=span))
    third = backfill(recipe_of(tmp_path, backfill=span | {"end": START + 10 * DAY}))
    assert len({done.folder for done in (first, second, third)}) == 3
    assert third.kept == 0


@pytest.mark.timeout(120)
@pytest.mark.faults(kills=4, share=0.3)
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(
    tmp_path: Path, fault_seed: int
) -> None:
    """Four kills, each after a seeded number of new files; no whole file is written twice."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    for folder in (unbroken, broken):
        folder.mkdir()
        recipe_of(folder)
    backfill(recipe_of(unbroken))
    draw = random.Random(5 + fault_seed)
    written_at: dict[str, tuple[int, int]] = {}
    for _ in range(4):
        process = start(backfill_slowly, recipe_of(broken))
        wanted = len(written_at) + draw.randint(0, 6)
        deadline = time.monotonic() + 60
        while len(states(broken)) < wanted and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(draw.random() * 0.03)
        assert process.is_alive()
        process.kill()
        process.join()
        now = states(broken)
        assert {name: now[name] for name in written_at} == written_at
        written_at = now
    assert 0 < len(written_at) < CHUNKS
    done = backfill(recipe_of(broken))
    assert done.kept == len(written_at)
    assert done.computed == CHUNKS - len(written_at)
    now = states(broken)
    assert {name: now[name] for name in written_at} == written_at
    here, there = (sorted(f.glob("outputs/**/part*.parquet")) for f in (unbroken, broken))
    assert [(p.parent.name, p.name) for p in here] == [(p.parent.name, p.name) for p in there]
    assert [p.read_bytes() for p in here] == [p.read_bytes() for p in there]


def test_too_many_damaged_rows_stop_it_before_anything_is_computed(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    torn = sales().with_columns(pl.when(pl.col("id") % 10 > 0).then("at").alias("at"))
    torn.write_parquet(tmp_path / "sales.parquet")
    with pytest.raises(DataQualityError, match="200 of 2000 source rows cannot be read"):
        backfill(recipe)
    assert not states(tmp_path)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no `backfill`"):
        backfill(recipe_of(tmp_path, backfill=None))
    with pytest.raises(ValidationError, match="is not after start"):
        BackfillConfig(start=START, end=START, every=DAY)
    with pytest.raises(ValidationError, match="every is missing"):
        BackfillConfig(start=START, end=START + DAY)
    with pytest.raises(ValidationError, match="timezone"):
        BackfillConfig(start=datetime(2026, 3, 1), end=START + DAY, every=DAY)


@given(
    st.integers(1, 10_000),
    st.integers(1, 500),
    st.one_of(st.none(), st.integers(1, 5_000)),
)
@settings(max_examples=200, deadline=None)
def test_chunks_hold_every_moment_once(span_s: int, every_s: int, chunk_s: int | None) -> None:
    chunk = None if chunk_s is None else timedelta(seconds=chunk_s)
    every = timedelta(seconds=every_s)
    end = START + timedelta(seconds=span_s)
    grid = build_grid(BackfillConfig(start=START, end=end, every=every, chunk=chunk), 1)
    spans = grid.spans()
    assert spans[0].start == grid.start
    assert spans[-1].end == grid.end
    assert all(a.end == b.start for a, b in pairwise(spans))
    found = [moment for span in spans for moment in grid.as_of_times(span)]
    assert found == [START + i * every for i in range(-(-span_s // every_s))]
    assert all(span.start <= m < span.end for span in spans for m in grid.as_of_times(span))
