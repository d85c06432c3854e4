"""``sunloom features get``, ``versions`` and ``rows``: what the online and offline store hold."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Sets, load_settings
from sunloom.errors import NotFoundError, UsageError

FeatureSet = Annotated[str, typer.Argument(metavar="FEATURE_SET")]


def get(
    feature_set: FeatureSet,
    entity_ids: Annotated[list[str], typer.Argument(metavar="ID...")],
    feature: Annotated[
        list[str] | None, typer.Option("--feature", help="Only these; may be repeated.")
    ] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Read the latest values from the online store; exit 2 if an entity is not there."""
    from sunloom.feature_store.online.registry import open_feature_set
    from sunloom.feature_store.stores.online.open import open_online_store

    online = open_feature_set(open_online_store(load_settings(sets, env)), feature_set)
    # By the key's type, not by the text's looks: `007` may be a key of text.
    is_integer = online.schema.key_dtype.startswith("int")
    keys = [int(text) if is_integer and text.lstrip("-").isdigit() else text for text in entity_ids]
    records: list[dict[str, Any]] = [
        {"entity_id": key, "found": values is not None, "features": values or {}}
        for key, values in zip(keys, online.read(keys, feature or None), strict=True)
    ]
    # Printed before the error: the records that exist are of use where another one is absent.
    if json:
        output.print_json({"feature_set": feature_set, "results": records})
    else:
        for record in records:
            output.print_mapping(record["features"], title=f"{feature_set} {record['entity_id']}")
    if absent := [str(record["entity_id"]) for record in records if not record["found"]]:
        raise NotFoundError(f"No {feature_set} record of {', '.join(absent)}.", "Check the id.")


def versions(
    feature_set: FeatureSet, sets: Sets = None, env: Env = None, json: Json = False
) -> None:
    """List a feature set's versions in the offline store, the first one first."""
    from sunloom.feature_store.stores.offline_store import open_offline_store

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
    cells = [[entry[name] for name in columns] for entry in entries]
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
    from sunloom.feature_store.stores.offline_store import open_offline_store

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
    output.print_result(result | {"columns": table.columns, "out": str(out)}, json)


def _parse_time(text: str | None, name: str) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is not an ISO timestamp.", "Write it like 2026-03-01T12:00:00Z.", name
        ) from error
