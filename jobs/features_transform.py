"""Prepare rows with a fitted artifact: ``python -m jobs.features_transform --config RECIPE``."""

from sunloom.config.preprocessing.transformations import PreparationRecipe
from sunloom.preprocessing.job import open_fitted, transform_file
from sunloom.workflows.job import JobOutcome, run_job


def run(recipe: PreparationRecipe) -> JobOutcome:
    """Hand the recipe to the library and its figures to the job's frame."""
    request = recipe.preparation
    fitted = open_fitted(recipe, request.artifact or request.name or "")
    result = transform_file(fitted, request)
    return JobOutcome(result, {"out": result.pop("out")})


if __name__ == "__main__":
    run_job("transform", PreparationRecipe, run)
