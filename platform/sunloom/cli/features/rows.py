"""Commands of ``sunloom features`` that compute, store, read and compare values."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Recipe, Sets, load_recipe, load_settings
from sunloom.cli.work import cluster
from sunloom.config.features.materialization import FeaturesRecipe
from sunloom.errors import NotFoundError, UsageError


class EngineOption(StrEnum):
    """Who computes: this process, the cluster, or the first if everything fits into it."""

    auto = "auto"
    polars = "polars"
    ray = "ray"


def historical(
    definitions: Annotated[
        str, typer.Option(help="Import path, .py file, or entry point of group sunloom.features.")
    ],
    feature_set: Annotated[str, typer.Option("--feature-set", help="Chalk namespace.")],
    source: Annotated[
        list[str],
        typer.Option(
            "--source",
            metavar="NAME=PATH",
            help="Rows of a class: a file, a folder, or a database such as "
            "postgresql://user:${PASSWORD}@host/db?table=orders.",
        ),
    ],
    entities: Annotated[Path, typer.Option(help="Rows with the key and event_time.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    engine: Annotated[EngineOption, typer.Option(help="Who computes.")] = EngineOption.auto,
    max_bad_share: Annotated[
        float, typer.Option(min=0, max=1, help="Unreadable rows above which nothing is written.")
    ] = 0.01,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Compute features as of each row's event_time; rows keep their order and number."""
    from sunloom.features.historical.retrieve import HistoricalJob

    settings = load_settings(sets, env)
    # The stack is entered last: the cluster ends before the folder that its workers read goes.
    with TemporaryDirectory(prefix="sunloom-") as scratch, ExitStack() as stack:
        sources = named_sources(source, Path(scratch))
        job = HistoricalJob.prepare(definitions, feature_set, sources, entities, engine.value)
        if job.needs_cluster:
            stack.enter_context(cluster(settings))
        result = job.run(out, max_bad_share)
    show(result.model_dump(exclude_unset=True), json)


def materialize(recipe: Recipe, sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """Write training rows at the recipe's cut-offs and the latest values online."""
    from sunloom.feature_store.materialization.materialize import MaterializationJob

    config = load_recipe(FeaturesRecipe, recipe, sets, env)
    job = MaterializationJob.prepare(config)
    with cluster(config) if job.needs_cluster else nullcontext():
        result = job.run()
    show(result.model_dump(exclude_unset=True), json)
    # None where the engines were not compared.
    if result.engines_equal is False:
        raise typer.Exit(1)


def compare(recipe: Recipe, sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """Compute the recipe's training rows through Polars and Ray Data; exit 1 if they differ."""
    from sunloom.feature_store.materialization.compare_engines import compare_engines

    config = load_recipe(FeaturesRecipe, recipe, sets, env)
    with cluster(config):
        comparison = compare_engines(config)
    show({**asdict(comparison), "equal": comparison.equal}, json)
    if not comparison.equal:
        raise typer.Exit(1)


def get(
    feature_set: Annotated[str, typer.Argument(metavar="FEATURE_SET")],
    entity_ids: Annotated[list[str], typer.Argument(metavar="ID...")],
    feature: Annotated[
        list[str] | None, typer.Option("--feature", help="Only these; may be repeated.")
    ] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Read the latest values from the online store; exit 1 if an entity is not there."""
    from sunloom.feature_store.online.registry import open_feature_set
    from sunloom.feature_store.stores.online.open import open_online_store

    online = open_feature_set(open_online_store(load_settings(sets, env)), feature_set)
    ids = [_as_key(text, online.schema.key_dtype) for text in entity_ids]
    found = online.read(ids, feature or None)
    rows = [
        {"entity_id": key, "found": values is not None, "features": values or {}}
        for key, values in zip(ids, found, strict=True)
    ]
    # Printed before the error: the records that exist are of use where another one is absent.
    if json:
        output.print_json({"feature_set": feature_set, "results": rows})
    else:
        for row in rows:
            output.print_mapping(row["features"], title=f"{feature_set} {row['entity_id']}")
    if absent := [str(row["entity_id"]) for row in rows if not row["found"]]:
        raise NotFoundError(f"No {feature_set} record of {', '.join(absent)}.", "Check the id.")


def named_sources(pairs: list[str], scratch: Path) -> dict[str, Path]:
    """``NAME=PATH`` options as a mapping; what lies in a database is fetched to ``scratch``.

    Raises:
        UsageError: A pair has no name or no path.
        DataError: A database cannot be reached or refuses.
    """
    from sunloom.data.sources.fetch import fetch_address, is_address

    named: dict[str, Path] = {}
    for pair in pairs:
        name, _, path = pair.partition("=")
        if not name or not path:
            raise UsageError(f"--source {pair!r} is not of the form NAME=PATH.", param="source")
        named[name] = Path(path)
        if is_address(path):
            named[name] = scratch / f"source-{len(named)}"
            fetch_address(path, named[name])
    return named


def show(result: dict[str, Any], json: bool) -> None:
    """Print a result in one of the two forms."""
    if json:
        output.print_json(result)
    else:
        output.print_mapping(result)


def _as_key(text: str, key_dtype: str) -> Any:
    # Not by its looks: `007` may be a key of text.
    return int(text) if key_dtype.startswith("int") and text.lstrip("-").isdigit() else text
