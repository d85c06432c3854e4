"""``sunloom features backfill``: a feature set over a range of time."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Sets, load_recipe
from sunloom.cli.work import cluster
from sunloom.config.features.materialization import FeaturesRecipe


def backfill(
    recipe: Annotated[Path, typer.Option(help="A recipe file under conf/.")],
    start: Annotated[str | None, typer.Option(help="First as-of time, with time zone.")] = None,
    end: Annotated[str | None, typer.Option(help="End of the range, not in it.")] = None,
    every: Annotated[str | None, typer.Option(help="Between as-of times, such as 1d.")] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Compute a feature set over a range of time; the same command goes on where it was ended."""
    from sunloom.feature_store.materialization.backfill.backfill import BackfillJob

    options = {"start": start, "end": end, "every": every}
    changes = [f"backfill.{name}={value}" for name, value in options.items() if value is not None]
    config = load_recipe(FeaturesRecipe, recipe, [*changes, *(sets or ())], env)
    # Prepared first: a wrong recipe fails before a cluster starts, which takes seconds.
    job = BackfillJob.prepare(config)
    with cluster(config) if job.needs_cluster else nullcontext():
        result = job.run().model_dump(exclude_unset=True)
    if json:
        output.print_json(result)
    else:
        output.print_mapping(result, title=f"{config.feature_set}: backfill")
