"""A feature set of shops and a watched table of their visits, as files and recipes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

NOW = datetime.now(UTC).replace(microsecond=0)
NEWEST = NOW - timedelta(hours=2)
SHOPS, VISITS = 40, 2_000
CLASSES = """
from chalk import DataFrame, FeatureTime, Primary, _, feature
from chalk.features import features

@features
class MjVisit:
    id: Primary[int]
    shop_id: "MjShop.id"
    at: FeatureTime
    spent: float

@features
class MjShop:
    id: Primary[int]
    town: str = feature(default="nowhere")
    size: float | None
    visits: DataFrame[MjVisit]
    spent: float = _.visits[_.spent].sum()
"""
RECIPE = """
definitions: {folder}/mj_classes.py
feature_set: mj_shop
feature_store:
  batch_source:
    type: files
    tables: {{mj_visit: {folder}/visits.parquet, mj_shop: {folder}/shops.parquet}}
execution: {{compare_engines: false, engine: polars}}
online: {{as_of: {moment}}}
"""
WATCH = """
watch:
  name: visits
  source: {{path: {folder}/visits.parquet, event_time: at}}
  features: [spent]
  reference: {{type: trailing, length: 2d}}
  max_lag: 1h
"""


def write_shops(folder: Path) -> None:
    """Definitions, tables, ``shop.yaml`` (the set) and ``watch.yaml`` (the visits)."""
    (folder / "mj_classes.py").write_text(CLASSES)
    (folder / "shop.yaml").write_text(RECIPE.format(folder=folder, moment=NOW.isoformat()))
    (folder / "watch.yaml").write_text(WATCH.format(folder=folder))
    numbers = list(range(SHOPS))
    pl.DataFrame(
        {
            "id": numbers,
            "town": ["Ulm" if n % 4 else None for n in numbers],
            "size": [float(n) if n % 2 else None for n in numbers],
        }
    ).write_parquet(folder / "shops.parquet")
    pl.DataFrame(
        {
            "id": range(VISITS),
            "shop_id": [n % SHOPS for n in range(VISITS)],
            "at": [NEWEST - timedelta(minutes=3 * n) for n in range(VISITS)],
            "spent": [n / 7 % 13 for n in range(VISITS)],
        }
    ).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC"))).write_parquet(
        folder / "visits.parquet"
    )
