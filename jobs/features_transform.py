"""Prepare rows with a fitted artifact: ``python -m jobs.features_transform --config RECIPE``."""

from sunloom.config.preprocessing.transformations import PreparationRecipe
from sunloom.preprocessing.artifact import open_fitted
from sunloom.preprocessing.job import transform_file
from sunloom.workflows.job import JobOutcome, run_job


def run(recipe: PreparationRecipe) -> JobOutcome:
    """Transform the recipe's file."""
    request = recipe.preparation
    fitted = open_fitted(recipe, request.artifact or request.name or "")
    result = transform_file(fitted, request)
    metrics = {"rows_out": result.rows_out, "outputs": result.outputs}
    return JobOutcome(metrics, {"out": result.out})


if __name__ == "__main__":
    run_job("transform", PreparationRecipe, run)
