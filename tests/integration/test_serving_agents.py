"""Agents behind the real gateway: what happens when their model is not there."""

from __future__ import annotations

import pytest
from gateway_fixture import RunningGateway

from sunloom.agents.api import run_tasks
from sunloom.config.agents import AgentSpec, EngineName

pytestmark = pytest.mark.integration
QUESTION = "Should customer 1 get a voucher?"


@pytest.mark.parametrize("engine", ["crewai", "semantic_kernel"])
def test_without_its_adapter_the_agent_fails_and_says_what_is_there(
    gateway: RunningGateway, engine: EngineName
) -> None:
    spec = AgentSpec(name="lost", model="retail-agnt", tools=("get_features", "predict"))
    [result] = run_tasks(gateway.url, gateway.key, engine, [QUESTION], spec=spec, timeout_s=300)
    assert result.status == "failed"
    assert result.answer is None
    assert result.error is not None
    assert "retail-agent" in str(result.error), result.error


@pytest.mark.parametrize("engine", ["crewai", "semantic_kernel"])
def test_the_served_model_is_really_asked(gateway: RunningGateway, engine: EngineName) -> None:
    # The model of this fixture has random weights: it must be asked, not be right. What it says
    # rarely ends before max_tokens, and a cut-off answer fails the task.
    spec = AgentSpec(name="random", model="retail-agent", max_tokens=16, max_steps=2)
    [result] = run_tasks(gateway.url, gateway.key, engine, [QUESTION], spec=spec, timeout_s=300)
    answered = "model_call" in {event.type for event in result.events}
    assert answered or "cut off at max_tokens" in str(result.error), result
