"""Commands of ``sunloom features`` on the offline store."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Sets, load_settings
from sunloom.errors import UsageError

FeatureSet = Annotated[str, typer.Argument(metavar="FEATURE_SET")]


def versions(
    feature_set: FeatureSet, sets: Sets = None, env: Env = None, json: Json = False
) -> None:
    """List a feature set's versions in the offline store, the first one first."""
    from sunloom.feature_store.stores.offline.offline_store import open_offline_store

    store = open_offline_store(load_settings(sets, env))
    entries: list[dict[str, Any]] = [
        {
            "version": version.number,
            "written_at": version.written_at.isoformat(),
            "mode": version.mode,
            "rows": version.rows,
            "files": len(version.files),
            "columns": version.columns,
        }
        for version in store.versions(feature_set)
    ]
    if json:
        output.print_json({"feature_set": feature_set, "store": store.uri, "versions": entries})
        return
    columns = ("version", "written_at", "mode", "rows", "files")
    cells = [[str(row[name]) for name in columns] for row in entries]
    output.print_table(columns, cells, title=f"{feature_set} in {store.uri}")


def rows(
    feature_set: FeatureSet,
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    version: Annotated[
        int | None, typer.Option(help="A version's number; else the latest.")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(help="The latest version written by this time (ISO, UTC).")
    ] = None,
    start: Annotated[str | None, typer.Option(help="First event time (ISO, UTC).")] = None,
    end: Annotated[str | None, typer.Option(help="Event time behind the last (ISO, UTC).")] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Write a version's rows from the offline store to a Parquet file."""
    from sunloom.feature_store.stores.offline.offline_store import open_offline_store

    store = open_offline_store(load_settings(sets, env))
    chosen = store.version(feature_set, version=version, as_of=_parse_time(as_of, "as_of"))
    table = store.read(
        feature_set,
        # By number: with as_of or as the latest, a version that is written meanwhile could be read.
        version=chosen.number,
        start=_parse_time(start, "start"),
        end=_parse_time(end, "end"),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    table.write_parquet(out)
    result = {"feature_set": feature_set, "version": chosen.number, "rows": table.height}
    result |= {"columns": table.columns, "out": str(out)}
    if json:
        output.print_json(result)
    else:
        output.print_mapping(result)


def _parse_time(text: str | None, name: str) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is not an ISO timestamp.", "Write it like 2026-03-01T12:00:00Z.", name
        ) from error
