"""Costs of features: CPU time of each alone, and of all together, on a sample."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import polars as pl

from sunloom.config.features import FeaturesRecipe
from sunloom.core.database import open_database, utc_now
from sunloom.errors import DataError
from sunloom.features.definitions.open import plan_of_recipe
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.historical.query import build_query_frame
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.sources.scan import SourceScan, known_entities
from sunloom.monitoring.stored_results import store_result
from sunloom.monitoring.windows import hour_until

_REPEATS = 3


@dataclass(frozen=True)
class FeatureCost:
    """CPU time of one feature computed alone, and its share of the sum over all."""

    feature: str
    alone_ms: float
    share: float


@dataclass(frozen=True)
class FeatureCosts:
    """Costs of a feature set.

    Attributes:
        rows: Entities of the sample.
        whole_ms: CPU time of all features together.
        features: Costs by feature, the highest first.
    """

    rows: int
    whole_ms: float
    features: Sequence[FeatureCost]


def feature_costs(recipe: FeaturesRecipe, rows: int = 5_000) -> FeatureCosts:
    """Time each feature of the set alone, and all together, and store the figures.

    Work that features share, such as sorting rows, counts for each of them alone; so the figures
    add up to more than the whole, and ``share`` is of their sum.

    Args:
        recipe: Definitions and sources.
        rows: Entities, a sample of those known.

    Raises:
        DataError: The sources know no entity.
    """
    plan = plan_of_recipe(recipe)
    scan = SourceScan(plan, recipe.source_paths(), recipe.feature_store.batch_source.deduplicate)
    as_of = recipe.online.as_of if recipe.online is not None else utc_now()
    known = known_entities(scan, as_of)
    if known.is_empty():
        raise DataError(f"The sources of {plan.feature_set} know no entity by {as_of}.")
    # By the recipe's seed: two runs time the same entities, so that their figures compare.
    entities = known.sample(min(rows, known.height), seed=recipe.seed)
    tables = {name: source.rows for name, source in scan.read().items()}
    queries = build_query_frame(plan, entities, has_source=plan.namespace in scan.paths)
    alone = {
        name: _cpu_ms(plan.model_copy(update={"outputs": (name,)}), tables, queries)
        for name in plan.outputs
    }
    total = sum(alone.values()) or 1.0
    costs = FeatureCosts(
        rows=entities.height,
        whole_ms=_cpu_ms(plan, tables, queries),
        features=[
            FeatureCost(feature=name, alone_ms=cost, share=cost / total)
            for name, cost in sorted(alone.items(), key=lambda item: -item[1])
        ],
    )
    database, span = open_database(recipe), hour_until(utc_now())
    store_result(database, plan.feature_set, "cost", span, asdict(costs))
    return costs


def _cpu_ms(plan: Plan, tables: Mapping[str, pl.DataFrame], queries: pl.DataFrame) -> float:
    times = []
    for _ in range(_REPEATS):
        # CPU time of all threads, since Polars uses several: elapsed time would hide them.
        start = time.process_time()
        FeatureEngine(plan, tables).compute(queries)
        times.append(1000 * (time.process_time() - start))
    # The least disturbed run; a mean would measure what else the machine does.
    return min(times)
