"""A backfill's rows into the offline store."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import polars as pl

from sunloom.config.features.materialization import FeaturesRecipe
from sunloom.data.quality.gate import gate
from sunloom.errors import UsageError
from sunloom.feature_store.materialization.backfill.grid import Grid
from sunloom.feature_store.materialization.backfill.publish import chunk_path, publish_json
from sunloom.feature_store.stores.offline.offline_store import open_offline_store
from sunloom.features.plan.columns import EVENT_TIME
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.quality_rules import table_rules

_DAY = timedelta(days=1)
_STORED = "stored"


def check_whole_days(grid: Grid) -> None:
    """Check that no day lies in two chunks: a chunk replaces its days in the store.

    Raises:
        UsageError: A chunk begins within a day.
    """
    midnight = grid.start.replace(hour=0, minute=0, second=0, microsecond=0)
    if grid.start != midnight or grid.chunk % _DAY:
        raise UsageError(
            f"backfill.into_store needs whole days: start is {grid.start}, chunk {grid.chunk}.",
            "Start at midnight UTC, and make the chunk 1d, 7d, …",
            "backfill.into_store",
        )


def store_rows(recipe: FeaturesRecipe, plan: Plan, grid: Grid, folder: Path) -> int:
    """Make each chunk's rows those of its days, a version each; what was stored is left.

    Ended between a write and its mark, the chunk is written once more: its days are replaced by
    the same rows, and nothing is there twice.

    Returns:
        Chunks that were stored now.

    Raises:
        DataQualityError: The recipe's rules refuse a chunk; those before it are stored.
    """
    store, stored = open_offline_store(recipe), 0
    for span in grid.spans():
        mark = folder / _STORED / f"{span.name}.json"
        if mark.is_file():
            continue
        files = [chunk_path(folder, span, part) for part in range(grid.partitions)]
        rows = pl.concat([pl.read_parquet(file, hive_partitioning=False) for file in files])
        version = None
        if rows.height:
            name, checked = f"{plan.feature_set} {span.name}", folder / "quality" / span.name
            gate(recipe, recipe.validation, rows, name, checked, defaults=table_rules(plan))
            names = {"key": plan.root.key, "time": EVENT_TIME}
            version = store.write(plan.feature_set, rows, mode="dates", **names).number
            stored += 1
        publish_json({"version": version, "rows": rows.height}, mark)
    return stored
