"""Quality rules that a feature set's definitions declare: types, limits and the primary key."""

from __future__ import annotations

from typing import Any, get_args

from sunloom.config.data import ColumnRule, ValueType
from sunloom.data.quality.rules import TableRules
from sunloom.features.plan.feature_sets import FeaturePlan, Plan

_LIMITS = ("min", "max", "min_length", "max_length")
_VALUE_TYPES = frozenset(get_args(ValueType))


def table_rules(plan: Plan) -> TableRules:
    """Rules of the feature set's own table; no column is required."""
    root = plan.root
    return TableRules(root.key, {feature.name: _column_rule(feature) for feature in root.features})


def _column_rule(feature: FeaturePlan) -> ColumnRule:
    limits: dict[str, Any] = {}
    for validation in feature.validations:
        for name in _LIMITS:
            if (value := getattr(validation, name)) is not None:
                limits[name] = value
    dtype = str(feature.dtype)
    # Lists, structs and the like have no rule: the checks know scalar types only.
    return ColumnRule.model_validate(
        {"type": dtype if dtype in _VALUE_TYPES else None, "required": False, **limits}
    )
