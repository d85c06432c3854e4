"""Locations in the source of features and expressions, for errors."""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path
from typing import Any

import chalk
from chalk.features.underscore import Underscore

from sunloom.errors import DefinitionError

_LIBRARY = str(Path(chalk.__file__).parent)


def feature_location(feature: Any) -> str:
    """``file:line`` of the feature in its class."""
    owner = feature.features_cls
    file = str(getattr(owner, "__chalk_filename__", "") or "")
    lines = _lines_of(file, owner.__name__)
    # A window's feature has a name such as `x__3600__`; it is declared as `x`.
    line = lines.get(feature.attribute_name) or lines.get(feature.attribute_name.split("__")[0])
    return f"{file}:{line}" if line else file


def expression_location(expression: Any, feature: Any) -> str:
    """``file:line`` of the outermost part with a location of its own, else of the feature."""
    for node in _parts(expression):
        place = node.definition_location()
        # Parts that chalkpy's own functions made are located inside chalkpy.
        if place is not None and not place.file.startswith(_LIBRARY):
            return f"{place.file}:{place.line}"
    return feature_location(feature)


def refuse(feature: Any, construct: str, instead: str, expression: Any = None) -> DefinitionError:
    """The error of a construct that cannot be bound.

    Args:
        feature: The chalkpy feature.
        construct: What is not supported.
        instead: What to write instead.
        expression: The part of the feature's expression to locate; else the feature is.
    """
    location = (
        feature_location(feature)
        if expression is None
        else expression_location(expression, feature)
    )
    return DefinitionError(f"{location}: feature {feature.fqn}: {construct}.", instead, feature.fqn)


def _parts(expression: Any) -> list[Any]:
    """The node and its descendants, breadth first."""
    waiting, parts = [expression], []
    while waiting:
        node = waiting.pop(0)
        if not isinstance(node, Underscore):
            continue
        parts.append(node)
        attributes = node.__dict__
        waiting.extend(attributes.get("_chalk__args", ()))
        waiting.extend(attributes.get("_chalk__key", ()))
        for name in ("_chalk__parent", "_chalk__value"):
            if name in attributes:
                waiting.append(attributes[name])
    return parts


# chalkpy knows no lines of features; the cache saves a parse of the file per refused feature.
@lru_cache(maxsize=64)
def _lines_of(file: str, class_name: str) -> dict[str, int]:
    try:
        tree = ast.parse(Path(file).read_text())
    except (OSError, SyntaxError, ValueError):
        return {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return {
                item.target.id: item.lineno
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
    return {}
