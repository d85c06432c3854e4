"""``sunloom features plan``: how a feature set is computed, as a table, text, JSON or a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import BaseModel, Field

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
    # Here and below, imported late: `sunloom --help` loads no Polars and no chalkpy.
    from sunloom.features.definitions.open import plan_of
    from sunloom.features.plan.explain import plan_text

    # For its effects only: logging, and telemetry off before libraries are imported.
    load_settings(sets, env)
    plan_shown = plan_of(definitions, _feature_set_name(name, feature_set))
    if picture is not None:
        from sunloom.features.picture.drawing import draw_plan

        draw_plan(plan_shown, picture)
    if json:
        extra = {"picture": str(picture)} if picture is not None else {}
        output.print_json(
            plan_shown.model_dump(mode="json") | {"fingerprint": plan_shown.fingerprint} | extra
        )
    elif text:
        typer.echo(plan_text(plan_shown))
    else:
        _print_table(plan_shown, picture)


def _feature_set_name(argument: str | None, option: str | None) -> str:
    if argument is not None and option is not None and argument != option:
        raise UsageError(
            f"The feature set is given twice: {argument!r} and --feature-set {option!r}.",
            "Give one of them.",
            "feature_set",
        )
    name = argument or option
    if name is None:
        raise UsageError(
            "No feature set is named.",
            "Write `sunloom features plan NAME`; `sunloom features list` shows the names.",
            "feature_set",
        )
    return name


def _print_table(plan: Plan, picture: Path | None) -> None:
    rows = [
        (f"{item.namespace}.{feature.name}", str(feature.dtype), made_by(feature))
        for item in plan.classes
        for feature in item.features
    ]
    title = f"{plan.feature_set}: {len(plan.outputs)} features, plan {plan.fingerprint}"
    output.print_table(("feature", "type", "made by"), rows, title=title)
    if picture is not None:
        typer.echo(f"drawn in {picture}")


class ListedResolver(BaseModel):
    """A Python function of a feature, as `features list` prints it."""

    function: str
    kind: str
    called: str
    place: str
    timeout_s: float | None


class ListedFeature(BaseModel):
    """A feature, as `features list` prints it."""

    feature: str
    type: str
    kind: str
    made_by: str = Field(serialization_alias="made by")
    description: str | None
    feature_set: str
    window_s: int | None
    resolvers: list[ListedResolver]


def describe_feature(item: ClassPlan, feature: FeaturePlan) -> ListedFeature:
    """One feature as a row of the list."""
    # The function for training, then the one for online reads alone.
    expressions = (feature.expression, feature.online)
    resolvers = [node.resolver for node in expressions if node and node.op == "resolved"]
    return ListedFeature(
        feature=feature.fqn,
        type=str(feature.dtype),
        kind=feature.kind,
        made_by=made_by(feature),
        description=feature.description,
        feature_set=item.namespace,
        window_s=feature.window_s,
        resolvers=[_describe_resolver(resolver) for resolver in resolvers],
    )


def _describe_resolver(resolver: Resolver) -> ListedResolver:
    return ListedResolver(
        function=resolver.fqn,
        kind=resolver.kind,
        called="once a row" if resolver.shape == "row" else "with frames",
        place=resolver.place,
        timeout_s=resolver.timeout_s,
    )


def made_by(feature: FeaturePlan) -> str:
    """What computes a feature's value, in words."""
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
