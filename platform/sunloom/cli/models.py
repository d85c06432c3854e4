"""Commands ``sunloom models``: the registry of model versions and aliases."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Sets, load_settings
from sunloom.errors import UsageError

app = typer.Typer(help="Model versions, their metrics, lineage and aliases.", no_args_is_help=True)

Ref = Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]")]


@app.command("list")
def list_models(
    kind: Annotated[str | None, typer.Option(help="llm, adapter, tabular …")] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """List every version with the aliases that point at it."""
    from sunloom.core.model_registry import open_registry

    registry = open_registry(load_settings(sets, env))
    versions = registry.list(kind)
    aliases = {name: registry.aliases(name) for name in {version.name for version in versions}}
    rows = [
        version.to_dict()
        | {"aliases": [a for a, n in aliases[version.name].items() if n == version.version]}
        for version in versions
    ]
    if json:
        output.print_json(rows)
        return
    output.print_table(
        ("model", "kind", "aliases", "created", "metrics"),
        [
            (f"{row['name']}@{row['version']}", row["kind"], ", ".join(row["aliases"]),
             row["created_at"][:19], _short(row["metrics"]))
            for row in rows
        ],
    )  # fmt: skip


@app.command()
def show(ref: Ref, sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """Show one version: files, metrics and what it was made from."""
    from sunloom.core.model_registry import open_registry

    registry = open_registry(load_settings(sets, env))
    version = registry.get(ref)
    result = version.to_dict() | {"aliases": registry.aliases(version.name)}
    if json:
        output.print_json(result)
    else:
        output.print_mapping(result)


@app.command()
def promote(
    ref: Ref,
    alias: Annotated[str, typer.Option(help="The alias to move.")] = "production",
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Point an alias at a version; a running gateway follows without a restart."""
    from sunloom.core.model_registry import open_registry

    name, _, selector = ref.partition("@")
    # A bare name means the production version already, so there would be nothing to promote.
    if not selector:
        raise UsageError(f"Which version of {name!r}?", f"Such as {name}@2.", "ref")
    registry = open_registry(load_settings(sets, env))
    version = registry.promote(name, registry.get(ref).version, alias)
    if json:
        output.print_json({"model": version.ref, "alias": alias})
    else:
        output.print_line(f"{name}@{alias} is now {version.ref}")


def _short(metrics: dict[str, Any]) -> str:
    plain = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
    return ", ".join(f"{key} {output.format_cell(value)}" for key, value in list(plain.items())[:4])
