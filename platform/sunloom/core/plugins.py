"""Entry points, typed: how data sets, features, tools and sinks come in from outside.

A cluster's workers run from a shipped source tree that nobody pip-installed, so the entry points
of a ``pyproject.toml`` in the working directory count beside the installed ones.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from sunloom.errors import NotFoundError, PluginError

GROUPS = (
    "sunloom.datasets",
    "sunloom.features",
    "sunloom.conversations",
    "sunloom.llm.base_models",
    "sunloom.tools",
    "sunloom.algorithms",
    "sunloom.alert_sinks",
    "sunloom.trackers",
    "sunloom.optimizers",
    "sunloom.metrics",
    "sunloom.safety_classifiers",
    "sunloom.rewards",
    "sunloom.checks",
)


def plugin_names(group: str) -> list[str]:
    """Names that the group offers, sorted."""
    return sorted(_points(group))


def load_plugin(group: str, name: str, kind: type | None = None) -> Any:
    """Import and return a plugin.

    Args:
        group: One of ``GROUPS``.
        name: The entry point's name.
        kind: A class or runtime-checkable Protocol that the object must satisfy.

    Raises:
        NotFoundError: The group has no such name; the known ones are listed.
        PluginError: The import fails, or the object is not a ``kind``.
    """
    point = _point(group, name)
    plugin = f"Plugin {name!r} of {group} ({point.value})"
    try:
        loaded = point.load()
    except (ImportError, AttributeError) as error:
        raise PluginError(f"{plugin} cannot be loaded: {error}") from error
    if kind is not None and not isinstance(loaded, kind):
        raise PluginError(f"{plugin} is a {type(loaded).__name__}, not a {kind.__name__}.")
    return loaded


def plugin_value(group: str, name: str) -> str:
    """The import path behind an entry point, without importing it."""
    return _point(group, name).value


def _point(group: str, name: str) -> EntryPoint:
    points = _points(group)
    if name not in points:
        raise NotFoundError(f"No plugin {name!r} in {group}.", known=points, name=name)
    return points[name]


def _points(group: str) -> dict[str, EntryPoint]:
    if group not in GROUPS:
        raise PluginError(f"There is no plugin group {group!r}.", f"Known: {', '.join(GROUPS)}")
    found = {point.name: point for point in _source_tree_points(Path.cwd()) if point.group == group}
    return found | {point.name: point for point in entry_points(group=group)}


@cache
def _source_tree_points(folder: Path) -> tuple[EntryPoint, ...]:
    path = folder / "pyproject.toml"
    if not path.is_file():
        return ()
    declared = tomllib.loads(path.read_text()).get("project", {}).get("entry-points", {})
    return tuple(
        EntryPoint(name=name, value=value, group=group)
        for group, points in declared.items()
        for name, value in points.items()
    )
