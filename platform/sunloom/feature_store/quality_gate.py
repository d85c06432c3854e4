"""Quality gate of a feature set: the rules its definitions declare, and a recipe's, per batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import polars as pl

from sunloom.config.data import ColumnRule, ValidationConfig, ValueType
from sunloom.config.features import FeaturesRecipe
from sunloom.core.database import Database, open_database
from sunloom.data.quality.gate import gate
from sunloom.data.quality.rules import TableRules
from sunloom.features.plan.feature_sets import FeaturePlan, Plan

_LIMITS = ("min", "max", "min_length", "max_length")
_VALUE_TYPES = frozenset(get_args(ValueType))


@dataclass(frozen=True)
class QualityGate:
    """Rules that batches of a feature set must pass.

    Attributes:
        feature_set: The feature set.
        rules: The recipe's ``validation``.
        defaults: What the definitions declare, which completes the rules.
        database: Of the verdicts.
    """

    feature_set: str
    rules: ValidationConfig
    defaults: TableRules
    database: Database

    def admit(self, rows: pl.DataFrame, name: str, folder: Path) -> None:
        """Let a batch pass, or stop before anything of it is written.

        Args:
            rows: The batch.
            name: Its name within the feature set, in verdicts and in the report's folder.
            folder: Of the feature set's files; the report goes to ``quality/<name>`` below it.

        Raises:
            DataQualityError: A check failed.
        """
        report = folder / "quality" / name
        batch = f"{self.feature_set} {name}"
        gate(self.database, self.rules, rows, batch, report, defaults=self.defaults)


def open_quality_gate(recipe: FeaturesRecipe, plan: Plan) -> QualityGate | None:
    """The gate that a recipe's rules make; None where it has no rules."""
    if recipe.validation is None:
        return None
    return QualityGate(
        feature_set=recipe.feature_set,
        rules=recipe.validation,
        defaults=table_rules(plan),
        database=open_database(recipe),
    )


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
