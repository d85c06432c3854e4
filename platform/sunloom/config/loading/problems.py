"""Problems of a configuration as sentences that name file, key and what would fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError

from sunloom.config.loading.model import Model
from sunloom.errors import nearest

_CREDENTIALS = re.compile(r"://[^/@\s]*@")


def describe_problems(
    error: ValidationError, kind: type[BaseModel], origins: Mapping[str, str], whole: str
) -> str:
    """One line a problem: where the value came from, its key, and what is wrong with it.

    Args:
        error: pydantic's.
        kind: The configuration class.
        origins: Dotted key to the layer that set it.
        whole: Name of the place where a key is missing that no layer has.
    """
    lines = [_describe(problem, kind, origins, whole) for problem in error.errors()]
    # pydantic reports a problem once for each member of a union that it tried.
    return "\n".join(dict.fromkeys(lines))


def is_known(kind: type[BaseModel], key: str) -> bool:
    """Whether a dotted key names a field of the configuration class."""
    models: list[type[BaseModel]] = [kind]
    for part in key.split("."):
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if not fields:
            return False
        models = [model for field in fields for model in _models(field.annotation)]
    return True


def _describe(problem: Any, kind: type[BaseModel], origins: Mapping[str, str], whole: str) -> str:
    location, models = _walk(kind, problem["loc"])
    key = ".".join(location)
    source = _origin(key, origins, whole)
    if problem["type"] == "extra_forbidden":
        return f"{source}: unknown key {key!r}.{_suggest(location, models)}"
    if problem["type"] == "missing":
        return f"{source}: key {key!r} is missing."
    value = problem.get("input")
    got = ""
    if isinstance(value, str | int | float | bool) and not _is_secret(kind, problem["loc"]):
        # A URL that is refused because it holds a password must not be the place that shows it.
        got = f" (got {_CREDENTIALS.sub('://***@', repr(value))})"
    return f"{source}: key {key!r}: {problem['msg']}{got}"


def _is_secret(kind: type[BaseModel], path: tuple[int | str, ...]) -> bool:
    """Whether a field on the way to the problem is a secret, alone or inside a mapping."""
    models: list[type[BaseModel]] = [kind]
    for part in map(str, path):
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if any(_mentions_secret(field.annotation) for field in fields):
            return True
        # A part that is no field is a union's tag, an index or a mapping's key.
        models = [model for field in fields for model in _models(field.annotation)] or models
    return False


def _mentions_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(map(_mentions_secret, get_args(annotation)))


def _origin(key: str, origins: Mapping[str, str], whole: str) -> str:
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in origins:
            return origins[prefix]
        # A section that is wrong as a whole came from the layer of its first key.
        below = [origins[name] for name in origins if name.startswith(prefix + ".")]
        if below:
            return below[0]
    return whole


def _suggest(location: list[str], models: list[type[BaseModel]]) -> str:
    *parents, key = location
    known = sorted(
        {field.alias or name for model in models for name, field in model.model_fields.items()}
    )
    if not known:
        return ""
    renamed = {
        old: new
        for model in models
        if issubclass(model, Model)
        for old, new in model.renamed.items()
    }
    if key in renamed:
        return f" It is now {_present_name(parents, renamed[key])!r}."
    if close := nearest(key, [*known, *renamed]):
        return f" Did you mean {_present_name(parents, renamed.get(close, close))!r}?"
    return f" Known here: {', '.join(known)}"


def _present_name(parents: list[str], name: str) -> str:
    return name[1:] if name.startswith(".") else ".".join([*parents, name])


def _walk(
    kind: type[BaseModel], path: tuple[int | str, ...]
) -> tuple[list[str], list[type[BaseModel]]]:
    """The dotted key without union tags, and the models that could hold its last part."""
    models: list[type[BaseModel]] = [kind]
    parents, location = models, list[str]()
    for part in path:
        text = str(part)
        fields = [model.model_fields[text] for model in models if text in model.model_fields]
        # pydantic puts the tag of a union's variant into the path as if it were a key.
        is_tag = any(_has_tag(model, text) or model.__name__ == text for model in models)
        if not fields and is_tag:
            models = [model for model in models if _has_tag(model, text)] or models
            parents = models
            continue
        location.append(text)
        parents = models
        if fields:
            models = [model for field in fields for model in _models(field.annotation)]
    return location or ["(root)"], parents


def _has_tag(model: type[BaseModel], text: str) -> bool:
    field = model.model_fields.get("type")
    return field is not None and text in get_args(field.annotation)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Every model class inside an annotation, through unions, lists, mappings and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated, list, dict, tuple):
        return [model for argument in get_args(annotation) for model in _models(argument)]
    return []
