"""Commands ``sunloom config``: the values in force with their origin, a check, the reference.

``conf/README.md`` is the reference, made from the schema of every kind of recipe.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import sys
import types
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Sets
from sunloom.config.loading.load import ENVIRONMENTS, Loaded, find_conf_dir, leaves, load_config
from sunloom.config.loading.model import Model
from sunloom.config.settings import Settings
from sunloom.errors import NotFoundError, SunloomError, UsageError

app = typer.Typer(help="Show and check configuration.", no_args_is_help=True)

# Folder under conf/ to the class that its files load through.
KINDS = {
    "data": ("sunloom.config.data", "DataRecipe"),
    "features": ("sunloom.config.features", "FeaturesConfig"),
    "tabular": ("sunloom.config.tabular", "TabularRecipe"),
    "llm": ("sunloom.config.llm", "LlmRecipe"),
    "generation": ("sunloom.config.generation", "GenerationRecipe"),
    "agentic": ("sunloom.config.agents", "AgentsRecipe"),
    "monitoring": ("sunloom.config.monitoring", "MonitoringRecipe"),
    "validation": ("sunloom.config.data", "ValidationRecipe"),
    "preparation": ("sunloom.config.preprocessing.transformations", "PreparationRecipe"),
    "graph": ("sunloom.config.preprocessing.graph", "GraphRecipe"),
}


def recipe_class(kind: str) -> type[Settings]:
    """The configuration class of a kind of recipe.

    Raises:
        NotFoundError: No such kind; lists them.
    """
    if kind not in KINDS:
        raise NotFoundError(
            f"There is no kind of recipe {kind!r}.", param="kind", known=KINDS, name=kind
        )
    module, name = KINDS[kind]
    # Imported by name: a command loads the schema of its own recipe only.
    cls: type[Settings] = getattr(importlib.import_module(module), name)
    return cls


def kind_of(recipe: Path) -> str | None:
    """The kind of a recipe file: its folder's name, else the kind that knows all its keys."""
    for folder in recipe.absolute().parents:
        if folder.name in KINDS:
            return folder.name
    return _kind_by_keys(recipe) if recipe.is_file() else None


def _kind_by_keys(recipe: Path) -> str | None:
    try:
        tree = yaml.safe_load(recipe.read_text())
    except yaml.YAMLError:
        return None
    keys = set(tree) if isinstance(tree, dict) else set()
    # Settings may be in any recipe; only the other keys tell the kind.
    keys -= set(Settings.model_fields)
    kinds = [kind for kind in KINDS if keys and keys <= set(recipe_class(kind).model_fields)]
    return kinds[0] if len(kinds) == 1 else None


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
    results: list[tuple[str, str]] = []
    for recipe in chosen:
        problem = ""
        # A recipe's own key is no problem of the settings.
        own = sets if recipe or not recipes else [one for one in sets or () if _is_setting(one)]
        try:
            _load(recipe, kind if recipe else None, own, env)
        except SunloomError as error:
            problem = str(error)
        results.append((str(recipe) if recipe else "settings", problem))
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
    conf = find_conf_dir(os.environ)
    if not write:
        output.print_line(render_reference())
    elif conf is None:
        raise UsageError("There is no conf/ folder here.", "Run it in the project's root.")
    else:
        (conf / "README.md").write_text(render_reference())
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


def _is_setting(override: str) -> bool:
    """Whether ``a.b=value`` is about a key that all commands share."""
    return override.partition("=")[0].partition(".")[0] in Settings.model_fields


def _all_recipes() -> list[Path]:
    if (conf := find_conf_dir(os.environ)) is None:
        return []
    # By kind: env/ has layers, and serve/ has Ray Serve's own format.
    recipes = [path for kind in KINDS for path in sorted(conf.glob(f"{kind}/**/*.yaml"))]
    cwd = Path.cwd()
    return [path.relative_to(cwd) if path.is_relative_to(cwd) else path for path in recipes]


INTRO = f"""# Configuration

This file is made from the schema: `sunloom config reference --write`. A test compares the two.

A value comes from the last of these layers that sets it: the defaults below, `base.yaml`,
`env/<environment>.yaml`, the recipe file, a variable `SUNLOOM__A__B=c`, `--set a.b=c`.
`sunloom config show [RECIPE]` prints every value with its layer; the resolved copy lies beside
each run as `config.resolved.yaml`, secrets masked.

The environment is one of {", ".join(ENVIRONMENTS)}: `--env`, else `SUNLOOM_ENV`, else what
`base.yaml` says. `env/` holds only the differences from `base.yaml`.

`${{NAME}}` in YAML reads the process's environment; a missing variable is an error that names
the file, the key and the variable. An unknown key is an error that names the file, the key and
the nearest known one. `sunloom config check` loads every file here.

A recipe has the keys of its kind and those of the settings. Its folder says its kind.
"""

Row = tuple[str, str, str, str]
"""Key, type, default and meaning."""


def render_reference() -> str:
    """The whole reference as Markdown."""
    parts = [INTRO, _section("Settings", "Every recipe has these keys too.", Settings, set())]
    common = set(reference_rows(Settings))
    for kind in KINDS:
        cls = recipe_class(kind)
        summary = " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split())
        files = f"Files: `{kind}/*.yaml`. {summary}"
        parts.append(_section(f"{kind}/", files, cls, common))
    parts.append(
        "## serve/\n\nRay Serve's own format (`serve deploy FILE`): which `build` function of "
        "`serve_apps/` makes each app, with its arguments.\n"
    )
    return "\n".join(parts)


def reference_rows(cls: type[BaseModel], prefix: str = "") -> Iterator[Row]:
    """Key, type, default and meaning of every key, nested ones after their parent."""
    meanings = _meanings(cls)
    for name, field in cls.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        # A pipe would end the table's cell.
        meaning = " ".join(meanings.get(name, "").split()).replace("|", "\\|")
        yield key, type_name(field.annotation), default_text(field), meaning
        yield from _nested_rows(field.annotation, key)


def _meanings(cls: type[BaseModel]) -> dict[str, str]:
    """Key to the string below it in the source of the class or of its nearest base class."""
    # Read here, not by pydantic's use_attribute_docstrings: that parses the source of every class
    # whenever a process imports it, a third of what importing the command line took.
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is Model or not issubclass(base, Model):
            continue
        body = _class_definitions(base.__module__)[base.__name__].body
        for key, below in pairwise([*body, ast.Pass()]):
            if isinstance(key, ast.AnnAssign) and isinstance(key.target, ast.Name):
                # A key that a subclass declares anew without a string has no meaning of its own.
                meanings[key.target.id] = ""
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                    meanings[key.target.id] = str(below.value.value)
    return meanings


@cache
def _class_definitions(module: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def _nested_rows(annotation: Any, key: str) -> Iterator[Row]:
    many, models = _models(annotation)
    prefix = f"{key}[]." if many else f"{key}."
    for model in models:
        variant = _variant(model)
        for row in reference_rows(model, prefix):
            # The suffix names the variant already.
            if variant and row[0] == f"{prefix}type":
                continue
            suffix = f" (`type: {variant}`)" if variant else ""
            yield (f"{row[0]}{suffix}", *row[1:])


def _models(annotation: Any) -> tuple[bool, list[type[Model]]]:
    """Configuration classes inside an annotation, and whether they are elements of a list."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return False, [annotation]
    origin = get_origin(annotation)
    if origin is None or origin is Literal:
        return False, []
    arguments = get_args(annotation)[:1] if origin is Annotated else get_args(annotation)
    inner = [_models(argument) for argument in arguments]
    many = origin in (list, tuple, dict) or any(listed for listed, models in inner if models)
    return many, [model for _, models in inner for model in models]


def _variant(model: type[Model]) -> str | None:
    field = model.model_fields.get("type")
    choices = get_args(field.annotation) if field is not None else ()
    return str(choices[0]) if len(choices) == 1 else None


def type_name(annotation: Any) -> str:
    """A type in words that fit a table."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(argument) for argument in arguments))
    if origin in (list, tuple, set, frozenset):
        inner = [argument for argument in arguments if argument is not Ellipsis]
        return f"list of {type_name(inner[0])}" if inner else "list"
    if origin in (dict, Mapping) or annotation is dict:
        return "mapping"
    names = {Path: "path", SecretStr: "secret", types.NoneType: "empty", Any: "any"}
    if annotation in names:
        return names[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return "section"
    return str(getattr(annotation, "__name__", annotation))


def default_text(field: FieldInfo) -> str:
    """A field's default as YAML would have it; ``required`` where there is none."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    # The section's own rows show its defaults.
    if isinstance(value, Model):
        return ""
    if value is None:
        return "empty"
    if isinstance(value, list | tuple | dict) and not value:
        return "none"
    if isinstance(value, list | tuple):
        if any(isinstance(item, Model) for item in value):
            return ""
        return ", ".join(f"`{item}`" for item in value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _section(title: str, text: str, cls: type[Settings], without: set[Row]) -> str:
    lines = [f"## {title}", "", text, "", "| key | type | default | meaning |", "|---|---|---|---|"]
    for row in reference_rows(cls):
        # Keys of the settings are listed once, not again for every kind of recipe.
        if row not in without:
            key, _, variant = row[0].partition(" ")
            cell = f"`{key}` {variant}".strip()
            lines.append(f"| {cell} | {row[1]} | {row[2]} | {row[3]} |")
    return "\n".join([*lines, ""])
