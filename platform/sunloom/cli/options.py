"""Options that several commands share, and what they open: settings, a recipe, a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
import yaml

from sunloom.config.loading.load import Loaded, load_config
from sunloom.config.settings import Settings
from sunloom.errors import UsageError

if TYPE_CHECKING:
    from sunloom.config.features import FeaturesConfig, FeaturesRecipe

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Set one configuration key; may be repeated."),
]
Env = Annotated[
    str | None,
    typer.Option("--env", help="development, test, staging or production (or SUNLOOM_ENV)."),
]
Recipe = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file under conf/.")]
Config = Annotated[Path | None, typer.Option("--config", metavar="RECIPE", help="A recipe file.")]
Definitions = Annotated[
    str, typer.Option(help="Import path, .py file, or entry point of group sunloom.features.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse definitions of which anything cannot be bound.")
]


class EngineOption(StrEnum):
    """Who computes: this process, the cluster, or the first if everything fits into it."""

    auto = "auto"
    polars = "polars"
    ray = "ray"


S = TypeVar("S", bound=Settings)


def load_settings(sets: list[str] | None = None, env: str | None = None) -> Settings:
    """The platform's settings, without a recipe."""
    settings = load_config(Settings, sets=sets or (), env=env).config
    _prepare(settings)
    return settings


def load_recipe(
    kind: type[S], recipe: Path | None, sets: list[str] | None = None, env: str | None = None
) -> S:
    """A recipe through all its layers; without a file, its defaults take the file's place."""
    loaded: Loaded[S] = load_config(kind, recipe=recipe, sets=sets or (), env=env)
    _prepare(loaded.config)
    return loaded.config


def strict_sets(sets: list[str] | None, strict: bool) -> list[str]:
    """The keys to set in a features recipe, with ``--strict`` among them."""
    return [*(sets or ()), *(["execution.strict=true"] if strict else ())]


# Keys of a features recipe that no recipe for a table has.
_FEATURES_KEYS = frozenset({"definitions", "feature_set", "chalk"})
_SOURCES = frozenset({"batch_source", "streaming_source", "ttl"})


def is_features_recipe(recipe: Path) -> bool:
    """Whether a recipe file is about features and their sources, not about a table alone.

    Raises:
        UsageError: There is no such file.
    """
    if not recipe.is_file():
        raise UsageError(f"There is no recipe file {recipe}.", param="recipe")
    try:
        # Read as plain YAML: the class that loads a recipe must be known before it is loaded.
        tree = yaml.safe_load(recipe.read_text())
    except yaml.YAMLError:
        return False  # the loader says what is wrong with it
    if not isinstance(tree, dict):
        return False
    # The settings have a section of the same name, in recipes of every kind.
    store = tree.get("feature_store")
    return bool(_FEATURES_KEYS & set(tree) or (isinstance(store, dict) and _SOURCES & set(store)))


def load_features(
    recipe: Path, sets: list[str] | None = None, env: str | None = None
) -> FeaturesConfig | FeaturesRecipe:
    """A features recipe for a command that also works on a table alone.

    Returns:
        A ``FeaturesRecipe`` where it names definitions or a feature set; both are needed then.
    """
    from sunloom.config.features import FeaturesConfig, FeaturesRecipe

    config = load_recipe(FeaturesConfig, recipe, sets, env)
    if config.definitions is None and config.feature_set is None:
        return config
    return load_recipe(FeaturesRecipe, recipe, sets, env)


def _prepare(settings: Settings) -> None:
    """Logs to standard error, telemetry of libraries off; before a command's work begins."""
    from sunloom.core.telemetry import configure_logging, silence_libraries

    silence_libraries()
    configure_logging(settings)


@contextmanager
def cluster_on_demand() -> Iterator[None]:
    """End the private cluster of a function that connects where it needs one.

    So a wrong name is found before a cluster starts, which takes seconds, and a model that the same
    recipe made before needs none.
    """
    from sunloom.core.cluster import disconnect
    from sunloom.core.interrupts import ignore_interrupts
    from sunloom.core.processes import own_processes

    with own_processes():
        try:
            yield
        finally:
            with ignore_interrupts():
                disconnect()


@contextmanager
def cluster(settings: Settings, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Connect to the configured cluster, or start a private one that ends with the block.

    Args:
        settings: Which cluster.
        environment: Variables that workers need from their start.
    """
    from sunloom.core.cluster import connect

    # Ray is started inside: an interrupt during the start must reach the clean-up too.
    with cluster_on_demand():
        connect(settings, environment)
        yield
