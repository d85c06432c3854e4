"""The pieces that Ray Data runs, put together in this process: cutting changes no row."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute
import pytest
from polars.testing import assert_frame_equal

from sunloom.errors import ClusterError
from sunloom.features import distributed
from sunloom.features.catalogue import plan_of
from sunloom.features.historical import historical_polars, questions_of

CLASSES = str(Path(__file__).with_name("chalk_classes.py"))
START = datetime(2026, 3, 1, tzinfo=UTC)
UTC_US = pl.Datetime("us", "UTC")


class _Batches:
    def __init__(self, tables: list[pa.Table]) -> None:
        self.tables = tables

    def iter_batches(self, **_: object) -> list[pa.Table]:
        return self.tables


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


@pytest.mark.parametrize("feature_set", ["sl_shop", "sl_sale"])
@pytest.mark.parametrize("partitions", [1, 3, 50])
def test_cut_rows_give_the_same_rows(tmp_path: Path, feature_set: str, partitions: int) -> None:
    folder = tmp_path / "sales"
    folder.mkdir()
    _sales(600).write_parquet(folder / "a.parquet", row_group_size=100)
    keys = np.random.default_rng(8).integers(0, 25, 200)
    entities = pl.DataFrame(
        {
            "id": [f"shop {i}" for i in keys] if feature_set == "sl_shop" else keys,
            "event_time": [START + timedelta(hours=int(h) * 20) for h in keys],
        }
    ).with_columns(pl.col("event_time").cast(UTC_US))
    plan = plan_of(CLASSES, feature_set)
    sources = {"sl_sale": folder}
    job = {"plan": plan.model_dump_json(), "partitions": partitions}
    chunks = distributed._chunks(plan, sources)
    assert len(chunks) == 6
    packets = [distributed._read_packets(pa.Table.from_pylist([c]), **job) for c in chunks]
    asked = questions_of(plan, entities, sources).with_row_index(distributed.ROW)
    asked = asked.cast({distributed.ROW: pl.Int64})
    packets.append(distributed._entity_packets(plan, asked, partitions))
    every = pa.concat_tables(reversed(packets))
    parts = sorted(set(every["part"].to_pylist()))
    done = [
        distributed._compute_part(
            every.filter(pa.compute.equal(every["part"], part)), plan=job["plan"]
        )
        for part in parts
    ]
    found = distributed._collected(plan, entities, _Batches(done))
    expected = historical_polars(plan, sources, entities)
    assert_frame_equal(found.table, expected.table, rel_tol=1e-9, abs_tol=1e-12)
    assert found.rows_read == expected.rows_read == 600


def test_without_a_cluster_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    # Another test of the session may have connected this process.
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    plan = plan_of(CLASSES, "sl_shop")
    with pytest.raises(ClusterError, match="needs a connected cluster"):
        distributed.historical_ray(plan, {}, pl.DataFrame())


def test_workers_do_not_import_chalkpy() -> None:
    code = (
        "import sys, sunloom.features.distributed, sunloom.features.materialize\n"
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
