"""Rates and ranges of watched features: ``python -m jobs.monitor_quality --config RECIPE``."""

from sunloom.config.monitoring import MonitoringRecipe
from sunloom.monitoring.watch import run_watch
from sunloom.workflows.job import JobOutcome, run_job


def monitor(recipe: MonitoringRecipe) -> JobOutcome:
    """Hand the recipe to the library and its figures to the job's frame."""
    return JobOutcome(run_watch(recipe, kinds=("quality",)).to_dict())


if __name__ == "__main__":
    run_job("quality", MonitoringRecipe, monitor, needs_cluster=False)
