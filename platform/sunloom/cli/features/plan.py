"""``sunloom features list`` and ``plan``: what is defined, and how a feature set is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import BaseModel, Field

from sunloom.cli import output
from sunloom.cli.options import Definitions, Env, Json, Sets, Strict, load_settings
from sunloom.errors import UsageError

if TYPE_CHECKING:
    from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan, Unavailable


def list_features(
    definitions: Definitions = "retail",
    strict: Strict = False,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """List every feature, and what cannot be bound with file, line and reason."""
    # Here and below, imported late: `sunloom --help` loads no Polars and no chalkpy.
    from sunloom.features.definitions.open import catalogue_of

    # For its effects only: logging, and telemetry off before libraries are imported.
    load_settings(sets, env)
    catalogue = catalogue_of(definitions)
    rows = [
        describe_feature(item, feature).model_dump(by_alias=True)
        for item in catalogue.classes
        for feature in item.features
    ]
    if json:
        output.print_json(
            {
                "feature_sets": list(catalogue.namespaces),
                "features": rows,
                "unavailable": catalogue.unavailable,
            }
        )
    else:
        columns = ("feature", "type", "kind", "made by", "description")
        output.print_table(columns, [[row[column] for column in columns] for row in rows])
        _print_unavailable(catalogue.unavailable)
    # Printed before the error: what is bound is of use where something else is not.
    if strict or not catalogue.has_outputs:
        catalogue.check_complete()


def _print_unavailable(unavailable: Sequence[Unavailable]) -> None:
    if unavailable:
        cells = [(item.feature, item.place, item.construct, item.reason) for item in unavailable]
        columns = ("feature", "place", "construct", "reason")
        output.print_table(columns, cells, title=f"{len(cells)} unavailable")


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
    strict: Strict = False,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Show how a feature set is computed: classes, joins, expressions."""
    from sunloom.features.definitions.open import catalogue_of
    from sunloom.features.plan.explain import plan_text

    load_settings(sets, env)
    catalogue = catalogue_of(definitions)
    feature_plan = catalogue.plan(_feature_set_name(name, feature_set))
    if strict:
        catalogue.check_complete()
    if picture is not None:
        from sunloom.features.picture import draw_plan

        draw_plan(feature_plan, picture)
    if json:
        extra = {"picture": str(picture)} if picture is not None else {}
        output.print_json(
            feature_plan.model_dump(mode="json")
            | {"fingerprint": feature_plan.fingerprint, "unavailable": feature_plan.unavailable}
            | extra
        )
        return
    if text:
        typer.echo(plan_text(feature_plan))
        return
    rows = [
        (f"{item.namespace}.{feature.name}", str(feature.dtype), made_by(feature))
        for item in feature_plan.classes
        for feature in item.features
    ]
    count = len(feature_plan.outputs)
    title = f"{feature_plan.feature_set}: {count} features, plan {feature_plan.fingerprint}"
    output.print_table(("feature", "type", "made by"), rows, title=title)
    _print_unavailable(feature_plan.unavailable)
    if picture is not None:
        typer.echo(f"drawn in {picture}")


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


class ListedResolver(BaseModel):
    """A Python function of a feature, as `features list` prints it."""

    function: str
    kind: str
    called: str
    place: str
    timeout_s: float | None
    cron: str | None


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
        resolvers=[
            ListedResolver(
                function=resolver.fqn,
                kind=resolver.kind,
                called="once a row" if resolver.shape == "row" else "with frames",
                place=resolver.place,
                timeout_s=resolver.timeout_s,
                cron=resolver.cron,
            )
            for resolver in resolvers
        ],
    )


def made_by(feature: FeaturePlan) -> str:
    """What computes a feature's value, in words."""
    expression = feature.expression
    if expression is None:
        return "source"
    if feature.resolver is not None:
        resolver = feature.resolver
        cron = f" (cron {resolver.cron})" if resolver.cron else ""
        return f"@{resolver.kind} {resolver.fqn.rsplit('.', 1)[-1]}{cron}"
    window = f" over {feature.window_s} s" if feature.window_s else ""
    if expression.op == "aggregate":
        return f"{expression.kind} of {expression.join}{window}"
    if expression.op == "lookup":
        return f"{expression.join}.{expression.feature}"
    return f"expression{window}"
