"""``sunloom features``: definitions, rows as of a moment, and the online store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sunloom.cli import output
from sunloom.cli.feature_quality import validate
from sunloom.cli.feature_rows import get, historical, materialize, monitor
from sunloom.cli.feature_stream import stream
from sunloom.cli.options import Env, Json, Sets, load_settings

if TYPE_CHECKING:
    from sunloom.features.plan import ClassPlan, FeaturePlan

app = typer.Typer(
    help="Definitions, rows as of a moment, and the online store.", no_args_is_help=True
)

Definitions = Annotated[
    str, typer.Option(help="Import path, .py file, or entry point of group sunloom.features.")
]
FeatureSet = Annotated[str, typer.Option("--feature-set", help="Chalk namespace of the class.")]


@app.command("list")
def list_features(
    definitions: Definitions = "retail", sets: Sets = None, env: Env = None, json: Json = False
) -> None:
    """List every feature; exit 2 names what cannot be bound, with file and line."""
    from sunloom.features.definitions import load_catalogue

    load_settings(sets, env)
    catalogue = load_catalogue(definitions)
    rows = [describe(item, feature) for item in catalogue.classes for feature in item.features]
    if json:
        output.print_json({"feature_sets": list(catalogue.namespaces), "features": rows})
        return
    columns = ("feature", "type", "kind", "made by", "description")
    output.print_table(columns, [[row[column] for column in columns] for row in rows])


@app.command()
def plan(
    feature_set: FeatureSet,
    definitions: Definitions = "retail",
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Show how a feature set is computed: classes, joins, expressions."""
    from sunloom.features.definitions import load_catalogue

    load_settings(sets, env)
    found = load_catalogue(definitions).plan(feature_set)
    if json:
        output.print_json(found.model_dump(mode="json") | {"fingerprint": found.fingerprint})
        return
    rows = [
        (f"{item.namespace}.{feature.name}", feature.dtype, made_by(feature))
        for item in found.classes
        for feature in item.features
    ]
    title = f"{feature_set}: {len(found.outputs)} features, plan {found.fingerprint}"
    output.print_table(("feature", "type", "made by"), rows, title=title)


def describe(item: ClassPlan, feature: FeaturePlan) -> dict[str, Any]:
    """One feature as a row."""
    return {
        "feature": feature.fqn,
        "type": feature.dtype,
        "kind": feature.kind,
        "made by": made_by(feature),
        "description": feature.description,
        "feature_set": item.namespace,
        "window_s": feature.window_s,
    }


def made_by(feature: FeaturePlan) -> str:
    """Where a feature's value comes from, in words."""
    expression = feature.expression
    if expression is None:
        return "source"
    window = f" over {feature.window_s} s" if feature.window_s else ""
    if expression.op == "aggregate":
        return f"{expression.kind} of {expression.join}{window}"
    if expression.op == "lookup":
        return f"{expression.join}.{expression.feature}"
    return f"expression{window}"


for _command in (historical, materialize, get, validate, monitor, stream):
    app.command()(_command)
