"""Commands ``sunloom data``: prepare data sets."""

from __future__ import annotations

from dataclasses import asdict

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Recipe, Sets, cluster_on_demand, load_recipe

app = typer.Typer(help="Validate, clean and write data sets.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keep ``run`` a subcommand: Typer merges a single command into its group."""


@app.command()
def run(recipe: Recipe, sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """Prepare one data set: parse, check, quarantine with reasons, write Parquet."""
    from sunloom.config.data import DataRecipe
    from sunloom.data.datasets import prepare_dataset

    config = load_recipe(DataRecipe, recipe, sets, env)
    with cluster_on_demand():
        summary = asdict(prepare_dataset(config))
    if json:
        output.print_json(summary | {"folder": str(config.data_folder())})
        return
    output.print_mapping(summary, title=f"{config.dataset} in {config.data_folder()}")
