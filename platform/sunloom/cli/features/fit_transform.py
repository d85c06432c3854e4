"""``sunloom features fit`` and ``transform``: prepare columns once, use them everywhere."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sunloom.cli.features.rows import EngineOption, show
from sunloom.cli.options import Env, Json, Sets, load_recipe, load_settings
from sunloom.cli.work import cluster
from sunloom.config.features.materialization import FeaturesRecipe
from sunloom.config.preprocessing.transformations import PreparationConfig, PreparationRecipe
from sunloom.errors import UsageError

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
    given = {key: value for key, value in options.items() if value}
    # Validated anew: model_copy would take the options unchecked.
    request = PreparationConfig.model_validate(base.model_dump() | given)
    with cluster(config) if engine is EngineOption.ray else nullcontext():
        result = fit_file(config, config.transformations, request, keep)
    show({key: value for key, value in asdict(result).items() if value is not None}, json)


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
    from sunloom.preprocessing.artifact import open_fitted
    from sunloom.preprocessing.job import transform_file

    settings = load_settings(sets, env)
    fitted = open_fitted(settings, artifact)
    request = PreparationConfig(input=input, out=out, engine=engine.value)
    with cluster(settings) if engine is EngineOption.ray else nullcontext():
        result = transform_file(fitted, request)
    show(asdict(result), json)


def load_preparation(
    recipe: Path, sets: list[str] | None = None, env: str | None = None
) -> tuple[FeaturesRecipe | PreparationRecipe, tuple[str, ...]]:
    """The recipe, and the columns that are no features: entity key, event time and label.

    A recipe with ``definitions`` is a feature set's; any other is for a table alone.

    Raises:
        UsageError: There is no such file.
    """
    if not _defines_features(recipe):
        return load_recipe(PreparationRecipe, recipe, sets, env), ()
    from sunloom.features.definitions.open import plan_of

    config = load_recipe(FeaturesRecipe, recipe, sets, env)
    plan = plan_of(config.definitions, config.feature_set)
    return config, (plan.root.key, "event_time", *_label(config))


def _label(config: FeaturesRecipe) -> tuple[str, ...]:
    if config.training is None:
        return ()
    from sunloom.core.plugins import load_plugin
    from sunloom.data.datasets import GROUP, LabelledDataSet

    return (load_plugin(GROUP, config.training.dataset, LabelledDataSet).label,)


def _defines_features(recipe: Path) -> bool:
    import yaml

    if not recipe.is_file():
        raise UsageError(f"There is no recipe file {recipe}.", param="recipe")
    try:
        # Read as plain YAML: the class that loads a recipe must be known before it is loaded.
        tree: Any = yaml.safe_load(recipe.read_text())
    except yaml.YAMLError:
        return False  # the loader says what is wrong with it
    return isinstance(tree, dict) and bool({"definitions", "feature_set"} & set(tree))
