"""Train, judge and register a tabular model: ``python -m jobs.tabular_train --config RECIPE``."""

from sunloom.config.tabular import TabularRecipe
from sunloom.tabular.trainer import train_tabular
from sunloom.workflows.job import JobOutcome, run_job


def train(recipe: TabularRecipe) -> JobOutcome:
    """Hand the recipe to the library and its figures to the job's frame."""
    result = train_tabular(recipe)
    return JobOutcome(result.metrics, result.artifacts)


if __name__ == "__main__":
    run_job("tabular", TabularRecipe, train)
