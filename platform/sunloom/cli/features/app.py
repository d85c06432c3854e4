"""``sunloom features``: definitions, point-in-time rows, and the online store."""

from __future__ import annotations

import typer

from sunloom.cli import output
from sunloom.cli.features.backfill import backfill
from sunloom.cli.features.fit_transform import fit, transform
from sunloom.cli.features.graph import graph
from sunloom.cli.features.monitor import monitor
from sunloom.cli.features.plan import Definitions, describe_feature, plan
from sunloom.cli.features.quality import validate
from sunloom.cli.features.rows import compare, get, historical, materialize
from sunloom.cli.features.stream import skew, stream
from sunloom.cli.features.versions import rows, versions
from sunloom.cli.options import Env, Json, Sets, load_settings

app = typer.Typer(
    help="Definitions, point-in-time rows, and the online store.", no_args_is_help=True
)


@app.command("list")
def list_features(
    definitions: Definitions = "retail", sets: Sets = None, env: Env = None, json: Json = False
) -> None:
    """List every feature; exit 2 names what cannot be bound, with file and line."""
    from sunloom.features.definitions.open import catalogue_of

    # For its effects only: logging, and telemetry off before libraries are imported.
    load_settings(sets, env)
    catalogue = catalogue_of(definitions)
    features = [
        describe_feature(item, feature) for item in catalogue.classes for feature in item.features
    ]
    rows = [feature.model_dump(by_alias=True) for feature in features]
    if json:
        output.print_json({"feature_sets": list(catalogue.namespaces), "features": rows})
        return
    columns = ("feature", "type", "kind", "made by", "description")
    output.print_table(columns, [[row[column] for column in columns] for row in rows])


for _command in (
    plan,
    historical,
    materialize,
    compare,
    backfill,
    get,
    validate,
    monitor,
    versions,
    rows,
    stream,
    skew,
    fit,
    transform,
    graph,
):
    app.command()(_command)
