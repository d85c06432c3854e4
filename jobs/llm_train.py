"""Train a LoRA adapter and judge it: ``python -m jobs.llm_train --config RECIPE``."""

from sunloom.config.llm import LlmRecipe
from sunloom.llm.trainer import train_adapter
from sunloom.workflows.job import run_job

if __name__ == "__main__":
    run_job("llm-adapter", LlmRecipe, train_adapter)
