"""What each feature of a set costs to compute: CPU time alone and together, on a sample."""

from __future__ import annotations

import time
from typing import Any

import polars as pl

from sunloom.config.features.materialization import FeaturesRecipe
from sunloom.core.database import open_database, utc_now
from sunloom.errors import DataError
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.historical.query_frame import build_query_frame
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.sources.entity_keys import known_entities
from sunloom.features.sources.scan import SourceScan
from sunloom.monitoring.histogram_store import floor_hour
from sunloom.monitoring.results_table import store_result

_REPEATS = 3


def feature_costs(recipe: FeaturesRecipe, rows: int = 5_000) -> dict[str, Any]:
    """Time each feature of the set alone, and all together, and keep the figures.

    Work that features share, such as sorting rows, counts for each of them alone; so the figures
    add up to more than the whole, and ``share`` is of their sum.

    Args:
        recipe: Definitions and sources.
        rows: Entities asked about, a sample of those known.

    Returns:
        ``rows``, ``whole_ms`` and ``features``: ``feature``, ``alone_ms`` and ``share``, the
        dearest first.

    Raises:
        DataError: The sources know no entity.
    """
    plan = plan_of(recipe.definitions, recipe.feature_set)
    scan = SourceScan(plan, recipe.source_paths())
    moment = recipe.online.as_of if recipe.online is not None else utc_now()
    known = known_entities(scan, moment)
    if known.is_empty():
        raise DataError(f"The sources of {plan.feature_set} know no entity by {moment}.")
    asked = known.sample(min(rows, known.height), seed=recipe.seed)
    tables = {name: source.rows for name, source in scan.read().items()}
    questions = build_query_frame(plan, asked, has_source=plan.namespace in scan.paths)
    alone = {
        name: _cpu_ms(plan.model_copy(update={"outputs": (name,)}), tables, questions)
        for name in plan.outputs
    }
    total = sum(alone.values()) or 1.0
    found = {
        "rows": asked.height,
        "whole_ms": _cpu_ms(plan, tables, questions),
        "features": [
            {"feature": name, "alone_ms": cost, "share": cost / total}
            for name, cost in sorted(alone.items(), key=lambda item: -item[1])
        ],
    }
    span = (floor_hour(utc_now()), utc_now())
    store_result(open_database(recipe), plan.feature_set, "cost", span, found)
    return found


def _cpu_ms(plan: Plan, tables: dict[str, pl.DataFrame], questions: pl.DataFrame) -> float:
    times = []
    for _ in range(_REPEATS):
        start = time.process_time()
        FeatureEngine(plan, tables).compute(questions)
        times.append(1000 * (time.process_time() - start))
    return min(times)
