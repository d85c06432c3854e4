"""Training rows at cut-off moments, and the latest values into the online store."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
from polars.testing import assert_frame_equal

from sunloom.config.features import FeaturesRecipe
from sunloom.core.plugins import load_plugin
from sunloom.core.telemetry import get_logger
from sunloom.data.datasets import GROUP, LabelledDataSet
from sunloom.data.pipeline import open_tables
from sunloom.errors import UsageError
from sunloom.features.catalogue import plan_of
from sunloom.features.historical import EVENT_TIME, check_sources, computed, settle
from sunloom.features.plan import Plan
from sunloom.features.quality import gate, keep_rules
from sunloom.features.sizing import Choice, choose_engine
from sunloom.features.store import open_online_store

RELATIVE_TOLERANCE = 1e-9

_log = get_logger("features.materialize")


def materialize(recipe: FeaturesRecipe) -> dict[str, Any]:
    """Compute and write what the recipe wants.

    Returns:
        ``training_rows``, ``online_entities``, and ``engines_equal``: whether the training rows
        through Ray Data are those of the one-process path; None where they were not compared.
    """
    plan = plan_of(recipe.definitions, recipe.feature_set)
    check_sources(plan, recipe.source_paths())
    summary: dict[str, Any] = {"training_rows": 0, "online_entities": 0, "engines_equal": None}
    if recipe.training is not None:
        summary |= _training(recipe, plan)
    if recipe.online is not None:
        summary["online_entities"] = _online(recipe, plan, recipe.online.as_of)
    return summary


def needs_cluster(recipe: FeaturesRecipe) -> bool:
    """Whether Ray computes or is compared with."""
    if recipe.training is not None and recipe.execution.compare_engines:
        return True
    return _choice(recipe, plan_of(recipe.definitions, recipe.feature_set)).engine == "ray"


def _choice(recipe: FeaturesRecipe, plan: Plan) -> Choice:
    return choose_engine(plan, recipe.source_paths(), wanted=recipe.execution.engine)


def _labelled(recipe: FeaturesRecipe) -> LabelledDataSet:
    if recipe.training is None:
        raise UsageError("The recipe has no `training`, which names the labelled data set.")
    dataset: LabelledDataSet = load_plugin(GROUP, recipe.training.dataset, LabelledDataSet)
    return dataset


def _tables(recipe: FeaturesRecipe) -> dict[str, pl.LazyFrame]:
    assert recipe.training is not None
    return dict(open_tables(recipe.paths.outputs / "data" / recipe.training.dataset))


def _training(recipe: FeaturesRecipe, plan: Plan) -> dict[str, Any]:
    dataset, tables = _labelled(recipe), _tables(recipe)
    entities = pl.concat([dataset.entities(tables, moment) for moment in recipe.moments()])
    rows = _computed(recipe, plan, entities)
    labelled = rows.with_columns(dataset.outcomes(tables, rows))
    _admit(recipe, plan, labelled, "training")
    for moment in recipe.moments():
        path = recipe.features_folder() / f"training_{moment.date()}.parquet"
        _write(labelled.filter(pl.col(EVENT_TIME) == moment), path)
    equal = _engines_equal(recipe, plan, entities, rows)
    return {"training_rows": rows.height, "engines_equal": equal}


def _computed(recipe: FeaturesRecipe, plan: Plan, entities: pl.DataFrame) -> pl.DataFrame:
    choice = _choice(recipe, plan)
    _log.info("computed by %s: %s", choice.engine, choice.why)
    partitions = recipe.execution.partitions
    result = computed(plan, recipe.source_paths(), entities, choice, partitions)
    quarantine = recipe.features_folder() / "quarantine.jsonl"
    settle(result, quarantine, recipe.execution.max_bad_share)
    return result.table


def _engines_equal(
    recipe: FeaturesRecipe, plan: Plan, entities: pl.DataFrame, rows: pl.DataFrame
) -> bool | None:
    if not recipe.execution.compare_engines:
        return None
    from sunloom.features.distributed import historical_ray

    other = historical_ray(plan, recipe.source_paths(), entities, recipe.execution.partitions).table
    try:
        # Whole numbers, strings and moments must be the same; floats to nine digits.
        assert_frame_equal(rows, other, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-12)
    except AssertionError as difference:
        _log.error("the engines differ: %s", difference)
        return False
    return True


def _online(recipe: FeaturesRecipe, plan: Plan, as_of: datetime) -> int:
    entities = _labelled(recipe).entities(_tables(recipe), as_of)
    rows = _computed(recipe, plan, entities)
    _admit(recipe, plan, rows, "online")
    store = open_online_store(recipe)
    store.write(recipe.feature_set, rows, key=plan.root.key, time=EVENT_TIME)
    keep_rules(store, recipe.feature_set, recipe.validation, plan)
    return store.count(recipe.feature_set)


def _admit(recipe: FeaturesRecipe, plan: Plan, rows: pl.DataFrame, kind: str) -> None:
    """Stop before anything is written where the recipe's rules refuse the batch."""
    folder = recipe.features_folder() / "quality" / kind
    gate(recipe, recipe.validation, rows, f"{recipe.feature_set} {kind}", folder, plan)


def _write(frame: pl.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.new")
    frame.write_parquet(partial)
    partial.replace(path)
