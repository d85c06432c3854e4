"""Compare distributions and raise alerts: ``python -m jobs.monitor_drift --config RECIPE``."""

from sunloom.config.monitoring import MonitoringRecipe
from sunloom.monitoring.service import run_monitoring
from sunloom.workflows.job import JobOutcome, run_job


def monitor(recipe: MonitoringRecipe) -> JobOutcome:
    """Hand the recipe to the library and its figures to the job's frame."""
    figures = run_monitoring(recipe, kinds=("drift",)).to_dict()
    files = {name: figures.pop(name) for name in ("report", "numbers") if name in figures}
    return JobOutcome(figures, files)


if __name__ == "__main__":
    run_job("drift", MonitoringRecipe, monitor, needs_cluster=False)
