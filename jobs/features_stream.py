"""Stream events into the online store: ``python -m jobs.features_stream --config RECIPE``.

Ends when everything that is in the topics has been read; a stopped job ends between two batches.
"""

from dataclasses import asdict

from sunloom.config.features import FeaturesRecipe
from sunloom.feature_store.streaming.job import stream
from sunloom.workflows.job import JobOutcome, run_job


def run(recipe: FeaturesRecipe) -> JobOutcome:
    """Run the stream; the job prints its counts."""
    artifacts = {"log": str(recipe.features_folder() / "log"), "online": str(recipe.paths.state)}
    return JobOutcome(asdict(stream(recipe, until_end=True)), artifacts)


if __name__ == "__main__":
    run_job("features-stream", FeaturesRecipe, run)
