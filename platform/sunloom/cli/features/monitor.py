"""``sunloom features monitor``: drift, quality and performance, once or as a service."""

from __future__ import annotations

from dataclasses import asdict
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
    every: Annotated[str | None, typer.Option(help="Repeat, one round each 15m, 1h, 1d.")] = None,
    as_of: Annotated[
        datetime | None, typer.Option("--as-of", help="Evaluate as of this time, UTC.")
    ] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Watch a table window by window, or compare two periods; raise and resolve alerts."""
    from sunloom.monitoring.service import keep_monitoring, run_monitoring

    config = load_recipe(MonitoringRecipe, recipe, sets, env)
    if as_of is not None:
        # Typer parses timestamps without a time zone.
        as_of = as_of.replace(tzinfo=as_of.tzinfo or UTC)
    if every is None:
        show(run_monitoring(config, as_of).to_dict(), json)
        return
    if as_of is not None:
        raise UsageError("--as-of is one point in time; --every repeats.", param="as-of")
    try:
        pause = parse_duration(every)
    except ValueError as error:
        raise UsageError(f"--every: {error}.", param="every") from error
    show(asdict(keep_monitoring(config, pause)), json)
