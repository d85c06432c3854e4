"""Commands of ``sunloom features`` on streams: consume topics, compare online with offline."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Recipe, Sets, load_recipe
from sunloom.cli.work import cluster
from sunloom.config.features.materialization import FeaturesRecipe

if TYPE_CHECKING:
    from sunloom.feature_store.streaming.consumer import ConsumerReport


def stream(
    recipe: Recipe,
    until_end: Annotated[
        bool,
        typer.Option("--until-end/--follow", help="Leave at the topics' end, or wait for more."),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="Consumers; more than one run as actors on Ray.")
    ] = 1,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Consume the recipe's topics into the online store, each event exactly once."""
    from sunloom.feature_store.streaming.job import stream as consume

    config = load_recipe(FeaturesRecipe, recipe, sets, env)
    with cluster(config) if workers > 1 else nullcontext():
        result = asdict(
            consume(
                config,
                until_end=until_end,
                listener=_show_progress,
                workers=workers,
                # Actors are stopped where Ctrl-C ends the wait for them: keep its handler then.
                on_start=_stop_on_signals if workers == 1 else None,
            )
        )
    if json:
        output.print_json(result)
    else:
        output.print_mapping(result)


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
    from sunloom.monitoring.served_skew import compare_served
    from sunloom.monitoring.stream_skew import compare_streamed

    config = load_recipe(FeaturesRecipe, recipe, sets, env)
    if served:
        result = compare_served(config, questions)
    else:
        result = compare_streamed(config, questions, config.seed)
    if json:
        output.print_json(asdict(result))
    else:
        output.print_mapping(asdict(result))
    if not result.passed:
        raise typer.Exit(1)


def _show_progress(report: ConsumerReport) -> None:
    rate = report.events / report.seconds if report.seconds else 0.0
    line = (
        f"{report.events:,} events, {rate:,.0f}/s, lag {report.lag:,}, late {report.late:,}, "
        f"quarantined {report.quarantined:,}, {report.partitions} partitions"
    )
    if sys.stderr.isatty():
        # Padded, so that a shorter line covers all of the one before.
        print(f"\r{line:<100}", end="", file=sys.stderr, flush=True)
    else:
        output.print_note(line)


def _stop_on_signals(stop: Callable[[], None]) -> None:
    """The first signal lets the current batch end; a second one interrupts."""

    def handle(number: int, _frame: object) -> None:
        stop()
        signal.signal(number, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
