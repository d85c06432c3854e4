"""Streaming skew: online values of random entities and as-of times against the event log's."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from sunloom.config.features import FeaturesRecipe
from sunloom.errors import NotFoundError
from sunloom.feature_store.online.reader import OnlineReader
from sunloom.feature_store.online.tile_layout import TileLayout
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.feature_store.streaming.job import prepare_stream
from sunloom.feature_store.streaming.partition import all_progress
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.polars_dtypes import EPOCH
from sunloom.features.sources.scan import SourceScan
from sunloom.monitoring.skew import Difference, SkewReport, is_equal, spine


def compare_streamed(recipe: FeaturesRecipe, questions: int = 1_000, seed: int = 0) -> SkewReport:
    """Read random entities as of random times from the online store, and compute them offline.

    The times are between the latest event and the allowed lateness before it, where the tiles of
    every window are still kept. Events that came by HTTP are not in the log, and show as
    differences.

    Args:
        recipe: A streamed feature set, with its log.
        questions: Number of entities and times.
        seed: Of the choice.

    Raises:
        NotFoundError: Nothing was streamed yet, or no log was kept.
    """
    store = open_online_store(recipe)
    layout = prepare_stream(recipe, store)
    plan, tables = layout.plan, logged_tables(recipe, layout)
    latest_us = [progress.latest_us for progress in all_progress(store, layout).values()]
    newest_us = max((time for time in latest_us if time is not None), default=None)
    entities = _logged_entities(plan, tables)
    if newest_us is None or not entities:
        raise NotFoundError("Nothing was streamed yet.", "Run `sunloom features stream` first.")
    lateness_us = round(recipe.kafka_source().lateness / timedelta(microseconds=1))
    # Not before the first event, where every window is empty and nothing can differ.
    first_us = max(newest_us - lateness_us, min(newest_us, _oldest_us(plan, tables)))
    choice = random.Random(seed)
    rows: list[tuple[Any, datetime]] = [
        (
            choice.choice(entities),
            EPOCH + timedelta(microseconds=choice.randint(first_us, newest_us)),
        )
        for _ in range(questions)
    ]
    reader = OnlineReader(store, plan, layout)
    # One read a row: a request has one as-of time for all its entities.
    online = [reader.read([entity], as_of)[0] for entity, as_of in rows]
    offline = FeatureEngine(plan, tables).compute(spine(plan, rows)).to_dicts()
    differences = [
        Difference(entity, as_of, name, features[name], value)
        for (entity, as_of), features, computed in zip(rows, online, offline, strict=True)
        if features is not None
        for name, value in computed.items()
        if not is_equal(features[name], value)
    ]
    values = sum(len(features) for features in online if features is not None)
    return SkewReport.from_differences(len(rows), values, differences)


def logged_tables(recipe: FeaturesRecipe, layout: TileLayout) -> dict[str, pl.DataFrame]:
    """Rows of the streamed classes: the log, after the batch source up to its ``history``.

    Raises:
        NotFoundError: No log was kept.
    """
    plan, history = layout.plan, recipe.kafka_source().history
    folders = {name: recipe.features_folder() / "log" / name for name in layout.streamed}
    for namespace, folder in folders.items():
        if not folder.is_dir():
            raise NotFoundError(
                f"There is no log of {namespace!r} in {folder}.",
                "Stream with streaming_source.keep_log: true.",
            )
    tables = {name: log.rows for name, log in SourceScan(plan, folders).read().items()}
    if history is None:
        return tables
    paths = {name: path for name, path in recipe.source_paths().items() if name in tables}
    for namespace, source in SourceScan(plan, paths).read().items():
        time = plan.class_plan(namespace).time
        before = source.rows if time is None else source.rows.filter(pl.col(time) <= history)
        tables[namespace] = pl.concat([before, tables[namespace]], how="diagonal")
    return tables


def _oldest_us(plan: Plan, tables: Mapping[str, pl.DataFrame]) -> int:
    """The first event's time."""
    # Polars types a minimum as any Python value; that of an Int64 column is an int.
    times = [
        table[time].cast(pl.Int64).min()
        for namespace, table in tables.items()
        if (time := plan.class_plan(namespace).time) is not None and table.height
    ]
    return min((int(str(time)) for time in times if time is not None), default=0)


def _logged_entities(plan: Plan, tables: Mapping[str, pl.DataFrame]) -> Sequence[Any]:
    """Keys of the feature set that occur in the logs, by themselves or as join keys."""
    root = plan.root
    columns = [(root.namespace, root.key)]
    columns += [
        (join.target, join.target_keys[0]) for join in root.joins if join.own_keys == (root.key,)
    ]
    keys = [
        tables[namespace][name].drop_nulls()
        for namespace, name in columns
        if namespace in tables and name in tables[namespace].columns
    ]
    return pl.concat(keys).unique().sort().to_list() if keys else []
