"""The quality gate of a feature set: a batch passes its recipe's rules before it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from sunloom.config.data import ValidationConfig
from sunloom.config.features import FeaturesRecipe
from sunloom.core.database import Database, open_database
from sunloom.data.quality.gate import gate
from sunloom.data.quality.rules import TableRules
from sunloom.features.expressions.validations import table_rules
from sunloom.features.plan.feature_sets import Plan


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
