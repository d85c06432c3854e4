"""CPU time of each feature: ``python -m jobs.monitor_cost --config RECIPE``."""

from dataclasses import asdict

from sunloom.config.features import FeaturesRecipe
from sunloom.monitoring.feature_costs import feature_costs
from sunloom.workflows.job import JobOutcome, run_job


def monitor(recipe: FeaturesRecipe) -> JobOutcome:
    """Hand the recipe to the library and its figures to the job's frame."""
    return JobOutcome(asdict(feature_costs(recipe)))


if __name__ == "__main__":
    run_job("cost", FeaturesRecipe, monitor)
