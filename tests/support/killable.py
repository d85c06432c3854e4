"""Work in processes that tests kill."""

from __future__ import annotations

import random
import time
from pathlib import Path

import polars as pl

from sunloom.config.features import FeaturesRecipe
from sunloom.feature_store.materialization import backfill_partitions
from sunloom.feature_store.materialization.backfill import backfill
from sunloom.feature_store.online.registry import EventPolicy
from sunloom.feature_store.online.tile_layout import build_layout
from sunloom.feature_store.stores.online.lmdb import EmbeddedStore
from sunloom.feature_store.streaming.partition import ClassStream, EventLog, PartitionStream
from sunloom.features.plan.feature_sets import Plan


def consume(folder: str, log: str, plan_json: str, values: list[bytes], seed: int) -> None:
    """A consumer of one partition: batches of random sizes from the stored place on."""
    chosen = random.Random(seed)
    layout = build_layout(Plan.model_validate_json(plan_json), ("st_trip",))
    stream = ClassStream(
        EmbeddedStore(Path(folder)),
        layout,
        "st_trip",
        policy=EventPolicy(3_600_000_000),
        quarantine=[].extend,
        log=EventLog(Path(log)),
    )
    partition = PartitionStream(stream, "trips/0")
    while (at := partition.progress.next_offset or 0) < len(values):
        end = min(len(values), at + chosen.randint(1, 40))
        partition.process(range(at, end), values[at:end])


def backfill_slowly(recipe: FeaturesRecipe) -> None:
    """A backfill that waits a moment after each file, so that it can be killed between two."""
    publish = backfill_partitions.publish_rows

    def publish_slowly(frame: pl.DataFrame, path: Path) -> None:
        publish(frame, path)
        time.sleep(0.2)

    backfill_partitions.publish_rows = publish_slowly
    backfill(recipe)
