"""Bootstrap of a stream: the events before its start, merged from the recipe's batch source."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from sunloom.config.features import FeaturesRecipe
from sunloom.core.telemetry import get_logger
from sunloom.errors import ConflictError
from sunloom.feature_store.online.tile_layout import TileLayout
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.streaming.ingest import TileIngest
from sunloom.feature_store.streaming.offsets import ProgressKey
from sunloom.features.sources.extract import fetch_sources
from sunloom.features.sources.scan import SourceScan, SourceSplit

_log = get_logger("features.streaming")


def merge_history(recipe: FeaturesRecipe, store: OnlineStore, layout: TileLayout) -> int:
    """Merge the batch source's rows up to ``streaming_source.history``; how many were merged.

    Each split of the source is one transaction with its number: an interrupted start resumes where
    it stopped, and a second one has nothing left to do.

    Raises:
        DataError: A file cannot be read, or lacks a column.
    """
    until = recipe.kafka_source().history
    if until is None:
        return 0
    paths = recipe.source_paths()
    fetch_sources(recipe.feature_store.batch_source, paths)
    sources = {name: paths[name] for name in layout.streamed if name in paths}
    splits = SourceScan(layout.plan, sources).splits
    merged = sum(
        _merge_splits(store, layout, [split for split in splits if split.source == name], until)
        for name in sources
    )
    if merged:
        _log.info("merged %d rows of history up to %s", merged, until.isoformat())
    return merged


def _merge_splits(
    store: OnlineStore, layout: TileLayout, splits: list[SourceSplit], until: datetime
) -> int:
    if not splits:
        return 0
    namespace = splits[0].source
    key = ProgressKey.for_source(layout, f"history/{namespace}")
    # Lateness has no effect here: without a watermark no tile is closed.
    ingest = TileIngest(store, layout, 0)
    time = layout.plan.class_plan(namespace).time
    merged = 0
    # Read again each time: other members of the group merge the same splits.
    while (stored := key.read(store)).progress.next_offset != len(splits):
        number = stored.progress.next_offset or 0
        rows = splits[number].read(layout.plan)
        # The stream drops events up to the same time: none is counted twice.
        events = rows.rows if time is None else rows.rows.filter(pl.col(time) <= until)
        progress = stored.progress.advance(
            number + 1, None, events=events.height, quarantined=rows.damaged.height
        )
        write = key.guarded_write(progress.encode(), stored.raw)
        try:
            # Without a watermark: later splits may hold older events, so every tile stays open.
            ingest.apply(namespace, events, None, [write])
        except ConflictError:
            # Another consumer of the group has merged this split.
            continue
        merged += events.height
    return merged
