"""Give a recipe's tasks to its agent: ``python -m jobs.agents_run --config RECIPE``."""

from dataclasses import asdict

from sunloom.agents.api import run_recipe
from sunloom.config.agents import AgentsRecipe
from sunloom.workflows.job import JobOutcome, run_job


def run(recipe: AgentsRecipe) -> JobOutcome:
    """Hand the recipe to the library and its answers to the job's frame."""
    results = run_recipe(recipe, lambda task, event: print(task, event.type, event.data))
    succeeded = sum(result.status == "succeeded" for result in results)
    answers = [{**asdict(result), "events": len(result.events)} for result in results]
    return JobOutcome({"tasks": len(results), "succeeded": succeeded, "answers": answers})


if __name__ == "__main__":
    run_job("agents", AgentsRecipe, run)
