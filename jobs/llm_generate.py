"""Answer a Parquet file of prompts: ``python -m jobs.llm_generate --config RECIPE``."""

from dataclasses import asdict

from sunloom.config.generation import GenerationRecipe
from sunloom.llm.generation import generate_batch
from sunloom.workflows.job import JobOutcome, run_job


def generate(recipe: GenerationRecipe) -> JobOutcome:
    """Hand the recipe to the library and its figures to the job's frame."""
    result = generate_batch(recipe)
    return JobOutcome(asdict(result), {"model": result.model, "answers": result.output})


if __name__ == "__main__":
    run_job("llm-generate", GenerationRecipe, generate)
