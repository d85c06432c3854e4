"""Train a base model and register it: ``python -m jobs.llm_base --config RECIPE``."""

from sunloom.config.llm import LlmRecipe
from sunloom.llm.trainer import train_base
from sunloom.workflows.job import run_job

if __name__ == "__main__":
    run_job("llm-base", LlmRecipe, train_base)
