"""What happened before the stream began, merged from the recipe's batch source."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from sunloom.config.features.materialization import FeaturesRecipe
from sunloom.core.telemetry import get_logger
from sunloom.errors import ConflictError
from sunloom.feature_store.online.tiles.index import TileLayout
from sunloom.feature_store.stores.online.protocol import OnlineStore
from sunloom.feature_store.streaming.ingest import Ingest
from sunloom.feature_store.streaming.offsets import Place
from sunloom.features.plan.projection import source_projections
from sunloom.features.sources.extract import fetch_sources
from sunloom.features.sources.splits import FileSplit, chunks_of, read_chunk

_log = get_logger("features.streaming")


def merge_history(recipe: FeaturesRecipe, store: OnlineStore, layout: TileLayout) -> int:
    """Merge the batch source's rows up to ``streaming_source.history``; how many were merged now.

    Each chunk of the source is one transaction with its number, so a start that was cut off goes
    on where it stopped, and a second one finds all done.

    Raises:
        DataError: A file cannot be read, or lacks a column.
    """
    until = recipe.kafka_source().history
    if until is None:
        return 0
    fetch_sources(recipe)
    paths = recipe.source_paths()
    sources = {name: paths[name] for name in layout.streamed if name in paths}
    chunks = chunks_of(layout.plan, sources)
    merged = sum(
        _merge(store, layout, [chunk for chunk in chunks if chunk.source == name], name, until)
        for name in sources
    )
    if merged:
        _log.info("merged %d rows of history up to %s", merged, until.isoformat())
    return merged


def _merge(
    store: OnlineStore, layout: TileLayout, chunks: list[FileSplit], namespace: str, until: datetime
) -> int:
    place = Place.of(layout, f"history/{namespace}")
    ingest = Ingest(store, layout, 0)
    need, time = source_projections(layout.plan)[namespace], layout.plan.class_plan(namespace).time
    merged = 0
    while (progress := place.read(store))[0].next_offset != len(chunks):
        number = progress[0].next_offset or 0
        rows = read_chunk(layout.plan, need, chunks[number])
        events = _until(rows.rows, time, until)
        after = progress[0].moved(
            number + 1,
            None,
            events=events.height,
            late=0,
            dropped=0,
            quarantined=rows.damaged.height,
        )
        write = (place.space, place.key, after.packed())
        try:
            # No latest time: later chunks may hold older events, so no tile is closed yet.
            ingest.apply(namespace, events, None, [(write, progress[1])])
        except ConflictError:
            # Another consumer of the group has merged this chunk.
            continue
        merged += events.height
    return merged


def _until(rows: pl.DataFrame, time: str | None, until: datetime) -> pl.DataFrame:
    return rows if time is None else rows.filter(pl.col(time) <= until)
