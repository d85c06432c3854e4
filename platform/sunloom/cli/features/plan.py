"""``sunloom features plan``: how a feature set is computed, as a table, text, JSON or a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Sets, load_settings
from sunloom.errors import UsageError

if TYPE_CHECKING:
    from sunloom.features.plan.expressions import Resolver
    from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan, Plan

Definitions = Annotated[
    str, typer.Option(help="Import path, .py file, or entry point of group sunloom.features.")
]


def plan(
    name: Annotated[
        str | None, typer.Argument(metavar="FEATURE_SET", help="Chalk namespace of the class.")
    ] = None,
    feature_set: Annotated[
        str | None, typer.Option("--feature-set", help="The same, as an option.")
    ] = None,
    definitions: Definitions = "retail",
    picture: Annotated[
        Path | None, typer.Option(help="Draw it into this .svg or .png file.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Joins and whole expressions.")] = False,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Show how a feature set is computed: classes, joins, expressions."""
    from sunloom.features.definitions.open import plan_of
    from sunloom.features.plan.explain import plan_text

    load_settings(sets, env)
    found = plan_of(definitions, _wanted(name, feature_set))
    if picture is not None:
        from sunloom.features.picture.drawing import draw_plan

        draw_plan(found, picture)
    if json:
        drawn = {"picture": str(picture)} if picture is not None else {}
        output.print_json(
            found.model_dump(mode="json") | {"fingerprint": found.fingerprint} | drawn
        )
    elif text:
        typer.echo(plan_text(found))
    else:
        _print_table(found, picture)


def _wanted(name: str | None, feature_set: str | None) -> str:
    if name is not None and feature_set is not None and name != feature_set:
        raise UsageError(
            f"The feature set is given twice: {name!r} and --feature-set {feature_set!r}.",
            "Give one of them.",
            "feature_set",
        )
    wanted = name or feature_set
    if wanted is None:
        raise UsageError(
            "No feature set is named.",
            "Write `sunloom features plan NAME`; `sunloom features list` shows the names.",
            "feature_set",
        )
    return wanted


def _print_table(found: Plan, picture: Path | None) -> None:
    rows = [
        (f"{item.namespace}.{feature.name}", str(feature.dtype), made_by(feature))
        for item in found.classes
        for feature in item.features
    ]
    title = f"{found.feature_set}: {len(found.outputs)} features, plan {found.fingerprint}"
    output.print_table(("feature", "type", "made by"), rows, title=title)
    if picture is not None:
        typer.echo(f"drawn in {picture}")


def describe(item: ClassPlan, feature: FeaturePlan) -> dict[str, Any]:
    """One feature as a row."""
    return {
        "feature": feature.fqn,
        "type": str(feature.dtype),
        "kind": feature.kind,
        "made by": made_by(feature),
        "description": feature.description,
        "feature_set": item.namespace,
        "window_s": feature.window_s,
        "resolvers": [_named(one) for one in _resolvers(feature)],
    }


def _resolvers(feature: FeaturePlan) -> list[Resolver]:
    """The feature's Python functions: the one for training, then one for online reads alone."""
    made = (feature.expression, feature.online)
    return [one.resolver for one in made if one is not None and one.op == "resolved"]


def _named(resolver: Resolver) -> dict[str, Any]:
    return {
        "function": resolver.fqn,
        "kind": resolver.kind,
        "called": "once a row" if resolver.shape == "row" else "with frames",
        "place": resolver.place,
        "timeout_s": resolver.timeout_s,
    }


def made_by(feature: FeaturePlan) -> str:
    """Where a feature's value comes from, in words."""
    expression = feature.expression
    if expression is None:
        return "source"
    if feature.resolver is not None:
        return f"@{feature.resolver.kind} {feature.resolver.fqn.rsplit('.', 1)[-1]}"
    window = f" over {feature.window_s} s" if feature.window_s else ""
    if expression.op == "aggregate":
        return f"{expression.kind} of {expression.join}{window}"
    if expression.op == "lookup":
        return f"{expression.join}.{expression.feature}"
    return f"expression{window}"
