"""``sunloom features materialize``, ``compare``, ``backfill`` and ``graph``: values written."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from sunloom.cli import output
from sunloom.cli.options import (
    Config,
    Env,
    Json,
    Recipe,
    Sets,
    Strict,
    cluster,
    load_recipe,
    strict_sets,
)


def materialize(
    recipe: Recipe,
    strict: Strict = False,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Write training rows at the recipe's cut-offs and the latest values online."""
    from sunloom.config.features import FeaturesRecipe
    from sunloom.feature_store.materialization.materialize import MaterializationJob

    config = load_recipe(FeaturesRecipe, recipe, strict_sets(sets, strict), env)
    # Prepared first: a wrong recipe fails before a cluster starts, which takes seconds.
    job = MaterializationJob.prepare(config)
    with cluster(config) if job.needs_cluster else nullcontext():
        result = job.run()
    output.print_result(result.model_dump(exclude_unset=True), json)
    # None where the engines were not compared.
    if result.engines_equal is False:
        raise typer.Exit(1)


def compare(recipe: Recipe, sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """Compute the recipe's training rows through Polars and Ray Data; exit 1 if they differ."""
    from sunloom.config.features import FeaturesRecipe
    from sunloom.feature_store.materialization.materialize import compare_engines

    config = load_recipe(FeaturesRecipe, recipe, sets, env)
    with cluster(config):
        comparison = compare_engines(config)
    output.print_result({**asdict(comparison), "equal": comparison.equal}, json)
    if not comparison.equal:
        raise typer.Exit(1)


def backfill(
    recipe: Annotated[Path, typer.Option(help="A recipe file under conf/.")],
    start: Annotated[str | None, typer.Option(help="First as-of time, with time zone.")] = None,
    end: Annotated[str | None, typer.Option(help="End of the range, not in it.")] = None,
    every: Annotated[str | None, typer.Option(help="Between as-of times, such as 1d.")] = None,
    strict: Strict = False,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Compute a feature set over a range of time; the same command goes on where it was ended."""
    from sunloom.config.features import FeaturesRecipe
    from sunloom.feature_store.materialization.backfill import BackfillJob

    options = {"start": start, "end": end, "every": every}
    changes = [f"backfill.{name}={value}" for name, value in options.items() if value is not None]
    config = load_recipe(FeaturesRecipe, recipe, [*changes, *strict_sets(sets, strict)], env)
    job = BackfillJob.prepare(config)
    with cluster(config) if job.needs_cluster else nullcontext():
        result = job.run().model_dump(exclude_unset=True)
    output.print_result(result, json, title=f"{config.feature_set}: backfill")


def graph(
    config: Config = None,
    input: Annotated[
        Path | None, typer.Option("--input", help="Edges: Parquet, CSV or JSON lines, or a folder.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Parquet file to write.")] = None,
    feature_set: Annotated[
        str | None, typer.Option("--feature-set", help="Write to the online store under this name.")
    ] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Compute degree, components, PageRank and the like: one row a node."""
    from sunloom.config.preprocessing.graph import GraphRecipe
    from sunloom.feature_store.materialization.graph_features import materialize_graph

    options = {"edges": input, "out": out, "feature_set": feature_set}
    # As JSON, which is YAML in quotes: a name such as `1e5` or `a: b` stays text.
    changes = [f"graph.{key}={dumps(str(value))}" for key, value in options.items() if value]
    recipe = load_recipe(GraphRecipe, config, [*(sets or ()), *changes], env)
    output.print_result(materialize_graph(recipe).model_dump(exclude_unset=True), json)
