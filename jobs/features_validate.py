"""Validate rows: ``python -m jobs.features_validate --config RECIPE --set input=FILE``."""

from sunloom.config.data import ValidationJob
from sunloom.data.quality.gate import validate_file
from sunloom.errors import DataQualityError
from sunloom.workflows.job import JobOutcome, run_job


def validate(recipe: ValidationJob) -> JobOutcome:
    """Hand the recipe to the library; rows that do not pass fail the job."""
    report = validate_file(recipe, recipe.validation, recipe.input)
    if not report.is_passed:
        raise DataQualityError(f"{recipe.input}: {report.summary()}.", f"Read {report.html}.")
    metrics = {"rows": report.rows, "checks": len(report.checks)}
    return JobOutcome(metrics, {"report": str(report.html)})


if __name__ == "__main__":
    run_job("validate", ValidationJob, validate, needs_cluster=False)
