"""Skew: differences between online and offline values of features.

Streaming skew compares values read for random entities and as-of times with the event log's;
training-serving skew computes results that were served again from the offline data.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from sunloom.config.features import FeaturesRecipe
from sunloom.core.alerts import Alert, emit_alert, resolve_alert
from sunloom.core.database import open_database, utc_now
from sunloom.data.sources.databases import fetch_sources
from sunloom.errors import ConflictError
from sunloom.feature_store.online.reader import OnlineReader
from sunloom.feature_store.online.tile_layout import TileLayout
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.feature_store.streaming.job import prepare_stream
from sunloom.feature_store.streaming.partition import all_progress
from sunloom.features.definitions.open import plan_of_recipe
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.feature_sets import NOW, Plan
from sunloom.features.plan.polars_dtypes import EPOCH, POLARS
from sunloom.features.sources.scan import SourceScan
from sunloom.monitoring.stored_results import latest_served, store_result
from sunloom.monitoring.windows import hour_until

_TOLERANCE = 1e-9
_MOST_EXAMPLES = 20
# The text must fit: the database holds 4,000 characters of a message.
_MOST_NAMES = 10


@dataclass(frozen=True)
class Difference:
    """A value on which online and offline differ."""

    entity_id: Any
    moment: datetime
    feature: str
    online: Any
    offline: Any


@dataclass(frozen=True)
class SkewReport:
    """A comparison of online with offline values.

    Attributes:
        questions: Entities and as-of times that were compared.
        values: Values that were compared.
        differences: Number of values that differ.
        examples: Some of them.
        passed: Whether values were compared, and none differs.
    """

    questions: int
    values: int
    differences: int
    examples: Sequence[Difference]
    passed: bool

    @staticmethod
    def from_differences(
        questions: int, values: int, differences: Sequence[Difference]
    ) -> SkewReport:
        """The report of these differences."""
        return SkewReport(
            questions=questions,
            values=values,
            differences=len(differences),
            examples=differences[:_MOST_EXAMPLES],
            passed=values > 0 and not differences,
        )


def _is_equal(online: Any, offline: Any) -> bool:
    """Whether two values are the same: floats to nine digits, everything else exactly."""
    if isinstance(online, float) and isinstance(offline, float):
        if math.isnan(offline):
            return math.isnan(online)
        # Partial sums are added in another order online, so the last digits may differ.
        return math.isclose(online, offline, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    # Python says True == 1, but a truth value served as a number is a difference.
    return type(online) is type(offline) and bool(online == offline)


def _compute_offline(
    plan: Plan, tables: Mapping[str, pl.DataFrame], rows: Sequence[tuple[Any, datetime]]
) -> list[Mapping[str, Any]]:
    """Features of each entity key and as-of time."""
    key = plan.root.feature(plan.root.key)
    schema = {key.name: POLARS[key.dtype], NOW: POLARS["datetime"]}
    spine = pl.DataFrame(rows, schema=schema, orient="row")
    return [*FeatureEngine(plan, tables).compute(spine).to_dicts()]


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
        ConflictError: Nothing was streamed yet, or no log was kept.
    """
    store = open_online_store(recipe)
    layout = prepare_stream(recipe, store)
    plan, tables = layout.plan, _logged_tables(recipe, layout)
    latest_us = [progress.latest_us for progress in all_progress(store, layout).values()]
    newest_us = max((time for time in latest_us if time is not None), default=None)
    entities = _logged_entities(plan, tables)
    if newest_us is None or not entities:
        raise ConflictError("Nothing was streamed yet.", "Run `sunloom features stream` first.")
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
    offline = _compute_offline(plan, tables, rows)
    differences = [
        Difference(entity, as_of, name, features[name], value)
        for (entity, as_of), features, computed in zip(rows, online, offline, strict=True)
        if features is not None
        for name, value in computed.items()
        if not _is_equal(features[name], value)
    ]
    values = sum(len(features) for features in online if features is not None)
    return SkewReport.from_differences(len(rows), values, differences)


def _logged_tables(recipe: FeaturesRecipe, layout: TileLayout) -> dict[str, pl.DataFrame]:
    """Rows of the streamed classes: the log, after the batch source up to its ``history``.

    Raises:
        ConflictError: No log was kept.
    """
    plan, history = layout.plan, recipe.kafka_source().history
    folders = {name: recipe.features_folder() / "log" / name for name in layout.streamed}
    for namespace, folder in folders.items():
        if not folder.is_dir():
            raise ConflictError(
                f"There is no log of {namespace!r} in {folder}.",
                "Stream with streaming_source.keep_log: true.",
            )
    tables = {name: log.rows for name, log in SourceScan(plan, folders).read().items()}
    if history is None:
        return tables
    paths = {name: path for name, path in recipe.source_paths().items() if name in tables}
    # As the stream merges it: of repeats in the history one row, whatever the topics repeat.
    rules = recipe.feature_store.batch_source.deduplicate
    for namespace, source in SourceScan(plan, paths, rules).read(history).items():
        tables[namespace] = pl.concat([source.rows, tables[namespace]], how="diagonal")
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


def compare_served(recipe: FeaturesRecipe, count: int = 1_000) -> SkewReport:
    """Compute a sample of served results again, each as of its own time, and store the figures.

    An event that arrived only after a result was served shows as a difference: what was served
    is not what training sees. Differences raise the alert ``feature_skew``; none resolves it.

    Args:
        recipe: The feature set, with the sources of its training rows.
        count: At most this many results, the newest.

    Raises:
        ConflictError: No result of the set was kept yet.
    """
    database = open_database(recipe)
    served = latest_served(database, recipe.feature_set, count)
    if not served:
        raise ConflictError(
            f"No answer of {recipe.feature_set!r} was kept yet.",
            "Serve it with serving.features.keep_answers: true, and read it through the gateway.",
        )
    if recipe.feature_store.streaming_source is not None:
        layout = prepare_stream(recipe, open_online_store(recipe))
        plan, tables = layout.plan, _logged_tables(recipe, layout)
    else:
        plan = plan_of_recipe(recipe)
        paths = recipe.source_paths()
        fetch_sources(recipe.feature_store.batch_source, paths)
        scan = SourceScan(plan, paths, recipe.feature_store.batch_source.deduplicate)
        tables = {name: source.rows for name, source in scan.read().items()}
    rows = [(result.entity_id, result.moment) for result in served]
    offline = _compute_offline(plan, tables, rows)
    differences = [
        Difference(result.entity_id, result.moment, name, value, _through_json(computed[name]))
        for result, computed in zip(served, offline, strict=True)
        for name, value in result.features.items()
        # A feature may have left the definitions since it was served.
        if name in computed and not _is_equal(value, _through_json(computed[name]))
    ]
    values = Counter(
        name
        for result, computed in zip(served, offline, strict=True)
        for name in result.features
        if name in computed
    )
    differing = Counter(difference.feature for difference in differences)
    shares = [
        {"feature": name, "values": count, "skew_rate": differing[name] / count}
        for name, count in values.items()
    ]
    figures = {"questions": len(served), "differences": differing.total(), "features": shares}
    store_result(database, recipe.feature_set, "skew", hour_until(utc_now()), figures)
    _update_alert(recipe, values, differing)
    return SkewReport.from_differences(len(served), values.total(), differences)


def _update_alert(recipe: FeaturesRecipe, values: Counter[str], differing: Counter[str]) -> None:
    names = ", ".join(f"{name} ({count})" for name, count in differing.most_common(_MOST_NAMES))
    alert = Alert(
        name="feature_skew",
        severity="warning",
        message=f"{differing.total()} of {values.total()} served values of {recipe.feature_set} "
        f"differ from offline: {names or 'none'}",
        labels={"feature_set": recipe.feature_set},
        value=float(differing.total()),
        threshold=0.0,
    )
    if differing:
        emit_alert(recipe, alert)
    # Where nothing could be compared, an open alert stays open.
    elif values:
        resolve_alert(recipe, alert)


def _through_json(value: Any) -> Any:
    """A value as it is after its way through JSON, as served results are."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        # The gateway writes NaN and infinity as null.
        return None
    return json.loads(json.dumps(value, default=_json_default))


def _json_default(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value.total_seconds()
