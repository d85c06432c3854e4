"""Judge a registered model on held-out questions: ``python -m jobs.llm_evaluate --config R``."""

from sunloom.config.llm import LlmRecipe
from sunloom.llm.training import evaluate
from sunloom.workflows.job import JobOutcome, run_job


def judge(recipe: LlmRecipe) -> JobOutcome:
    """Hand the recipe to the library and its figures to the job's frame."""
    figures = evaluate(recipe)
    return JobOutcome(figures, {"model": figures["model"], "report": figures["report"]})


if __name__ == "__main__":
    run_job("llm-evaluation", LlmRecipe, judge)
