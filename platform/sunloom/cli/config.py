"""Commands ``sunloom config``: the values in force with their origin, and a check of every file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Sets
from sunloom.cli.recipes import KINDS, kind_of, recipe_class
from sunloom.config.loading.layers import leaves
from sunloom.config.loading.load import Loaded, find_conf_dir, load_config
from sunloom.config.settings import Settings
from sunloom.errors import SunloomError, UsageError

app = typer.Typer(help="Show and check configuration.", no_args_is_help=True)

Kind = Annotated[
    str | None, typer.Option(help=f"Kind of recipe ({', '.join(KINDS)}); by folder or keys.")
]
OptionalRecipe = Annotated[Path | None, typer.Argument(metavar="[RECIPE]")]


@app.command()
def show(
    recipe: OptionalRecipe = None,
    kind: Kind = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Print every value with the layer that it came from; secrets are masked."""
    loaded = _load(recipe, kind, sets, env)
    values = [
        (key, value, loaded.origin(key))
        # JSON mode masks secrets.
        for key, value in leaves(loaded.config.model_dump(mode="json"))
    ]
    if json:
        output.print_json({key: {"value": v, "origin": origin} for key, v, origin in values})
    else:
        output.print_table(("key", "value", "from"), values)


@app.command()
def check(
    recipes: Annotated[list[Path] | None, typer.Argument(metavar="[RECIPE]...")] = None,
    kind: Kind = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Load recipes (all of conf/ by default) and report every problem; exit 2 if there is one."""
    # None first: the settings alone, as commands without a recipe load them.
    chosen: list[Path | None] = [None, *(recipes if recipes else _all_recipes())]
    results = [_check_recipe(recipe, kind, sets, env) for recipe in chosen]
    if json:
        rows = [{"file": f, "ok": not p, "problem": p or None} for f, p in results]
        output.print_json({"ok": not any(p for _, p in results), "files": rows})
    else:
        output.print_table(("file", "result"), [(f, p or "ok") for f, p in results])
    if any(problem for _, problem in results):
        raise typer.Exit(2)


@app.command()
def reference(
    write: Annotated[bool, typer.Option(help="Write conf/README.md instead of printing.")] = False,
) -> None:
    """Print the reference of all keys, made from the schema."""
    from sunloom.cli.reference import render

    conf = find_conf_dir(os.environ)
    if not write:
        output.print_line(render())
    elif conf is None:
        raise UsageError("There is no conf/ folder here.", "Run it in the project's root.")
    else:
        (conf / "README.md").write_text(render())
        output.print_line(f"wrote {conf / 'README.md'}")


def _load(
    recipe: Path | None, kind: str | None, sets: list[str] | None, env: str | None
) -> Loaded[Settings]:
    kind = kind or (kind_of(recipe) if recipe else None)
    if recipe and recipe.is_file() and not kind:
        raise UsageError(
            f"Cannot tell what kind of recipe {recipe} is.",
            f"Say it: --kind {'|'.join(KINDS)}",
            "kind",
        )
    cls = recipe_class(kind) if kind else Settings
    return load_config(cls, recipe=recipe, sets=sets or (), env=env)


def _check_recipe(
    recipe: Path | None, kind: str | None, sets: list[str] | None, env: str | None
) -> tuple[str, str]:
    name = str(recipe) if recipe else "settings"
    try:
        _load(recipe, kind if recipe else None, sets, env)
    except SunloomError as error:
        return name, str(error)
    return name, ""


def _all_recipes() -> list[Path]:
    if (conf := find_conf_dir(os.environ)) is None:
        return []
    # By kind: env/ has layers, and serve/ has Ray Serve's own format.
    recipes = [path for kind in KINDS for path in sorted(conf.glob(f"{kind}/**/*.yaml"))]
    cwd = Path.cwd()
    return [path.relative_to(cwd) if path.is_relative_to(cwd) else path for path in recipes]
