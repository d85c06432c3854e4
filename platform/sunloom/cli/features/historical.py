"""``sunloom features historical``: features as of each row's event time."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from sunloom.cli import output
from sunloom.cli.options import (
    Definitions,
    EngineOption,
    Env,
    Json,
    Sets,
    Strict,
    cluster,
    load_settings,
)
from sunloom.errors import UsageError

if TYPE_CHECKING:
    from sunloom.config.data import Deduplication


def historical(
    definitions: Definitions,
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
    deduplicate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=COLUMN[:first|:last]",
            help="Read one row of a class's rows with the same id, the last by default; several "
            "columns with commas between. Without it repeats count again.",
        ),
    ] = None,
    max_bad_share: Annotated[
        float, typer.Option(min=0, max=1, help="Unreadable rows above which nothing is written.")
    ] = 0.01,
    strict: Strict = False,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Compute features as of each row's event_time; rows keep their order and number."""
    from sunloom.features.historical.retrieve import HistoricalJob

    settings, rules = load_settings(sets, env), _deduplications(deduplicate or [])
    # The stack is entered last: the cluster ends before the folder that its workers read goes.
    with TemporaryDirectory(prefix="sunloom-") as scratch, ExitStack() as stack:
        sources = _fetch_sources(source, Path(scratch))
        job = HistoricalJob.prepare(
            definitions,
            feature_set,
            sources,
            entities,
            engine.value,
            deduplicate=rules,
            strict=strict,
        )
        if job.needs_cluster:
            stack.enter_context(cluster(settings))
        result = job.run(out, max_bad_share)
    output.print_result(result.model_dump(exclude_unset=True), json)


def _deduplications(options: list[str]) -> dict[str, Deduplication]:
    """``NAME=COLUMN[:first|:last]`` options as rules.

    Raises:
        UsageError: An option is not of the form.
    """
    from sunloom.config.data import Deduplication

    rules: dict[str, Deduplication] = {}
    for option in options:
        name, _, rule = option.partition("=")
        columns, _, keep = rule.partition(":")
        by = tuple(column.strip() for column in columns.split(","))
        if not name or not all(by) or keep not in ("", "first", "last"):
            raise UsageError(
                f"--deduplicate {option!r} is not of the form NAME=COLUMN[:first|:last].",
                param="deduplicate",
            )
        rules[name] = Deduplication(by=by, keep="first" if keep == "first" else "last")
    return rules


def _fetch_sources(pairs: list[str], scratch: Path) -> dict[str, Path]:
    """``NAME=PATH`` options as a mapping; rows of a database are fetched into ``scratch``.

    Raises:
        UsageError: A pair has no name or no path.
        DataError: A database cannot be reached or refuses.
    """
    from sunloom.data.sources.databases import fetch_address, is_address

    paths: dict[str, Path] = {}
    for pair in pairs:
        name, _, path = pair.partition("=")
        if not name or not path:
            raise UsageError(f"--source {pair!r} is not of the form NAME=PATH.", param="source")
        paths[name] = Path(path)
        if is_address(path):
            paths[name] = scratch / f"source-{len(paths)}"
            fetch_address(path, paths[name])
    return paths
