"""Train, judge and register a tabular model: ``python -m jobs.tabular_train --config RECIPE``."""

from sunloom.config.tabular import TabularRecipe
from sunloom.tabular.trainer import train_tabular
from sunloom.workflows.job import run_job

if __name__ == "__main__":
    run_job("tabular", TabularRecipe, train_tabular)
