"""The pieces that Ray runs, put together in this process: cutting changes no row."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from feature_parts import in_parts
from polars.testing import assert_frame_equal

from sunloom.data.shuffle import from_packet, partition_by_hash, to_packet
from sunloom.errors import ClusterError
from sunloom.features.definitions.open import plan_of
from sunloom.features.historical import cluster
from sunloom.features.historical.cluster import historical_ray
from sunloom.features.historical.retrieve import historical_polars
from sunloom.features.sources.scan import SourceScan, open_scan

CLASSES = str(Path(__file__).with_name("chalk_classes.py"))
START = datetime(2026, 3, 1, tzinfo=UTC)
UTC_US = pl.Datetime("us", "UTC")


def _sales(rows: int) -> pl.DataFrame:
    random = np.random.default_rng(7)
    return pl.DataFrame(
        {
            "id": np.arange(rows),
            "shop_id": [f"shop {i}" for i in random.integers(0, 20, rows)],
            "at": [START + timedelta(hours=int(h)) for h in random.integers(0, 480, rows)],
            "price": random.normal(20, 9, rows),
            "units": random.integers(-3, 9, rows),
            "paid": random.random(rows) < 0.5,
            "label": [None if i == 0 else f"l{i}" for i in random.integers(0, 5, rows)],
        }
    ).with_columns(pl.col("at").cast(UTC_US))


def _random_entities(feature_set: str, rows: int) -> pl.DataFrame:
    keys = np.random.default_rng(8).integers(0, 25, rows)
    return pl.DataFrame(
        {
            "id": [f"shop {i}" for i in keys] if feature_set == "sl_shop" else keys,
            "event_time": [START + timedelta(hours=int(h) * 20) for h in keys],
        }
    ).with_columns(pl.col("event_time").cast(UTC_US))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sunloom.features.sources.scan.SPLIT_ROWS", 150)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("feature_set", ["sl_shop", "sl_sale"])
@pytest.mark.parametrize("partitions", [1, 3, 50])
def test_cut_rows_give_the_same_rows(tmp_path: Path, feature_set: str, partitions: int) -> None:
    folder = tmp_path / "sales"
    folder.mkdir()
    _sales(600).write_parquet(folder / "a.parquet", row_group_size=100)
    plan, sources = plan_of(CLASSES, feature_set), {"sl_sale": folder}
    splits = open_scan(plan, sources).splits
    assert [split.rows.row_groups for split in splits] == [(0, 1), (2, 3), (4, 5)]
    entities = _random_entities(feature_set, 200)
    found, rows_read = in_parts(plan, sources, entities, partitions)
    expected = historical_polars(open_scan(plan, sources), entities)
    kept = [name for name in found.columns if name not in entities.columns]
    assert_frame_equal(found.select(kept), expected.table.select(kept), rel_tol=1e-9, abs_tol=1e-12)
    assert rows_read == expected.rows_read == 600


def test_one_key_with_everything_is_one_part(tmp_path: Path) -> None:
    sales = _sales(2_000).with_columns(pl.lit("shop 1").alias("shop_id"))
    sales.write_parquet(tmp_path / "a.parquet", row_group_size=500)
    plan, sources = plan_of(CLASSES, "sl_shop"), {"sl_sale": tmp_path / "a.parquet"}
    entities = _random_entities("sl_shop", 100).with_columns(pl.lit("shop 1").alias("id"))
    found, _ = in_parts(plan, sources, entities, 8)
    expected = historical_polars(open_scan(plan, sources), entities).table
    assert_frame_equal(found, expected.select(found.columns), rel_tol=1e-9, abs_tol=1e-12)


def test_rows_that_cannot_be_cut_are_there_once_for_every_part(tmp_path: Path) -> None:
    _sales(50).write_parquet(tmp_path / "a.parquet")
    plan, sources = plan_of(CLASSES, "sl_sale"), {"sl_sale": tmp_path / "a.parquet"}
    (split,) = open_scan(plan, sources).splits
    returned = cluster.read_and_partition(plan.model_dump_json(), split, 7)
    assert len(returned) == (2 if split.projection.partition_by is None else 8)


@pytest.mark.usefixtures("small_chunks")
def test_a_damaged_row_says_where_it_stands_in_its_file(tmp_path: Path) -> None:
    sales = _sales(600).with_columns(
        pl.when(pl.col("id") == 431).then(None).otherwise("at").alias("at")
    )
    sales.write_parquet(tmp_path / "a.parquet", row_group_size=100)
    plan = plan_of(CLASSES, "sl_shop")
    splits = open_scan(plan, {"sl_sale": tmp_path / "a.parquet"}).splits
    read = [split.read(plan) for split in splits]
    assert [p for part in read for p in part.damaged["position"]] == [432]
    assert sum(part.rows.height for part in read) == 599


@pytest.mark.parametrize("keys", [["k"], ["k", "s"]])
@pytest.mark.parametrize("partitions", [1, 2, 9])
def test_cutting_keeps_every_row_and_its_order(keys: list[str], partitions: int) -> None:
    random = np.random.default_rng(3)
    rows = pl.DataFrame({"k": random.integers(0, 9, 500), "s": ["a", "b"] * 250, "n": range(500)})
    parts = list(partition_by_hash(rows, keys, partitions))
    assert len(parts) == partitions
    assert sorted(n for part in parts for n in part["n"]) == list(range(500))
    assert all(part["n"].is_sorted() for part in parts)
    found = [set(part.select(keys).iter_rows()) for part in parts]
    assert sum(map(len, found)) == len(set().union(*found))


def test_a_packet_brings_back_the_table() -> None:
    frame = _sales(20).with_columns(pl.Series("list", [[1, None]] * 20))
    assert from_packet(to_packet(frame.slice(3, 9))).equals(frame.slice(3, 9))


def test_parts_are_small_beside_the_object_store() -> None:
    assert cluster.partition_count(1_000 << 20, 4, store_bytes=10 << 30) == 8
    assert cluster.partition_count(1_000 << 20, 4, store_bytes=100 << 20) == 100
    assert cluster.partition_count(1_000 << 20, 200, store_bytes=10 << 30) == 200
    assert cluster.partition_count(0, 4, store_bytes=1) == 4


def test_without_a_cluster_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    # Another test of the session may have connected this process.
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    plan = plan_of(CLASSES, "sl_shop")
    with pytest.raises(ClusterError, match="needs a connected cluster"):
        historical_ray(SourceScan(plan, {}), pl.DataFrame())


def test_workers_do_not_import_chalkpy() -> None:
    code = (
        "import sys, sunloom.features.historical.retrieve\n"
        "import sunloom.feature_store.materialization.materialize\n"
        "print([m for m in ('chalk', 'ray', 'torch', 'lmdb') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": "platform", "PATH": ""},
    )
    assert done.stdout.strip() == "[]"
