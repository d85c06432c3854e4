"""Reference of the configuration (``conf/README.md``), generated from the schema."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from sunloom.cli.recipes import KINDS, recipe_class
from sunloom.config.loading.load import ENVIRONMENTS
from sunloom.config.loading.model import Model
from sunloom.config.settings import Settings

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


def render() -> str:
    """The whole reference as Markdown."""
    parts = [INTRO, _section("Settings", "Every recipe has these keys too.", Settings, set())]
    common = set(rows(Settings))
    for kind in KINDS:
        cls = recipe_class(kind)
        files = f"Files: `{kind}/*.yaml`. {first_paragraph(cls)}"
        parts.append(_section(f"{kind}/", files, cls, common))
    parts.append(
        "## serve/\n\nRay Serve's own format (`serve deploy FILE`): which `build` function of "
        "`serve_apps/` makes each app, with its arguments.\n"
    )
    return "\n".join(parts)


def first_paragraph(cls: type) -> str:
    """The first paragraph of a class's docstring on one line."""
    return " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split())


def rows(cls: type[BaseModel], prefix: str = "") -> Iterator[Row]:
    """Key, type, default and meaning of every key, nested ones after their parent."""
    for name, field in cls.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        yield key, type_name(field.annotation), default(field), _one_line(field.description)
        yield from _nested_rows(field.annotation, key)


def _nested_rows(annotation: Any, key: str) -> Iterator[Row]:
    many, models = _models(annotation)
    prefix = f"{key}[]." if many else f"{key}."
    for model in models:
        variant = _variant(model)
        for row in rows(model, prefix):
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
    return _simple_name(annotation)


def _simple_name(annotation: Any) -> str:
    names = {Path: "path", SecretStr: "secret", types.NoneType: "empty", Any: "any"}
    if annotation in names:
        return names[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return "section"
    return str(getattr(annotation, "__name__", annotation))


def default(field: FieldInfo) -> str:
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


def _one_line(text: str | None) -> str:
    # A pipe would end the table's cell.
    return " ".join((text or "").split()).replace("|", "\\|")


def _section(title: str, text: str, cls: type[Settings], without: set[Row]) -> str:
    lines = [f"## {title}", "", text, "", "| key | type | default | meaning |", "|---|---|---|---|"]
    for row in rows(cls):
        # Keys of the settings are listed once, not again for every kind of recipe.
        if row not in without:
            key, _, variant = row[0].partition(" ")
            cell = f"`{key}` {variant}".strip()
            lines.append(f"| {cell} | {row[1]} | {row[2]} | {row[3]} |")
    return "\n".join([*lines, ""])
