"""Which engine is chosen, and that it is said."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from sunloom.features.definitions.open import plan_of
from sunloom.features.historical import retrieve as sizing
from sunloom.features.historical.retrieve import HistoricalJob, choose_engine, needed_bytes
from sunloom.features.sources.scan import open_scan

CLASSES = str(Path(__file__).with_name("chalk_classes.py"))
START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def sales(tmp_path: Path) -> Path:
    rows = 1_000
    frame = {
        "id": range(rows),
        "shop_id": ["a"] * rows,
        "at": [START] * rows,
        "price": [float(i) for i in range(rows)],
        "units": [1] * rows,
        "paid": [True] * rows,
        "label": ["x"] * rows,
    }
    pl.DataFrame(frame).write_parquet(tmp_path / "sales.parquet")
    return tmp_path / "sales.parquet"


def test_what_fits_into_memory_is_computed_here(sales: Path) -> None:
    scan = open_scan(plan_of(CLASSES, "sl_shop"), {"sl_sale": sales})
    need = needed_bytes(scan, 10)
    assert need > 1_000 * 8
    here = choose_engine(scan, 10, available_bytes=2 * need)
    there = choose_engine(scan, 10, available_bytes=need)
    assert (here.engine, there.engine) == ("polars", "ray")
    assert "MiB needed" in there.why


def test_more_rows_need_more(sales: Path) -> None:
    scan = open_scan(plan_of(CLASSES, "sl_shop"), {"sl_sale": sales})
    assert needed_bytes(scan, 10**6) > needed_bytes(scan, 0) + 10**8


def test_a_wish_is_kept(sales: Path) -> None:
    scan = open_scan(plan_of(CLASSES, "sl_shop"), {"sl_sale": sales})
    assert choose_engine(scan, 0, "ray").engine == "ray"
    assert choose_engine(scan, 0, "polars", available_bytes=0).engine == "polars"


def test_the_result_says_engine_and_reason(
    sales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entities = tmp_path / "entities.parquet"
    pl.DataFrame({"id": ["a"], "event_time": [START]}).write_parquet(entities)
    sources = {"sl_sale": sales}
    job = HistoricalJob.prepare(CLASSES, "sl_shop", sources, entities)
    done = job.run(tmp_path / "out.parquet")
    assert done.engine == "polars"
    assert "of memory to use" in done.why
    monkeypatch.setattr(sizing, "_available_bytes", lambda: 1_000)
    assert HistoricalJob.prepare(CLASSES, "sl_shop", sources, entities).needs_cluster
