"""``sunloom features fit`` and ``transform``: prepare columns once, use them everywhere."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sunloom.cli import output
from sunloom.cli.options import (
    EngineOption,
    Env,
    Json,
    Sets,
    cluster,
    is_features_recipe,
    load_features,
    load_recipe,
    load_settings,
)

if TYPE_CHECKING:
    from sunloom.config.features import FeaturesConfig
    from sunloom.config.preprocessing.transformations import PreparationRecipe

Rows = Annotated[Path, typer.Option("--input", help="Parquet, CSV or JSON lines, or a folder.")]


def fit(
    recipe: Annotated[Path, typer.Option(help="Recipe with a transformations section.")],
    input: Rows,
    artifact: Annotated[Path, typer.Option(help="Folder to write the fitted artifact to.")],
    out: Annotated[
        Path | None, typer.Option(help="Parquet file for the same rows, prepared (out-of-fold).")
    ] = None,
    engine: Annotated[EngineOption, typer.Option(help="Who computes.")] = EngineOption.polars,
    name: Annotated[str | None, typer.Option(help="Register the artifact under this name.")] = None,
    alias: Annotated[str | None, typer.Option(help="Alias to move to the new version.")] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Learn the recipe's transformations from rows and write them as one artifact."""
    from sunloom.config.preprocessing.transformations import PreparationConfig, PreparationRecipe
    from sunloom.preprocessing.job import fit_file

    config, keep = load_preparation(recipe, sets, env)
    base = config.preparation if isinstance(config, PreparationRecipe) else PreparationConfig()
    options = {
        "input": input,
        "artifact": artifact,
        "engine": engine.value,
        "name": name,
        "alias": alias,
        "out": out,
    }
    # An option that is not given leaves the recipe's value.
    overrides = {key: value for key, value in options.items() if value}
    # Validated anew: model_copy would take the options unchecked.
    request = PreparationConfig.model_validate(base.model_dump() | overrides)
    with cluster(config) if engine is EngineOption.ray else nullcontext():
        result = fit_file(config, config.transformations, request, keep)
    figures = {key: value for key, value in asdict(result).items() if value is not None}
    output.print_result(figures, json)


def transform(
    artifact: Annotated[str, typer.Option(help="Folder, or name@version of the registry.")],
    input: Rows,
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    engine: Annotated[EngineOption, typer.Option(help="Who computes.")] = EngineOption.polars,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Prepare rows with a fitted artifact; rows keep their order and number."""
    from sunloom.config.preprocessing.transformations import PreparationConfig
    from sunloom.preprocessing.artifact import open_fitted
    from sunloom.preprocessing.job import transform_file

    settings = load_settings(sets, env)
    fitted = open_fitted(settings, artifact)
    request = PreparationConfig(input=input, out=out, engine=engine.value)
    with cluster(settings) if engine is EngineOption.ray else nullcontext():
        result = transform_file(fitted, request)
    output.print_result(result, json)


def load_preparation(
    recipe: Path, sets: list[str] | None = None, env: str | None = None
) -> tuple[FeaturesConfig | PreparationRecipe, tuple[str, ...]]:
    """The recipe, and the columns that are no features: entity key, event time and label.

    A recipe with ``definitions`` is a feature set's; any other is for a table alone.

    Raises:
        UsageError: There is no such file.
    """
    from sunloom.config.features import FeaturesRecipe
    from sunloom.config.preprocessing.transformations import PreparationRecipe

    if not is_features_recipe(recipe):
        return load_recipe(PreparationRecipe, recipe, sets, env), ()
    config = load_features(recipe, sets, env)
    if not isinstance(config, FeaturesRecipe):
        return config, ()
    from sunloom.features.definitions.open import plan_of_recipe

    columns = [
        plan_of_recipe(config).root.key,
        "event_time",
    ]
    if config.training is not None:
        from sunloom.core.plugins import load_plugin
        from sunloom.data.datasets import GROUP, LabelledDataSet

        columns.append(load_plugin(GROUP, config.training.dataset, LabelledDataSet).label)
    return config, tuple(columns)
