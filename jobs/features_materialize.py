"""Materialise a feature set: ``python -m jobs.features_materialize --config RECIPE``."""

from sunloom.config.features import FeaturesRecipe
from sunloom.feature_store.materialization.materialize import materialize
from sunloom.workflows.job import JobOutcome, run_job


def run(recipe: FeaturesRecipe) -> JobOutcome:
    """Hand the recipe to the library and its figures to the job's frame."""
    artifacts = {"training": str(recipe.features_folder()), "online": str(recipe.paths.state)}
    return JobOutcome(materialize(recipe).model_dump(exclude_unset=True), artifacts)


if __name__ == "__main__":
    run_job("features", FeaturesRecipe, run)
