"""Where in the source a feature or an expression was written."""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path
from typing import Any

import chalk

from sunloom.errors import DefinitionError

_LIBRARY = str(Path(chalk.__file__).parent)


def feature_location(feature: Any) -> str:
    """``file:line`` of the feature in its class."""
    owner = feature.features_cls
    file = str(getattr(owner, "__chalk_filename__", "") or "")
    line = _lines(file, owner.__name__).get(feature.attribute_name.split("__")[0])
    line = _lines(file, owner.__name__).get(feature.attribute_name, line)
    return f"{file}:{line}" if line else file


def expression_location(expression: Any, feature: Any) -> str:
    """``file:line`` of the expression's own part, else of its feature."""
    for node in _parts(expression):
        place = node.definition_location()
        if place is not None and not place.file.startswith(_LIBRARY):
            return f"{place.file}:{place.line}"
    return feature_location(feature)


def refuse(feature: Any, construct: str, instead: str, expression: Any = None) -> DefinitionError:
    """The error of a construct that cannot be bound: feature, construct, file, line, what else."""
    where = feature_location(feature)
    if expression is not None:
        where = expression_location(expression, feature)
    return DefinitionError(f"{where}: feature {feature.fqn}: {construct}.", instead, feature.fqn)


def _parts(expression: Any) -> list[Any]:
    """The node and its descendants, breadth first; nodes made inside chalkpy bear its own lines."""
    from chalk.features.underscore import Underscore

    waiting, found = [expression], []
    while waiting:
        node = waiting.pop(0)
        if not isinstance(node, Underscore):
            continue
        found.append(node)
        held = node.__dict__
        waiting.extend(held.get("_chalk__args", ()))
        waiting.extend(held.get("_chalk__key", ()))
        waiting.extend(held[name] for name in ("_chalk__parent", "_chalk__value") if name in held)
    return found


@lru_cache(maxsize=64)
def _lines(file: str, class_name: str) -> dict[str, int]:
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
