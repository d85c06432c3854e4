"""Every aggregation against recorded values of Chalk's own evaluator, empty and null ones too."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import chalk.functions as F
import polars as pl
import pytest
from chalk import _
from chalk.features.feature_wrapper import unwrap_feature

from sunloom.features.definitions.bind_aggregates import AGGREGATIONS
from sunloom.features.definitions.bind_expressions import ExpressionBinder
from sunloom.features.definitions.open import catalogue_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.expressions import Aggregate
from sunloom.features.plan.feature_sets import NOW, ClassPlan, FeaturePlan, Plan
from sunloom.features.plan.polars_dtypes import POLARS

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden_aggregations.json").read_text())
PLAN = catalogue_of(str(HERE / "chalk_classes_golden.py")).plan("sl_owner")
LATER = datetime(2026, 2, 1, tzinfo=UTC)


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if isinstance(value, dict):
        if "float" in value:
            return float(value["float"])
        return datetime.fromisoformat(value["datetime"])
    return value


def _bind(text: str) -> Aggregate:
    from chalk.features import FeatureSetBase

    owner = unwrap_feature(FeatureSetBase.registry["sl_owner"].total)
    bound = ExpressionBinder(owner).bind(eval(text, {"F": F, "_": _}))
    assert isinstance(bound, Aggregate)
    return bound


def _events() -> pl.DataFrame:
    item = PLAN.class_plan("sl_event")
    schema = {feature.name: POLARS[feature.dtype] for feature in item.features}
    rows = [
        {"id": number, **{name: _decode(value) for name, value in event.items()}}
        for number, event in enumerate(GOLDEN["events"])
    ]
    return pl.DataFrame(rows, schema=schema)


def _plan(node: Aggregate) -> Plan:
    """The owners' plan with that aggregation as its one feature."""
    root = PLAN.root
    value = FeaturePlan(
        name="v", fqn="sl_owner.v", dtype=node.dtype, nullable=True, expression=node
    )
    key = root.feature(root.key)
    classes: list[ClassPlan] = [root.model_copy(update={"features": (key, value)})]
    classes += [item for item in PLAN.classes if item.namespace != root.namespace]
    return PLAN.model_copy(update={"outputs": ("v",), "classes": tuple(classes)})


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, list) and isinstance(found, list):
        return len(found) == len(expected) and all(map(_same, found, expected))
    if isinstance(expected, float) and isinstance(found, float) and not math.isinf(expected):
        both_nan = math.isnan(expected) and math.isnan(found)
        return both_nan or math.isclose(found, expected, rel_tol=1e-12)
    return bool(found == expected)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["expression"])
def test_aggregation_means_what_chalk_means(case: dict[str, Any]) -> None:
    owners = pl.DataFrame({"id": range(len(case["values"]))}, schema={"id": pl.Int64})
    query_frame = owners.with_columns(pl.lit(LATER).cast(pl.Datetime("us", "UTC")).alias(NOW))
    results = FeatureEngine(_plan(_bind(case["expression"])), {"sl_event": _events()}).compute(
        query_frame
    )
    found = results["v"].to_list()
    expected = [_decode(value) for value in case["values"]]
    assert all(map(_same, found, expected)), f"found {found}, Chalk {expected}"


def test_every_aggregation_has_a_golden_case() -> None:
    assert {_bind(case["expression"]).kind for case in GOLDEN["cases"]} == set(AGGREGATIONS)


def test_every_aggregation_is_recorded_of_no_rows_and_of_nulls() -> None:
    for case in GOLDEN["cases"]:
        assert len(case["values"]) == 6, case["expression"]
    assert {case["source"] for case in GOLDEN["cases"]} == {"evaluator", "grouping", "documented"}
