"""Table of recipe kinds: the configuration class of each, and the kind of a file."""

from __future__ import annotations

import importlib
from pathlib import Path

import yaml

from sunloom.config.settings import Settings
from sunloom.errors import NotFoundError

# Folder under conf/ to the class that its files load through.
KINDS = {
    "data": ("sunloom.config.data.cleaning", "DataRecipe"),
    "features": ("sunloom.config.features.materialization", "FeaturesRecipe"),
    "tabular": ("sunloom.config.tabular", "TabularRecipe"),
    "llm": ("sunloom.config.llm", "LlmRecipe"),
    "agentic": ("sunloom.config.agents", "AgentsRecipe"),
    "monitoring": ("sunloom.config.monitoring.recipe", "MonitoringRecipe"),
    "validation": ("sunloom.config.data.validation", "ValidationRecipe"),
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
