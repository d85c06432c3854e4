"""Recipes of the demo, loaded from ``conf/``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sunloom.config import Settings, load_config
from sunloom.config.agents import AgentsRecipe
from sunloom.config.data import DataRecipe
from sunloom.config.features import FeaturesRecipe
from sunloom.config.llm import LlmRecipe
from sunloom.config.loading.load import find_conf_dir
from sunloom.config.loading.problems import is_known
from sunloom.config.monitoring import MonitoringRecipe
from sunloom.config.tabular import TabularRecipe
from sunloom.errors import UsageError

R = TypeVar("R", bound=Settings)


@dataclass(frozen=True)
class LanguageModelChoice:
    """A base model that the demo can build its agent on.

    Attributes:
        base: Its entry point in ``sunloom.llm.base_models``, and its name in the registry.
        adapter: Recipe of the adapter, below ``conf/``.
    """

    base: str
    adapter: str


MODELS: Mapping[str, LanguageModelChoice] = {
    "small": LanguageModelChoice("tool-base", "llm/retail_agent.yaml"),
    "smollm2": LanguageModelChoice("smollm2-135m-instruct", "llm/retail_smollm2.yaml"),
}
"""Values of ``sunloom demo --model``."""


@dataclass(frozen=True)
class DemoRecipes:
    """One recipe a room.

    Attributes:
        model: The base model that the adapter is trained on.
        base_model: Recipe that builds the small base model from scratch.
    """

    model: LanguageModelChoice
    data: DataRecipe
    features: FeaturesRecipe
    tabular: TabularRecipe
    base_model: LlmRecipe
    adapter: LlmRecipe
    agents: AgentsRecipe
    monitoring: MonitoringRecipe


# One of each: two recipes of a kind take the same assignments.
KINDS = (
    DataRecipe,
    FeaturesRecipe,
    TabularRecipe,
    LlmRecipe,
    AgentsRecipe,
    MonitoringRecipe,
)


def relevant_assignments(kind: type[Settings], sets: Sequence[str]) -> list[str]:
    """Assignments for a class: those whose key it has, and those whose key no recipe has.

    The latter reach the loader, which says what is wrong with them.
    """
    relevant = []
    for assignment in sets:
        key = assignment.partition("=")[0]
        if is_known(kind, key) or not any(is_known(other, key) for other in KINDS):
            relevant.append(assignment)
    return relevant


def load_demo_recipes(sets: Sequence[str] = (), model: str = "small") -> DemoRecipes:
    """Load every recipe of the demo, each with the assignments whose keys it has.

    Args:
        sets: ``a.b=c`` assignments.
        model: A key of ``MODELS``.

    Raises:
        UsageError: There is no ``conf/`` folder above the working directory.
        ConfigError: A recipe cannot be used.
    """
    folder = find_conf_dir(os.environ)
    if folder is None:
        raise UsageError(
            "There is no conf/ folder here or above.", "Run it in a checkout, or set SUNLOOM_CONF."
        )

    def load(kind: type[R], path: str) -> R:
        # Sections are closed: an assignment for another recipe would be an unknown key.
        assignments = relevant_assignments(kind, sets)
        recipe = folder / Path(path)
        return load_config(kind, recipe=recipe, sets=assignments, conf_dir=folder).config

    return DemoRecipes(
        model=MODELS[model],
        data=load(DataRecipe, "data/cdnow.yaml"),
        features=load(FeaturesRecipe, "features/customer.yaml"),
        tabular=load(TabularRecipe, "tabular/repurchase.yaml"),
        base_model=load(LlmRecipe, "llm/tool_base.yaml"),
        adapter=load(LlmRecipe, MODELS[model].adapter),
        agents=load(AgentsRecipe, "agentic/retail.yaml"),
        monitoring=load(MonitoringRecipe, "monitoring/drift.yaml"),
    )
