"""Search a recipe's space and register the best trial: ``python -m jobs.llm_tune --config F``."""

from sunloom.config.llm import LlmRecipe
from sunloom.llm.tuning import tune_model
from sunloom.workflows.job import run_job

if __name__ == "__main__":
    run_job("llm-tune", LlmRecipe, tune_model)
