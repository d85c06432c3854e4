"""Fit a preprocessing recipe: ``python -m jobs.features_fit --config RECIPE``."""

from dataclasses import asdict

from sunloom.config.preprocessing.transformations import PreparationRecipe
from sunloom.preprocessing.job import fit_file
from sunloom.workflows.job import JobOutcome, run_job


def run(recipe: PreparationRecipe) -> JobOutcome:
    """Fit, and divide the result into figures and artifacts."""
    result = asdict(fit_file(recipe, recipe.transformations, recipe.preparation))
    metrics = {key: value for key, value in result.items() if value is not None}
    names = ("artifact", "model", "out")
    return JobOutcome(metrics, {key: metrics.pop(key) for key in names if key in metrics})


if __name__ == "__main__":
    run_job("fit", PreparationRecipe, run)
