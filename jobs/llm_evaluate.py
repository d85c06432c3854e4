"""Judge a registered model on held-out questions: ``python -m jobs.llm_evaluate --config R``."""

from dataclasses import asdict

from sunloom.config.llm import LlmRecipe
from sunloom.llm.judging import evaluate_registered
from sunloom.workflows.job import JobOutcome, run_job


def judge(recipe: LlmRecipe) -> JobOutcome:
    """Hand the recipe to the library and its figures to the job's frame."""
    evaluation = evaluate_registered(recipe)
    artifacts = {"model": evaluation.model, "report": evaluation.report}
    return JobOutcome(asdict(evaluation), artifacts)


if __name__ == "__main__":
    run_job("llm-evaluation", LlmRecipe, judge)
