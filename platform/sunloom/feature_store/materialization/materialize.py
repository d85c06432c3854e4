"""Training rows at cut-off moments, and the latest values into the online store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
from polars.testing import assert_frame_equal

from sunloom.config.features.materialization import FeaturesRecipe, OnlineConfig
from sunloom.core.files import atomic_path
from sunloom.core.plugins import load_plugin
from sunloom.core.telemetry import get_logger
from sunloom.data.datasets import GROUP, LabelledDataSet
from sunloom.data.pipeline import open_tables
from sunloom.data.quality.gate import gate
from sunloom.data.sources.table_files import read_table
from sunloom.errors import UsageError
from sunloom.feature_store.materialization.preprocessed import Preparation
from sunloom.feature_store.online.request_checks import store_rules
from sunloom.feature_store.online.staleness import is_expiry_column, with_expiry
from sunloom.feature_store.stores.offline.offline_store import open_offline_store
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.feature_store.stores.online.spaces import PLANS
from sunloom.features.definitions.open import outline_of, plan_of
from sunloom.features.engine.counters import Counters
from sunloom.features.historical.engine_choice import EngineChoice, choose_engine
from sunloom.features.historical.retrieve import check_sources, computed, quarantine_damaged
from sunloom.features.plan.columns import EVENT_TIME
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.quality_rules import table_rules
from sunloom.features.sources.entity_keys import known_entities
from sunloom.features.sources.extract import fetch_sources

RELATIVE_TOLERANCE = 1e-9
_POSITION = "__position__"

_log = get_logger("features.materialize")


def materialize(recipe: FeaturesRecipe, *, fetched: bool = False) -> dict[str, Any]:
    """Compute and write what the recipe wants.

    Args:
        recipe: The recipe.
        fetched: Whether ``fetch_sources`` has been called for this run.

    Returns:
        ``training_rows``, ``online_entities``, ``offline_version``: the offline store's version
        that holds all of them; and ``engines_equal``: whether the training rows through Ray Data
        are those of the one-process path, None where they were not compared. Where there are any:
        ``validations`` (feature to values outside its limits) and ``resolver_failures``; and
        what ``Preparation.told`` says of the prepared set.
    """
    if not fetched:
        fetch_sources(recipe)
    plan = _plan(recipe)
    summary: dict[str, Any] = {"training_rows": 0, "online_entities": 0, "engines_equal": None}
    made: list[pl.DataFrame] = []
    report = Counters()
    preparation = Preparation(recipe, plan.root.key)
    if recipe.training is not None:
        rows, equal = _training(recipe, plan, report, preparation)
        made.append(rows)
        summary |= {"training_rows": rows.height, "engines_equal": equal}
    if recipe.online is not None:
        served = plan.for_online()
        latest = _latest(recipe, with_expiry(served), recipe.online, report)
        summary["online_entities"] = _online(recipe, served, latest)
        made.append(latest.drop(name for name in latest.columns if is_expiry_column(name)))
        preparation.serve(open_online_store(recipe), made[-1])
    if made:
        summary["offline_version"] = _offline(recipe, plan, made)
    return summary | report.told() | preparation.told


def _plan(recipe: FeaturesRecipe) -> Plan:
    if recipe.execution.engine == "chalk":
        # Chalk may compute what cannot be bound here: names and types are enough.
        return outline_of(recipe.definitions, recipe.feature_set)
    plan = plan_of(recipe.definitions, recipe.feature_set)
    check_sources(plan, recipe.source_paths())
    return plan


def needs_cluster(recipe: FeaturesRecipe) -> bool:
    """Whether Ray computes or is compared with; the sources must have been fetched."""
    if recipe.execution.engine == "chalk":
        return False
    if recipe.training is not None and recipe.execution.compare_engines:
        return True
    return _choice(recipe, plan_of(recipe.definitions, recipe.feature_set)).engine == "ray"


def _choice(recipe: FeaturesRecipe, plan: Plan) -> EngineChoice:
    assert recipe.execution.engine != "chalk"
    return choose_engine(plan, recipe.source_paths(), wanted=recipe.execution.engine)


def _labelled(recipe: FeaturesRecipe) -> LabelledDataSet:
    if recipe.training is None:
        raise UsageError("The recipe has no `training`, which names the labelled data set.")
    dataset: LabelledDataSet = load_plugin(GROUP, recipe.training.dataset, LabelledDataSet)
    return dataset


def _tables(recipe: FeaturesRecipe) -> dict[str, pl.LazyFrame]:
    assert recipe.training is not None
    return dict(open_tables(recipe.paths.outputs / "data" / recipe.training.dataset))


def _training(
    recipe: FeaturesRecipe, plan: Plan, report: Counters, preparation: Preparation
) -> tuple[pl.DataFrame, bool | None]:
    dataset, tables = _labelled(recipe), _tables(recipe)
    entities = pl.concat([dataset.entities(tables, moment) for moment in recipe.moments()])
    rows = _computed(recipe, plan, entities, report)
    labelled = rows.with_columns(dataset.outcomes(tables, rows))
    _admit(recipe, plan, labelled, "training")
    for moment in recipe.moments():
        path = recipe.features_folder() / f"training_{moment.date()}.parquet"
        with atomic_path(path) as partial:
            labelled.filter(pl.col(EVENT_TIME) == moment).write_parquet(partial)
    preparation.train(labelled, dataset.label)
    return rows, _engines_equal(recipe, plan, entities, rows)


def _computed(
    recipe: FeaturesRecipe, plan: Plan, entities: pl.DataFrame, report: Counters
) -> pl.DataFrame:
    if recipe.execution.engine == "chalk" and recipe.chalk is not None:
        from sunloom.features.historical.chalk_query import historical_chalk

        return historical_chalk(recipe.chalk, plan, entities).table
    choice = _choice(recipe, plan)
    _log.info("computed by %s: %s", choice.engine, choice.why)
    partitions = recipe.execution.partitions
    result = computed(plan, recipe.source_paths(), entities, choice, partitions)
    quarantine = recipe.features_folder() / "quarantine.jsonl"
    quarantine_damaged(result, quarantine, recipe.execution.max_bad_share)
    report.add(result.report)
    return result.table


def _engines_equal(
    recipe: FeaturesRecipe, plan: Plan, entities: pl.DataFrame, rows: pl.DataFrame
) -> bool | None:
    if not recipe.execution.compare_engines or recipe.execution.engine == "chalk":
        return None
    other = _through_ray_data(recipe, plan, entities).select(rows.columns)
    try:
        # Whole numbers, strings and moments must be the same; floats to nine digits.
        assert_frame_equal(rows, other, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-12)
    except AssertionError as difference:
        _log.error("the engines differ: %s", difference)
        return False
    return True


def _through_ray_data(recipe: FeaturesRecipe, plan: Plan, entities: pl.DataFrame) -> pl.DataFrame:
    """The same rows from the Ray Dataset, whose blocks stand by partition, put in order again."""
    import ray

    from sunloom.features.historical.dataset import historical_dataset

    numbered = entities.with_row_index(_POSITION)
    partitions = recipe.execution.partitions
    dataset = historical_dataset(plan, recipe.source_paths(), numbered, partitions)
    blocks = [pl.from_arrow(block) for block in ray.get(dataset.to_arrow_refs())]
    filled = [block for block in blocks if isinstance(block, pl.DataFrame)]
    return pl.concat(filled).sort(_POSITION).drop(_POSITION)


def _latest(
    recipe: FeaturesRecipe, plan: Plan, online: OnlineConfig, report: Counters
) -> pl.DataFrame:
    return _computed(recipe, plan, _known(recipe, plan, online), report)


def _known(recipe: FeaturesRecipe, plan: Plan, online: OnlineConfig) -> pl.DataFrame:
    """Key and moment of the entities to write."""
    if online.entities is not None:
        given = read_table(online.entities, [plan.root.key]).rows.unique(maintain_order=True)
        when = pl.lit(online.as_of).cast(pl.Datetime("us", "UTC")).alias(EVENT_TIME)
        return given.with_columns(when)
    if recipe.training is not None:
        return _labelled(recipe).entities(_tables(recipe), online.as_of)
    return known_entities(plan, recipe.source_paths(), online.as_of)


def _online(recipe: FeaturesRecipe, plan: Plan, rows: pl.DataFrame) -> int:
    _admit(recipe, plan, rows, "online")
    store, ttl = open_online_store(recipe), recipe.feature_store.ttl
    # Before the write, or rows that an earlier, shorter time to live has ended would be dropped.
    if recipe.feature_set in store.feature_sets():
        store.set_ttl(recipe.feature_set, ttl)
    store.write(recipe.feature_set, rows, key=plan.root.key, time=EVENT_TIME)
    store.set_ttl(recipe.feature_set, ttl)
    store.apply([(PLANS, recipe.feature_set.encode(), plan.model_dump_json().encode())])
    store_rules(store, recipe.feature_set, recipe.validation, plan)
    return store.count(recipe.feature_set)


def _offline(recipe: FeaturesRecipe, plan: Plan, made: Sequence[pl.DataFrame]) -> int:
    """One version with all rows; those of a day take the place of an earlier run's."""
    key = plan.root.key
    rows = pl.concat(made, how="diagonal").unique(
        [key, EVENT_TIME], keep="last", maintain_order=True
    )
    store = open_offline_store(recipe)
    return store.write(recipe.feature_set, rows, key=key, time=EVENT_TIME, mode="dates").number


def _admit(recipe: FeaturesRecipe, plan: Plan, rows: pl.DataFrame, kind: str) -> None:
    """Stop before anything is written where the recipe's rules refuse the batch."""
    folder = recipe.features_folder() / "quality" / kind
    name = f"{recipe.feature_set} {kind}"
    gate(recipe, recipe.validation, rows, name, folder, defaults=table_rules(plan))
