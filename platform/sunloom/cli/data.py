"""Commands ``sunloom data``: prepare data sets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sunloom.cli import output
from sunloom.cli.options import (
    Env,
    Json,
    Recipe,
    Sets,
    cluster_on_demand,
    load_recipe,
    load_settings,
)

app = typer.Typer(help="Validate, clean and write data sets.", no_args_is_help=True)


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


@app.command()
def register(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the table.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file of rows, or a folder.")],
    tenant: Annotated[str | None, typer.Option(help="Who alone reads it; empty is all.")] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Register a file of rows as a version of a table, such as data.train of a model names."""
    from sunloom.core.model_registry import open_registry, register_table

    registry = open_registry(load_settings(sets, env))
    version = register_table(registry, name, path, {"source": str(path)}, tenant=tenant)
    output.print_result({"table": version.ref, "uri": version.uri}, json, line=version.ref)
