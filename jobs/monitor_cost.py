"""What each feature costs to compute: ``python -m jobs.monitor_cost --config RECIPE``."""

from sunloom.config.features.materialization import FeaturesRecipe
from sunloom.monitoring.feature_costs import feature_costs
from sunloom.workflows.job import JobOutcome, run_job


def monitor(recipe: FeaturesRecipe) -> JobOutcome:
    """Hand the recipe to the library and its figures to the job's frame."""
    return JobOutcome(feature_costs(recipe))


if __name__ == "__main__":
    run_job("cost", FeaturesRecipe, monitor)
