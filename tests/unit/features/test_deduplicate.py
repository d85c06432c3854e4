"""Events that a source has more than once: counted, and left out where a rule says so."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from feature_parts import in_parts
from polars.testing import assert_frame_equal

from sunloom.config.data import Deduplication, FilesSource
from sunloom.errors import NotFoundError, UsageError
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.counters import Counters
from sunloom.features.historical import cluster
from sunloom.features.historical.retrieve import HistoricalJob, historical_polars
from sunloom.features.sources.scan import open_scan

CLASSES = str(Path(__file__).with_name("chalk_classes.py"))
START = datetime(2026, 3, 1, tzinfo=UTC)
UTC_US = pl.Datetime("us", "UTC")
FEATURES = ["all_sales", "sales__86400__", "revenue_before_yesterday", "last_label", "gross_total"]


def _sales(rows: int = 500) -> pl.DataFrame:
    """Events of which some come two or three times, with other times, shops and prices."""
    random = np.random.default_rng(3)
    return pl.DataFrame(
        {
            "id": random.integers(0, rows * 2 // 3, rows),
            "shop_id": [f"shop {i}" for i in random.integers(0, 6, rows)],
            # Few times, so that many repeats have equal ones.
            "at": [START + timedelta(hours=int(h)) for h in random.integers(0, 40, rows)],
            "price": random.integers(1, 90, rows).astype(float),
            "units": random.integers(1, 9, rows),
            "paid": random.random(rows) < 0.5,
            "label": [None if i == 0 else f"l{i}" for i in random.integers(0, 50, rows)],
        },
        schema_overrides={"at": UTC_US},
    ).with_columns(pl.when(pl.int_range(pl.len()) % 25 == 7).then(None).otherwise("id").alias("id"))


def _brute_force(sales: pl.DataFrame, keep: str | None) -> pl.DataFrame:
    """The rows that count, in order, by plain Python."""
    rows = sales.to_dicts()
    groups: dict[Any, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[("row", place) if row["id"] is None or keep is None else row["id"]].append(place)
    choose = min if keep == "first" else max
    kept = [choose((rows[place]["at"], place) for place in places) for places in groups.values()]
    return sales[sorted(place for _, place in kept)]


def _repeats(counters: Counters) -> dict[str, dict[str, int]]:
    return {kind: n for kind, n in counters.counts().items() if kind != "validations"}


def _entities() -> pl.DataFrame:
    times = [START + timedelta(hours=h) for h in (0, 13, 30, 41, 90)]
    entities = pl.DataFrame({"id": [f"shop {i}" for i in range(7)]})
    return entities.join(pl.DataFrame({"event_time": times}, {"event_time": UTC_US}), how="cross")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Path]:
    monkeypatch.setattr("sunloom.features.sources.scan.SPLIT_ROWS", 60)
    folder = tmp_path / "sales"
    folder.mkdir()
    sales = _sales()
    sales[:300].write_parquet(folder / "a.parquet", row_group_size=50)
    sales[300:].write_parquet(folder / "b.parquet", row_group_size=50)
    return {"sl_sale": folder}


@pytest.mark.parametrize("keep", ["first", "last", None])
@pytest.mark.parametrize("feature_set", ["sl_shop", "sl_sale"])
def test_features_are_those_of_the_rows_that_count(
    source: Mapping[str, Path], tmp_path: Path, keep: Any, feature_set: str
) -> None:
    plan = plan_of(CLASSES, feature_set)
    rules = {} if keep is None else {"sl_sale": Deduplication(by=("id",), keep=keep)}
    clean = _brute_force(_sales(), keep)
    assert clean.height == (500 if keep is None else _sales()["id"].drop_nulls().n_unique() + 20)
    clean.write_parquet(tmp_path / "clean.parquet")
    entities = _entities()
    if feature_set == "sl_sale":
        entities = entities.with_columns(pl.int_range(pl.len()).alias("id"))
    expected = historical_polars(
        open_scan(plan, {"sl_sale": tmp_path / "clean.parquet"}), entities
    ).table
    result = historical_polars(open_scan(plan, source, rules), entities)
    assert_frame_equal(result.table, expected)
    parts, rows_read = in_parts(plan, source, entities, 3, rules)
    assert rows_read == result.rows_read == 500
    assert_frame_equal(parts, expected.select(parts.columns), rel_tol=1e-9)
    # Either the repeats are left out, or they are counted where rows are events and no states.
    counts = {"sl_sale": 500 - 20 - _sales()["id"].drop_nulls().n_unique()}
    kind = "deduplicated" if keep else "repeated_ids"
    stated = {} if keep is None and feature_set == "sl_sale" else {kind: counts}
    assert _repeats(result.counters) == stated
    reports = cluster.shuffle_here(open_scan(plan, source, rules), 3).reports
    assert _repeats(Counters.merge(report.counters for report in reports)) == stated


def test_ids_of_text_files_are_counted_and_refuse_nothing(tmp_path: Path) -> None:
    plan = plan_of(CLASSES, "sl_shop")
    needed = [n for n in _sales().columns if n != "id"]
    for name, ids in {
        # No whole numbers, as the class says; but nothing reads them.
        "text": pl.Series(["a", "b", "a", None, "a", ""]),
        "number": pl.Series([7, 7, 8, None, 7, 9]),
    }.items():
        rows = _sales(6).select(needed).with_columns(ids.alias("id"))
        rows.with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_csv(
            tmp_path / f"{name}.csv"
        )
        scan = open_scan(plan, {"sl_sale": tmp_path / f"{name}.csv"})
        assert historical_polars(scan, _entities()).counters.repeated_ids == {"sl_sale": 2}
        (report, *_) = cluster.shuffle_here(scan, 2).reports
        assert report.damaged is None
    _sales(6).select(needed).write_parquet(tmp_path / "none.parquet")
    scan = open_scan(plan, {"sl_sale": tmp_path / "none.parquet"})
    assert _repeats(historical_polars(scan, _entities()).counters) == {}


def test_a_rule_names_columns_of_a_source(source: Mapping[str, Path]) -> None:
    plan = plan_of(CLASSES, "sl_shop")
    with pytest.raises(NotFoundError, match="identifier"):
        open_scan(plan, source, {"sl_sale": Deduplication(by=("identifier",))})
    with pytest.raises(UsageError, match="gross"):
        open_scan(plan, source, {"sl_sale": Deduplication(by=("gross",))})
    with pytest.raises(NotFoundError, match="sl_sales"):
        open_scan(plan, source, {"sl_sales": Deduplication(by=("id",))})
    with pytest.raises(ValueError, match="names the class first"):
        FilesSource.model_validate({"deduplicate": {"by": "id", "keep": "last"}})
    for form in ({"sl_sale": {"by": "id"}}, {"by": "id"}, {"sl_sale": {"by": ["id"]}}):
        config = {"tables": {"sl_sale": "sales"}, "deduplicate": form}
        rule = FilesSource.model_validate(config).deduplicate["sl_sale"]
        assert (rule.by, rule.keep) == (("id",), "last")


def test_the_summary_counts_repeats(source: Mapping[str, Path], tmp_path: Path) -> None:
    entities = tmp_path / "entities.parquet"
    _entities().write_parquet(entities)
    job = HistoricalJob.prepare(CLASSES, "sl_shop", source, entities, "polars")
    summary = job.run(tmp_path / "out.parquet").model_dump(exclude_unset=True)
    repeats = 500 - 20 - _sales()["id"].drop_nulls().n_unique()
    assert json.loads(json.dumps(summary))["repeated_ids"] == {"sl_sale": repeats}
    assert "deduplicated" not in summary
