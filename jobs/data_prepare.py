"""Prepare a data set: ``python -m jobs.data_prepare --config conf/data/cdnow.yaml``."""

from dataclasses import asdict

from sunloom.config.data import DataRecipe
from sunloom.data.datasets import prepare_dataset
from sunloom.workflows.job import JobOutcome, run_job


def run(recipe: DataRecipe) -> JobOutcome:
    """Hand the recipe to the library and its figures to the job's frame."""
    summary = prepare_dataset(recipe)
    return JobOutcome(asdict(summary), {"tables": str(recipe.data_folder())})


if __name__ == "__main__":
    run_job("data", DataRecipe, run)
