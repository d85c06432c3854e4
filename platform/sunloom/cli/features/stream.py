"""``sunloom features stream``: events of topics, consumed into the online store."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Recipe, Sets, Strict, cluster, load_recipe, strict_sets
from sunloom.core.interrupts import stop_on_signals

if TYPE_CHECKING:
    from sunloom.feature_store.streaming.kafka import ConsumerReport


def stream(
    recipe: Recipe,
    until_end: Annotated[
        bool,
        typer.Option("--until-end/--follow", help="Leave at the topics' end, or wait for more."),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="Consumers; more than one run as actors on Ray.")
    ] = 1,
    strict: Strict = False,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Consume the recipe's topics into the online store, each event exactly once."""
    from sunloom.config.features import FeaturesRecipe
    from sunloom.feature_store.streaming.job import stream as consume

    config = load_recipe(FeaturesRecipe, recipe, strict_sets(sets, strict), env)
    with cluster(config) if workers > 1 else nullcontext(), ExitStack() as stack:

        def end_batch_on_signals(stop: Callable[[], None]) -> None:
            stack.enter_context(stop_on_signals(stop))

        result = consume(
            config,
            until_end=until_end,
            listener=_show_progress,
            workers=workers,
            # Actors are stopped where Ctrl-C ends the wait for them: keep its handler then.
            on_start=end_batch_on_signals if workers == 1 else None,
        )
    output.print_result(result, json)


def _show_progress(report: ConsumerReport) -> None:
    rate = report.events / report.seconds if report.seconds else 0.0
    line = (
        f"{report.events:,} events, {rate:,.0f}/s, lag {report.lag:,}, late {report.late:,}, "
        f"quarantined {report.quarantined:,}, tombstones {report.tombstones:,}, "
        f"{report.partitions} partitions"
    )
    if sys.stderr.isatty():
        # Padded, so that a shorter line covers all of the one before.
        print(f"\r{line:<120}", end="", file=sys.stderr, flush=True)
    else:
        output.print_note(line)
