"""``sunloom features validate``: rows checked by a recipe's validation section."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Sets, is_features_recipe, load_features, load_recipe

if TYPE_CHECKING:
    from sunloom.data.quality.report import QualityReport


def validate(
    recipe: Annotated[Path, typer.Option(help="Recipe with a validation section.")],
    input: Annotated[Path, typer.Option("--input", help="Rows to validate.")],
    reference: Annotated[
        Path | None, typer.Option(help="Rows taken as normal; needed for drift.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder of the report; below the outputs by default.")
    ] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Validate rows by the recipe's validation section; exit 1 if they do not pass."""
    from sunloom.config.data import ValidationConfig, ValidationRecipe
    from sunloom.config.features import FeaturesRecipe
    from sunloom.data.quality.gate import validate_file

    config = (
        load_features(recipe, sets, env)
        if is_features_recipe(recipe)
        else load_recipe(ValidationRecipe, recipe, sets, env)
    )
    defaults = None
    if isinstance(config, FeaturesRecipe):
        from sunloom.feature_store.quality_gate import table_rules
        from sunloom.features.definitions.open import plan_of_recipe

        defaults = table_rules(plan_of_recipe(config))
    rules = config.validation or ValidationConfig()
    result = validate_file(
        config, rules, input, defaults=defaults, reference=reference, folder=report
    )
    if json:
        output.print_json(result.to_dict())
    else:
        _show(result)
    if not result.is_passed:
        raise typer.Exit(1)


def _show(report: QualityReport) -> None:
    rows: list[tuple[str | float | None, ...]] = [
        ("failed", c.feature, c.check, c.value, c.threshold, f"{c.failed:,}", c.reason)
        for c in report.failures
    ]
    rows += [
        ("drifted", c.feature, c.method, c.value, c.threshold, "", c.reason)
        for c in report.drifted_columns
    ]
    if rows:
        names = ("", "column", "check", "found", "wanted", "rows failing", "what is wrong")
        output.print_table(names, rows)
    passed = len(report.checks) - len(report.failures)
    verdict = "passed" if report.is_passed else "failed"
    line = f"{verdict}: {passed} of {len(report.checks)} checks passed on {report.rows:,} rows"
    drift = f", {len(report.drifted_columns)} of {len(report.drift)} columns drifted"
    output.print_line(line + drift if report.drift else line)
    if report.drift_skipped:
        output.print_line(report.drift_skipped)
    output.print_line(f"report: {report.html}")
    if report.quarantine:
        output.print_line(f"failing rows: {report.quarantine}")
