"""``sunloom features graph``: features of nodes from a table of edges."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from sunloom.cli.features.rows import show
from sunloom.cli.options import Config, Env, Json, Sets, load_recipe
from sunloom.config.preprocessing.graph import GraphRecipe


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
    from sunloom.feature_store.materialization.graph_features import materialize_graph

    options = {"edges": input, "out": out, "feature_set": feature_set}
    # As JSON, which is YAML in quotes: a name such as `1e5` or `a: b` stays text.
    changes = [f"graph.{key}={dumps(str(value))}" for key, value in options.items() if value]
    recipe = load_recipe(GraphRecipe, config, [*(sets or ()), *changes], env)
    show(materialize_graph(recipe).model_dump(exclude_unset=True), json)
