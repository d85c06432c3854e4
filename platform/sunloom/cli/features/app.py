"""``sunloom features``: the group of commands on definitions, point-in-time rows and stores."""

from __future__ import annotations

import typer

from sunloom.cli.features.fit_transform import fit, transform
from sunloom.cli.features.historical import historical
from sunloom.cli.features.materialize import backfill, compare, graph, materialize
from sunloom.cli.features.monitor import monitor, skew
from sunloom.cli.features.plan import list_features, plan
from sunloom.cli.features.read_stores import get, rows, versions
from sunloom.cli.features.stream import stream
from sunloom.cli.features.validate import validate

app = typer.Typer(
    help="Definitions, point-in-time rows, and the online store.", no_args_is_help=True
)
app.command("list")(list_features)
# In the order of `sunloom features --help`.
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
