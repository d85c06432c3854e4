"""Judge a file by a recipe, and keep the verdict."""

from __future__ import annotations

from pathlib import Path

from sunloom.config.data.validation import ValidationConfig, ValidationRecipe
from sunloom.config.features.materialization import FeaturesRecipe
from sunloom.data.quality.batches import CheckedTable, rows_of_path
from sunloom.data.quality.html_report import write_report
from sunloom.data.quality.report import QualityReport
from sunloom.data.quality.results_table import store_checks
from sunloom.data.quality.rules import with_plan
from sunloom.data.quality.validate import validate
from sunloom.features.plan.explain import plan_of

Recipe = FeaturesRecipe | ValidationRecipe


def validate_file(
    recipe: Recipe, input: Path, reference: Path | None = None, folder: Path | None = None
) -> QualityReport:
    """Judge a file or folder, write ``report.html`` and ``report.json``, keep the verdict.

    Args:
        recipe: Rules; definitions, where it has them, fill them up.
        input: Parquet, CSV or JSON lines.
        reference: Rows taken as normal; the recipe's ``validation.reference`` by default.
        folder: Where the report goes; ``<outputs>/quality/<name of the input>`` by default.

    Raises:
        UsageError: A file is not there.
        DataError: A file cannot be read, or a column that the rules need is missing.
        ConfigError: A rule does not fit its column.
    """
    config = recipe.validation or ValidationConfig()
    rows = rows_of_path(input, config.chunk_rows)
    normal = reference or config.reference
    folder = folder or recipe.paths.outputs / "quality" / input.stem
    report = validate(
        rows,
        rules_of(recipe, rows),
        rows_of_path(normal, config.chunk_rows) if normal else None,
        folder / "quarantine.jsonl",
    )
    report = write_report(report, folder)
    store_checks(recipe, input.stem, report)
    return report


def rules_of(recipe: Recipe, rows: CheckedTable) -> ValidationConfig:
    """The recipe's rules, filled up from its definitions where it has them."""
    config = recipe.validation or ValidationConfig()
    if isinstance(recipe, ValidationRecipe):
        return config
    return with_plan(config, plan_of(recipe.definitions, recipe.feature_set), rows.schema)
