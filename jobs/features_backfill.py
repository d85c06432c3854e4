"""Backfill a feature set: ``python -m jobs.features_backfill --config RECIPE``."""

from sunloom.config.features import FeaturesRecipe
from sunloom.feature_store.materialization.backfill import backfill
from sunloom.workflows.job import JobOutcome, run_job


def run(recipe: FeaturesRecipe) -> JobOutcome:
    """Hand the recipe to the library and its figures to the job's frame."""
    result = backfill(recipe)
    return JobOutcome(result.model_dump(exclude_unset=True), {"rows": result.folder})


if __name__ == "__main__":
    run_job("features", FeaturesRecipe, run)
