"""Compare two periods and raise an alert: ``python -m jobs.monitor_drift --config RECIPE``."""

from sunloom.config.monitoring import MonitoringRecipe
from sunloom.features.monitoring import run_drift
from sunloom.workflows.job import JobOutcome, run_job


def monitor(recipe: MonitoringRecipe) -> JobOutcome:
    """Hand the recipe to the library and its figures to the job's frame."""
    result = run_drift(recipe)
    artifacts = {"report": result.pop("report"), "numbers": result.pop("numbers")}
    return JobOutcome(result, artifacts)


if __name__ == "__main__":
    run_job("drift", MonitoringRecipe, monitor)
