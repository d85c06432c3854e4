"""Train a LoRA adapter and judge it: ``python -m jobs.llm_train --config RECIPE``."""

from sunloom.config.llm import LlmRecipe
from sunloom.llm.trainer import train_adapter
from sunloom.workflows.job import JobOutcome, run_job


def train(recipe: LlmRecipe) -> JobOutcome:
    """Hand the recipe to the library and its figures to the job's frame."""
    result = train_adapter(recipe)
    return JobOutcome(result.metrics, result.artifacts)


if __name__ == "__main__":
    run_job("llm-adapter", LlmRecipe, train)
