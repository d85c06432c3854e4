"""``sunloom features monitor``: drift, quality and performance, once or as a service."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from sunloom.cli.features.rows import show
from sunloom.cli.options import Env, Json, Recipe, Sets, load_recipe
from sunloom.config.loading.durations import parse_duration
from sunloom.config.monitoring.recipe import MonitoringRecipe
from sunloom.errors import UsageError


def monitor(
    recipe: Recipe,
    every: Annotated[
        str | None, typer.Option(help="Go on, one round so often: 15m, 1h, 1d.")
    ] = None,
    as_of: Annotated[
        datetime | None, typer.Option("--as-of", help="Judge as if it were then, UTC.")
    ] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Watch a table window by window, or compare two periods; raise and resolve alerts."""
    from sunloom.monitoring.service import keep_monitoring, run_monitoring

    config = load_recipe(MonitoringRecipe, recipe, sets, env)
    moment = as_of.replace(tzinfo=as_of.tzinfo or UTC) if as_of is not None else None
    if every is None:
        show(run_monitoring(config, moment), json)
        return
    if moment is not None:
        raise UsageError("--as-of is one moment; --every goes on.", param="as-of")
    try:
        length = parse_duration(every)
    except ValueError as error:
        raise UsageError(f"--every: {error}.", param="every") from error
    show(keep_monitoring(config, length), json)
