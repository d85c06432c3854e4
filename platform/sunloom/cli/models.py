"""Commands ``sunloom models``: the registry of model versions and aliases."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

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
    cells = []
    for row in rows:
        ref = f"{row['name']}@{row['version']}"
        numbers = [(key, n) for key, n in row["metrics"].items() if isinstance(n, int | float)]
        # Four: with all of a training's metrics the table would not fit a terminal.
        metrics = ", ".join(f"{key} {output.format_cell(n)}" for key, n in numbers[:4])
        aliases_text = ", ".join(row["aliases"])
        cells.append((ref, row["kind"], aliases_text, row["created_at"][:19], metrics))
    output.print_table(("model", "kind", "aliases", "created", "metrics"), cells)


@app.command()
def show(ref: Ref, sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """Show one version: files, metrics and what it was made from."""
    from sunloom.core.model_registry import open_registry

    registry = open_registry(load_settings(sets, env))
    version = registry.get(ref)
    result = version.to_dict() | {"aliases": registry.aliases(version.name)}
    output.print_result(result, json)


@app.command()
def export(
    ref: Ref,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new one.")],
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Copy a version's files, its model card (README.md) among them, into a folder."""
    from sunloom.core.model_registry import open_registry

    registry = open_registry(load_settings(sets, env))
    version = registry.get(ref)
    if folder.exists():
        raise UsageError(f"{folder} exists already.", "Name a new folder.", "folder")
    shutil.copytree(registry.path(version), folder)
    output.print_result(
        {"model": version.ref, "folder": str(folder)}, json, line=f"{version.ref} in {folder}"
    )


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="smollm2-135m-instruct, tool-base …")],
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Register a base model that an installed package brings, its files checked by hash."""
    from sunloom.core.model_registry import open_registry
    from sunloom.llm.base_models import register_packaged

    result = register_packaged(name, open_registry(load_settings(sets, env)))
    line = f"{result.version.ref} from {result.version.lineage['package']}"
    output.print_result({"model": result.version.ref, **result.version.lineage}, json, line=line)


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
    line = f"{name}@{alias} is now {version.ref}"
    output.print_result({"model": version.ref, "alias": alias}, json, line=line)
