"""A backfill's chunks into the offline store."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from sunloom.feature_store.materialization.backfill.chunk_files import chunk_path, publish_json
from sunloom.feature_store.materialization.backfill.grid import Grid
from sunloom.feature_store.materialization.quality_gate import QualityGate
from sunloom.feature_store.stores.offline_store import OfflineStore
from sunloom.features.plan.feature_sets import EVENT_TIME, Plan

_STORED = "stored"


def store_chunks(
    store: OfflineStore, gate: QualityGate | None, plan: Plan, grid: Grid, folder: Path
) -> int:
    """Make each chunk's rows those of its days, a version each; stored chunks are left alone.

    Ended between a write and its mark, the chunk is written once more: its days are replaced by
    the same rows, and nothing is there twice.

    Args:
        store: The offline store.
        gate: Rules that each chunk must pass, if there are any.
        plan: The feature set.
        grid: The chunks.
        folder: Of the backfill.

    Returns:
        Chunks that were stored now.

    Raises:
        DataQualityError: The rules refuse a chunk; those before it are stored.
    """
    stored = 0
    for span in grid.spans():
        mark = folder / _STORED / f"{span.name}.json"
        if mark.is_file():
            continue
        files = [chunk_path(folder, span, number) for number in range(grid.partitions)]
        rows = pl.concat([pl.read_parquet(file, hive_partitioning=False) for file in files])
        version = None
        if rows.height:
            if gate is not None:
                gate.admit(rows, span.name, folder)
            names = {"key": plan.root.key, "time": EVENT_TIME}
            version = store.write(plan.feature_set, rows, mode="dates", **names).number
            stored += 1
        publish_json({"version": version, "rows": rows.height}, mark)
    return stored
