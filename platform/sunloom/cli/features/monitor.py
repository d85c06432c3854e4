"""``sunloom features monitor`` and ``skew``: drift, quality, and online against offline values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Recipe, Sets, load_recipe
from sunloom.config.loading.durations import parse_duration
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
    from sunloom.config.monitoring import MonitoringRecipe
    from sunloom.monitoring.service import keep_monitoring, run_monitoring

    config = load_recipe(MonitoringRecipe, recipe, sets, env)
    if as_of is not None:
        # Typer parses timestamps without a time zone.
        as_of = as_of.replace(tzinfo=as_of.tzinfo or UTC)
    if every is None:
        output.print_result(run_monitoring(config, as_of).to_dict(), json)
        return
    if as_of is not None:
        raise UsageError("--as-of is one point in time; --every repeats.", param="as-of")
    try:
        pause = parse_duration(every)
    except ValueError as error:
        raise UsageError(f"--every: {error}.", param="every") from error
    output.print_result(keep_monitoring(config, pause), json)


def skew(
    recipe: Recipe,
    questions: Annotated[int, typer.Option(min=1, help="Entities and times to compare.")] = 1_000,
    served: Annotated[
        bool, typer.Option("--served", help="Replay values that the gateway has served.")
    ] = False,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Compare online values with offline ones as of the same times; exit 1 if they differ.

    Without --served, random entities are read as of random times; with it a sample of the values
    that the gateway has served is computed again.
    """
    from sunloom.config.features import FeaturesRecipe
    from sunloom.monitoring.skew import compare_served, compare_streamed

    config = load_recipe(FeaturesRecipe, recipe, sets, env)
    if served:
        result = compare_served(config, questions)
    else:
        result = compare_streamed(config, questions, config.seed)
    output.print_result(result, json)
    if not result.passed:
        raise typer.Exit(1)
