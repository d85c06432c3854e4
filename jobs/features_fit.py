"""Fit a preparation recipe: ``python -m jobs.features_fit --config RECIPE``."""

from sunloom.config.preprocessing.transformations import PreparationRecipe
from sunloom.preprocessing.job import fit_file
from sunloom.workflows.job import JobOutcome, run_job


def run(recipe: PreparationRecipe) -> JobOutcome:
    """Hand the recipe to the library and its figures to the job's frame."""
    result = fit_file(recipe, recipe.transformations, recipe.preparation)
    artifacts = {key: result.pop(key) for key in ("artifact", "model", "out") if key in result}
    return JobOutcome(result, artifacts)


if __name__ == "__main__":
    run_job("fit", PreparationRecipe, run)
