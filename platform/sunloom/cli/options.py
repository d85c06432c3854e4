"""Options that several commands share, and the settings loaded from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from sunloom.config.loading.load import Loaded, load_config
from sunloom.config.settings import Settings

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


def _prepare(settings: Settings) -> None:
    """Logs to standard error, telemetry of libraries off; before a command's work begins."""
    from sunloom.core.telemetry import configure_logging, silence_libraries

    silence_libraries()
    configure_logging(settings)
