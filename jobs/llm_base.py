"""Train a base model and register it: ``python -m jobs.llm_base --config RECIPE``."""

from sunloom.config.llm import LlmRecipe
from sunloom.llm.trainer import train_base
from sunloom.workflows.job import JobOutcome, run_job


def train(recipe: LlmRecipe) -> JobOutcome:
    """Hand the recipe to the library and its figures to the job's frame."""
    result = train_base(recipe)
    return JobOutcome(result.metrics, result.artifacts)


if __name__ == "__main__":
    run_job("llm-base", LlmRecipe, train)
