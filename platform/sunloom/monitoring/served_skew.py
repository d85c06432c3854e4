"""Training-serving skew: results that were served, computed again from the offline data."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import polars as pl

from sunloom.config.features import FeaturesRecipe
from sunloom.core.alerts import Alert, emit_alert, resolve_alert
from sunloom.core.database import open_database, utc_now
from sunloom.errors import NotFoundError
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.feature_store.streaming.job import prepare_stream
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.sources.extract import fetch_sources
from sunloom.features.sources.scan import SourceScan
from sunloom.monitoring.results_table import store_result
from sunloom.monitoring.served_results import latest_served
from sunloom.monitoring.skew import Difference, SkewReport, is_equal, spine
from sunloom.monitoring.stream_skew import logged_tables
from sunloom.monitoring.windows import TimeSpan, floor_hour

# The text must fit: the database holds 4,000 characters of a message.
_MOST_NAMES = 10


def compare_served(recipe: FeaturesRecipe, count: int = 1_000) -> SkewReport:
    """Compute a sample of served results again, each as of its own time, and store the figures.

    An event that arrived only after a result was served shows as a difference: what was served
    is not what training sees. Differences raise the alert ``feature_skew``; none resolves it.

    Args:
        recipe: The feature set, with the sources of its training rows.
        count: At most this many results, the newest.

    Raises:
        NotFoundError: No result of the set was kept yet.
    """
    served = latest_served(open_database(recipe), recipe.feature_set, count)
    if not served:
        raise NotFoundError(
            f"No answer of {recipe.feature_set!r} was kept yet.",
            "Serve it with serving.features.keep_answers: true, and read it through the gateway.",
        )
    plan, tables = _offline_tables(recipe)
    rows = [(result.entity_id, result.moment) for result in served]
    offline = FeatureEngine(plan, tables).compute(spine(plan, rows)).to_dicts()
    differences = [
        Difference(result.entity_id, result.moment, name, value, _through_json(computed[name]))
        for result, computed in zip(served, offline, strict=True)
        for name, value in result.features.items()
        # A feature may have left the definitions since it was served.
        if name in computed and not is_equal(value, _through_json(computed[name]))
    ]
    values = Counter(name for result in served for name in result.features)
    differing = Counter(difference.feature for difference in differences)
    _store_figures(recipe, len(served), values, differing)
    _update_alert(recipe, values, differing)
    return SkewReport.from_differences(len(served), values.total(), differences)


def _store_figures(
    recipe: FeaturesRecipe, results: int, values: Counter[str], differing: Counter[str]
) -> None:
    shares = [
        {"feature": name, "values": count, "skew_rate": differing[name] / count}
        for name, count in values.items()
    ]
    figures = {"questions": results, "differences": differing.total(), "features": shares}
    # From the full hour: a second comparison within it replaces the first.
    span = TimeSpan(floor_hour(utc_now()), utc_now())
    store_result(open_database(recipe), recipe.feature_set, "skew", span, figures)


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
    else:
        resolve_alert(recipe, alert)


def _offline_tables(recipe: FeaturesRecipe) -> tuple[Plan, dict[str, pl.DataFrame]]:
    if recipe.feature_store.streaming_source is not None:
        layout = prepare_stream(recipe, open_online_store(recipe))
        return layout.plan, logged_tables(recipe, layout)
    plan, paths = plan_of(recipe.definitions, recipe.feature_set), recipe.source_paths()
    fetch_sources(recipe.feature_store.batch_source, paths)
    return plan, {name: source.rows for name, source in SourceScan(plan, paths).read().items()}


def _through_json(value: Any) -> Any:
    """A value as it is after its way through JSON, as served results are."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        # The gateway writes NaN and infinity as null.
        return None
    return json.loads(json.dumps(value, default=_json_default))


def _json_default(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value.total_seconds()
