"""Training-serving skew: answers that were served, computed anew from the offline data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import polars as pl

from sunloom.config.features.materialization import FeaturesRecipe
from sunloom.core.alerts.alert import Alert
from sunloom.core.alerts.delivery import emit_alert, resolve_alert
from sunloom.core.database import open_database, utc_now
from sunloom.errors import NotFoundError
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.feature_store.streaming.job import prepare_stream
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.columns import NOW
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.polars_dtypes import POLARS
from sunloom.features.sources.extract import fetch_sources
from sunloom.features.sources.scan import SourceScan
from sunloom.monitoring.histogram_store import floor_hour
from sunloom.monitoring.results_table import store_result
from sunloom.monitoring.served_answers import Served, latest_served
from sunloom.monitoring.skew import Difference, is_equal
from sunloom.monitoring.stream_skew import logged_tables

_SHOWN = 20
_NAMED = 10


def compare_served(recipe: FeaturesRecipe, count: int = 1_000) -> dict[str, Any]:
    """Compute a sample of served answers anew, each as of its own moment, and keep the figures.

    An event that arrived only after an answer was given shows as a difference: what was served
    is not what training sees. Differences raise the alert ``feature_skew``; none resolves it.

    Args:
        recipe: The feature set, with the sources that its training rows come from.
        count: At most this many answers, the newest.

    Returns:
        ``questions``, ``values``, ``differences`` (their number), ``examples``, ``passed``.

    Raises:
        NotFoundError: No answer of the set was kept yet.
    """
    answers = latest_served(open_database(recipe), recipe.feature_set, count)
    if not answers:
        raise NotFoundError(
            f"No answer of {recipe.feature_set!r} was kept yet.",
            "Serve it with serving.features.keep_answers: true, and read it through the gateway.",
        )
    plan, tables = _offline(recipe)
    offline = FeatureEngine(plan, tables).compute(_asked(plan, answers)).to_dicts()
    found = [
        Difference(one.entity_id, one.moment, name, value, _as_served(truth[name]))
        for one, truth in zip(answers, offline, strict=True)
        for name, value in one.features.items()
        if name in truth and not is_equal(value, _as_served(truth[name]))
    ]
    asked = Counter(name for one in answers for name in one.features)
    _keep(recipe, len(answers), asked, Counter(one.feature for one in found))
    return {
        "questions": len(answers),
        "values": asked.total(),
        "differences": len(found),
        "examples": [vars(one) for one in found[:_SHOWN]],
        "passed": not found,
    }


def _keep(
    recipe: FeaturesRecipe, questions: int, asked: Counter[str], differing: Counter[str]
) -> None:
    shares = [
        {"feature": name, "values": count, "skew_rate": differing[name] / count}
        for name, count in asked.items()
    ]
    data = {"questions": questions, "differences": differing.total(), "features": shares}
    span = (floor_hour(utc_now()), utc_now())
    store_result(open_database(recipe), recipe.feature_set, "skew", span, data)
    names = ", ".join(f"{name} ({count})" for name, count in differing.most_common(_NAMED))
    alert = Alert(
        "feature_skew",
        "warning",
        f"{differing.total()} of {asked.total()} served values of {recipe.feature_set} differ from "
        f"offline: {names or 'none'}",
        {"feature_set": recipe.feature_set},
        float(differing.total()),
        0.0,
    )
    if differing:
        emit_alert(recipe, alert)
    else:
        resolve_alert(recipe, alert)


def _offline(recipe: FeaturesRecipe) -> tuple[Plan, dict[str, pl.DataFrame]]:
    if recipe.feature_store.streaming_source is not None:
        layout = prepare_stream(recipe, open_online_store(recipe))
        return layout.plan, logged_tables(recipe, layout)
    plan, paths = plan_of(recipe.definitions, recipe.feature_set), recipe.source_paths()
    fetch_sources(recipe.feature_store.batch_source, paths)
    return plan, {name: source.rows for name, source in SourceScan(plan, paths).read().items()}


def _asked(plan: Plan, answers: Sequence[Served]) -> pl.DataFrame:
    key = plan.root.feature(plan.root.key)
    rows = [(one.entity_id, one.moment) for one in answers]
    schema = {key.name: POLARS[key.dtype], NOW: POLARS["datetime"]}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _as_served(value: Any) -> Any:
    """A value as it looks after its way through JSON."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value.total_seconds()
