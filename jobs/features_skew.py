"""Compare online with offline values: ``python -m jobs.features_skew --config RECIPE``.

A set without a streaming source has no log to compare with: served values are replayed.
"""

from dataclasses import asdict

from sunloom.config.features import FeaturesRecipe
from sunloom.errors import DataQualityError
from sunloom.monitoring.skew import compare_served, compare_streamed
from sunloom.workflows.job import JobOutcome, run_job


def run(recipe: FeaturesRecipe) -> JobOutcome:
    """Hand the recipe to the library; a difference fails the job."""
    is_streamed = recipe.feature_store.streaming_source is not None
    result = compare_streamed(recipe, seed=recipe.seed) if is_streamed else compare_served(recipe)
    if not result.passed:
        raise DataQualityError(
            f"{result.differences} of {result.values} online values differ from offline.",
            f"The first: {asdict(result.examples[0])}",
        )
    return JobOutcome(asdict(result))


if __name__ == "__main__":
    run_job("features-skew", FeaturesRecipe, run)
