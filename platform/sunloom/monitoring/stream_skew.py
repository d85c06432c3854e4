"""Whether online and offline mean the same: answers of the stream against those of batch."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from sunloom.config.features.materialization import FeaturesRecipe
from sunloom.errors import NotFoundError
from sunloom.feature_store.online.reader import OnlineReader
from sunloom.feature_store.online.tiles.index import TileLayout
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.feature_store.stores.online.protocol import OnlineStore
from sunloom.feature_store.streaming.job import prepare_stream
from sunloom.feature_store.streaming.offsets import all_progress
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.columns import NOW
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.polars_dtypes import EPOCH, POLARS
from sunloom.features.plan.projection import source_projections
from sunloom.features.sources.typed_rows import read_source
from sunloom.monitoring.skew import Difference, is_equal

_SHOWN = 20


def compare_streamed(
    recipe: FeaturesRecipe, questions: int = 1_000, seed: int = 0
) -> dict[str, Any]:
    """Ask the online store about random entities and moments, and the log about the same.

    Moments lie within the allowed lateness before the latest event, where every window can still
    be answered, and up to it. Events that came by HTTP are not in the log, and show as
    differences.

    Args:
        recipe: A streamed feature set, with its log.
        questions: How many.
        seed: Of the choice.

    Returns:
        ``questions``, ``values``, ``differences`` (their number), ``examples``, ``passed``.

    Raises:
        NotFoundError: Nothing was streamed yet, or no log was kept.
    """
    store = open_online_store(recipe)
    layout = prepare_stream(recipe, store)
    tables = logged_tables(recipe, layout)
    asked = _questions(recipe, store, layout, tables, questions, seed)
    reader = OnlineReader(store, layout.plan, layout)
    online = [reader.read([entity], moment)[0] for entity, moment in asked]
    offline = FeatureEngine(layout.plan, tables).compute(_frame(layout.plan, asked)).to_dicts()
    found = [
        Difference(entity, moment, name, row[name], value)
        for (entity, moment), row, truth in zip(asked, online, offline, strict=True)
        if row is not None
        for name, value in truth.items()
        if not is_equal(row[name], value)
    ]
    return {
        "questions": len(asked),
        "values": sum(len(row) for row in online if row is not None),
        "differences": len(found),
        "examples": [vars(one) for one in found[:_SHOWN]],
        "passed": not found,
    }


def logged_tables(recipe: FeaturesRecipe, layout: TileLayout) -> dict[str, pl.DataFrame]:
    """Rows of the streamed classes as the log has them, after those of the history.

    Raises:
        NotFoundError: No log was kept.
    """
    needs = source_projections(layout.plan)
    tables: dict[str, pl.DataFrame] = {}
    for namespace in layout.streamed:
        folder = recipe.features_folder() / "log" / namespace
        if not folder.is_dir():
            raise NotFoundError(
                f"There is no log of {namespace!r} in {folder}.",
                "Stream with streaming_source.keep_log: true.",
            )
        item = layout.plan.class_plan(namespace)
        tables[namespace] = read_source(item, needs[namespace].columns, folder).rows
    return tables | _with_history(recipe, layout, tables)


def _with_history(
    recipe: FeaturesRecipe, layout: TileLayout, logged: Mapping[str, pl.DataFrame]
) -> dict[str, pl.DataFrame]:
    """The logs after what the batch source holds of the time before."""
    until = recipe.kafka_source().history
    if until is None:
        return {}
    needs, paths = source_projections(layout.plan), recipe.source_paths()
    tables: dict[str, pl.DataFrame] = {}
    for namespace in set(layout.streamed) & set(paths):
        item = layout.plan.class_plan(namespace)
        rows = read_source(item, needs[namespace].columns, paths[namespace]).rows
        before = rows if item.time is None else rows.filter(pl.col(item.time) <= until)
        tables[namespace] = pl.concat([before, logged[namespace]], how="diagonal")
    return tables


def _questions(
    recipe: FeaturesRecipe,
    store: OnlineStore,
    layout: TileLayout,
    tables: Mapping[str, pl.DataFrame],
    count: int,
    seed: int,
) -> list[tuple[Any, datetime]]:
    latest = [one.latest_us for one in all_progress(store, layout).values()]
    known = [us for us in latest if us is not None]
    entities = _entities(layout.plan, tables)
    if not known or not entities:
        raise NotFoundError("Nothing was streamed yet.", "Run `sunloom features stream` first.")
    chosen = random.Random(seed)
    lateness_us = round(recipe.kafka_source().lateness / timedelta(microseconds=1))
    newest = max(known)
    first = max(newest - lateness_us, min(newest, _oldest_us(layout.plan, tables)))
    return [
        (chosen.choice(entities), EPOCH + timedelta(microseconds=chosen.randint(first, newest)))
        for _ in range(count)
    ]


def _oldest_us(plan: Plan, tables: Mapping[str, pl.DataFrame]) -> int:
    """The first event's time."""
    times = [
        table[time].cast(pl.Int64).min()
        for namespace, table in tables.items()
        if (time := plan.class_plan(namespace).time) is not None and table.height
    ]
    return min((int(str(time)) for time in times if time is not None), default=0)


def _entities(plan: Plan, tables: Mapping[str, pl.DataFrame]) -> list[Any]:
    """Keys of the set that the logs bear."""
    root = plan.root
    places = [(root.namespace, root.key)]
    places += [
        (join.target, join.target_keys[0]) for join in root.joins if join.own_keys == (root.key,)
    ]
    columns = [
        tables[namespace][name].drop_nulls()
        for namespace, name in places
        if namespace in tables and name in tables[namespace].columns
    ]
    return pl.concat(columns).unique().sort().to_list() if columns else []


def _frame(plan: Plan, asked: Sequence[tuple[Any, datetime]]) -> pl.DataFrame:
    key = plan.root.feature(plan.root.key)
    schema = {key.name: POLARS[key.dtype], NOW: POLARS["datetime"]}
    return pl.DataFrame(asked, schema=schema, orient="row")
