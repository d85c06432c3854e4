"""Agents behind the real gateway, and what other clients do to the engine that they share."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from gateway_fixture import RunningGateway
from sqlalchemy import select

from sunloom.agents.api import run_tasks
from sunloom.config.agents import AgentSpec, EngineName
from sunloom.config.llm_judges import LlmJudge
from sunloom.core.database import open_database
from sunloom.errors import ServingError
from sunloom.evaluation.llm_judge import LlmJudgment
from sunloom.evaluation.measurements import JudgedText
from sunloom.serving.auth.api_keys import create_key
from sunloom.serving.auth.rate_limits import UsageRow

pytestmark = pytest.mark.integration
QUESTION = "Should customer 1 get a voucher?"


@pytest.mark.parametrize("engine", ["crewai", "semantic_kernel"])
def test_an_agent_whose_model_is_not_served_is_refused_with_what_is_there(
    gateway: RunningGateway, engine: EngineName
) -> None:
    spec = AgentSpec(name="lost", model="retail-agnt", tools=("get_features", "predict"))
    with pytest.raises(ServingError, match="There is no model 'retail-agnt'") as refused:
        run_tasks(gateway.url, gateway.key, engine, [QUESTION], spec=spec, timeout_s=300)
    assert "retail-agent" in refused.value.hint
    assert refused.value.param == "model"


@pytest.mark.parametrize("engine", ["crewai", "semantic_kernel"])
def test_the_served_model_is_really_asked(gateway: RunningGateway, engine: EngineName) -> None:
    # The model of this fixture has random weights: it must be asked, not be right. What it says
    # rarely ends before max_tokens, and a cut-off answer fails the task.
    spec = AgentSpec(name="random", model="retail-agent", max_tokens=16, max_steps=2)
    [result] = run_tasks(gateway.url, gateway.key, engine, [QUESTION], spec=spec, timeout_s=300)
    answered = "model_call" in {event.type for event in result.events}
    assert answered or "cut off at max_tokens" in str(result.error), result


# About two seconds of work for the engine.
LONG = {"model": "tool-base", "prompt": "a", "n": 8, "max_tokens": 450, "ignore_eos": True}


def charged_tokens(gateway: RunningGateway, account: str) -> int:
    """The account's tokens in all, as soon as some are written."""
    query = select(UsageRow.tokens).where(UsageRow.account == account, UsageRow.minute == -1)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with open_database(gateway.settings).session() as session:
            if tokens := session.scalar(query):
                return int(tokens)
        time.sleep(0.05)
    raise AssertionError("no tokens were charged")


@pytest.mark.parametrize("is_streamed", [False, True])
def test_the_engine_stops_when_a_client_hangs_up(
    gateway: RunningGateway, is_streamed: bool
) -> None:
    first = gateway.call("POST", "/v1/completions", json=LONG | {"max_tokens": 2})
    assert first.json()["usage"]["completion_tokens"] == 16
    key, record = create_key(gateway.settings, ["llm"], "hasty")
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=60) as client:
        if is_streamed:
            # Long before the event with the usage.
            with client.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as stream:
                next(stream.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/completions", json=LONG, timeout=0.4)
    assert 0 < charged_tokens(gateway, record.account) < 3000


def test_a_cached_prompt_of_one_tenant_is_not_known_to_another(gateway: RunningGateway) -> None:
    keys = [create_key(gateway.settings, ["llm"], tenant)[0] for tenant in ("one", "one", "two")]
    body: dict[str, Any] = {"model": "tool-base", "prompt": "hello " * 200, "max_tokens": 1}

    def cached(key: str, **more: str) -> int:
        answer = gateway.call("POST", "/v1/completions", key, json=body | more).json()
        return int((answer["usage"]["prompt_tokens_details"] or {}).get("cached_tokens") or 0)

    assert cached(keys[0]) == 0
    assert cached(keys[1]) >= 128
    assert cached(keys[2]) == 0
    # Nor with a salt of its own choice.
    assert cached(keys[1], cache_salt="a") == 0
    assert cached(keys[2], cache_salt="a") == 0


def test_errors_of_the_engine_name_the_field(gateway: RunningGateway) -> None:
    for field, value in (("temperature", "hot"), ("stop", 5), ("top_logprobs", "x")):
        body = {"model": "tool-base", "messages": [{"role": "user", "content": "a"}], field: value}
        error = gateway.call("POST", "/v1/chat/completions", json=body).json()["error"]
        assert error["param"] == field
        assert error["message"].startswith(field)
        assert "{" not in error["message"]


def test_the_served_model_judges_answers_in_the_schemas_words(gateway: RunningGateway) -> None:
    """Its weights are random: what it prefers means nothing, but every verdict can be read."""
    rubric = {"name": "clear", "description": "5 is clear"}
    judge = LlmJudge.model_validate(
        {
            "base_url": f"{gateway.url}/v1", "model": "tool-base", "reasons": False,
            "api_key": gateway.key, "rubrics": [rubric], "max_tokens": 48,
            "prices": {"input_usd": 1},
        }
    )  # fmt: skip
    both = [
        [JudgedText("a?", "b", text, 0.0) for text in texts] for texts in (("b", "c"), ("d", "b"))
    ]
    verdicts = LlmJudgment(judge).judge(dict(zip("xy", both, strict=True)))
    report = verdicts.report
    assert (report.verdicts, report.unparsed, report.failed, report.pairs) == (8, 0, 0, 2)
    assert {*verdicts.measurements["y"][0].values} <= {0.0, 0.5, 1.0}
    assert {*verdicts.measurements["y"][1].values} <= {1.0, 2.0, 3.0, 4.0, 5.0}
    assert report.cost_usd == pytest.approx(report.prompt_tokens / 1e6)
    assert report.prompt_tokens > 8 * 50
