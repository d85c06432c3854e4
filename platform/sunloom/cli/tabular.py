"""Commands ``sunloom tabular``: train and evaluate tabular models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Recipe, Sets, cluster_on_demand, load_recipe

app = typer.Typer(help="Train and judge tabular models.", no_args_is_help=True)


@app.command()
def train(recipe: Recipe, sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """Search, judge at the later cut-off, register the winner, promote it if the gate holds."""
    from sunloom.config.tabular import TabularRecipe
    from sunloom.tabular.trainer import train_tabular

    config = load_recipe(TabularRecipe, recipe, sets, env)
    with cluster_on_demand():
        result = train_tabular(config)
    for failure in result.failures:
        output.print_note(f"not promoted: {failure}")
    if json:
        output.print_json({"metrics": result.metrics, "artifacts": result.artifacts})
        return
    _print_scalars(result.artifacts | result.metrics, result.version.ref)
    algorithms = result.metrics.get("algorithms", {})
    rows = [(name, m.get("auc"), m.get("log_loss")) for name, m in algorithms.items()]
    output.print_table(("algorithm", "AUC", "log loss"), rows)


@app.command()
def evaluate(
    recipe: Recipe,
    model: Annotated[str | None, typer.Option(help="NAME[@VERSION]; the recipe's.")] = None,
    rows: Annotated[
        Path | None, typer.Option("--input", help="Rows with the label; the judging rows.")
    ] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Judge a registered model on labelled rows."""
    from sunloom.config.tabular import TabularRecipe
    from sunloom.core.model_registry import open_registry
    from sunloom.data.sources.table_files import read_table
    from sunloom.tabular.columns import target
    from sunloom.tabular.evaluation import evaluate as evaluate_predictions
    from sunloom.tabular.model import load_model
    from sunloom.tabular.trainer import rows_path

    config = load_recipe(TabularRecipe, recipe, sets, env)
    registry = open_registry(config)
    version = registry.get(model or config.output.name)
    path = rows or rows_path(config, config.rows.judge_cutoff, config.rows.judge_path)
    table = read_table(path).rows
    predictions = load_model(registry.path(version)).predict(table)
    metrics = asdict(evaluate_predictions(target(table, config.rows.label), predictions))
    if json:
        output.print_json({"model": version.ref} | metrics)
        return
    _print_scalars(metrics, version.ref)
    columns = ("low", "high", "count", "mean_probability", "observed_rate")
    bins = [[bin_[column] for column in columns] for bin_ in metrics["reliability"]]
    output.print_table(columns, bins, title="reliability")


def _print_scalars(metrics: Mapping[str, Any], title: str) -> None:
    """Print the metrics that fit into a cell; tables of their own show the others."""
    scalars = {n: v for n, v in metrics.items() if isinstance(v, int | float | str | bool)}
    output.print_mapping(scalars, title=title)
