"""Quantise a registered model and judge it: ``python -m jobs.llm_quantize --config RECIPE``."""

from sunloom.config.llm import LlmRecipe
from sunloom.llm.quantization import quantize
from sunloom.workflows.job import run_job

if __name__ == "__main__":
    run_job("llm-quantize", LlmRecipe, quantize, needs_cluster=False)
