"""Watch a table until the job is stopped: ``python -m jobs.monitor_service --config RECIPE``."""

from dataclasses import asdict

from sunloom.config.monitoring import MonitoringRecipe
from sunloom.monitoring.service import keep_monitoring
from sunloom.workflows.job import JobOutcome, run_job


def monitor(recipe: MonitoringRecipe) -> JobOutcome:
    """Run rounds at the recipe's pace; a stopped job ends after its round."""
    return JobOutcome(asdict(keep_monitoring(recipe, recipe.require_watch().every)))


if __name__ == "__main__":
    run_job("monitor", MonitoringRecipe, monitor, needs_cluster=False)
