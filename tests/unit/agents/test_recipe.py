"""The recipe of agents."""

from __future__ import annotations

from pathlib import Path

import pytest

from sunloom.config import load_config
from sunloom.config.agents import AgentsRecipe
from sunloom.errors import ConfigError, NotFoundError


def _load(project_root: Path, *sets: str) -> AgentsRecipe:
    path = project_root / "conf" / "agentic" / "retail.yaml"
    return load_config(AgentsRecipe, recipe=path, sets=sets, conf_dir=project_root / "conf").config


def test_the_retail_recipe_gives_a_whole_agent(project_root: Path) -> None:
    spec = _load(project_root).spec()
    assert (spec.name, spec.engine, spec.model) == ("retail", "crewai", "retail-agent")
    assert [tool.name for tool in spec.tools] == ["get_features", "predict"]
    assert len(spec.system_text().split()) < 40, "the demo's model has two million parameters"


def test_unknown_names_are_refused_with_the_known_ones(project_root: Path) -> None:
    with pytest.raises(NotFoundError, match="no agent 'sales'"):
        _load(project_root).spec("sales")
    with pytest.raises(NotFoundError, match="names the tool 'fly'"):
        _load(project_root, "agents=[{name: one, tools: [fly]}]").spec()


def test_only_the_coordination_that_works_is_accepted(project_root: Path) -> None:
    with pytest.raises(ConfigError, match=r"coordination\.strategy"):
        _load(project_root, "coordination.strategy=hierarchical")
