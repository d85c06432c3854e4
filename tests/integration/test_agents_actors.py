"""Agents as Ray actors behind the guarded app, on a scripted model, and a real kill -9."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
import ray

from sunloom.agents.actors import NAMESPACE, ActorStatus
from sunloom.agents.api import AgentsClient
from sunloom.config import Settings
from sunloom.config.agents import AgentSpec, EngineName
from sunloom.serving.auth.api_keys import create_key
from tests.unit.agents import scripted
from tests.unit.agents.front import agents_app, wait

pytestmark = pytest.mark.integration

ENGINES: tuple[EngineName, ...] = ("semantic_kernel", "crewai")
TASKS = [f"Should customer {number} get a voucher?" for number in (4711, 4712)]


def _spec(engine: EngineName, **changes: Any) -> AgentSpec:
    return AgentSpec.model_validate(
        {
            "name": "retail",
            "engine": engine,
            "tools": [
                {"name": "get_features", "options": {"features": ["recency_days"]}},
                "predict",
            ],
            **changes,
        }
    )


def _actor_status(agent_id: str) -> ActorStatus:
    actor = ray.get_actor(agent_id, namespace=NAMESPACE)
    status: ActorStatus = ray.get(actor.status.remote(), timeout=60)
    return status


def _stop_actor(agent_id: str) -> None:
    # Ray restarts the actor after any other death.
    ray.kill(ray.get_actor(agent_id, namespace=NAMESPACE), no_restart=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_tasks_run_in_an_actor_and_stream_their_events(
    ray_local: str, settings: Settings, engine: EngineName
) -> None:
    key, _ = create_key(settings, ["agents", "llm", "features", "models"])
    agents = settings.serving.agents.model_copy(update={"idle_s": 3.0})
    serving = settings.serving.model_copy(update={"agents": agents})
    settings = settings.model_copy(update={"serving": serving})
    with (
        scripted.serve() as gateway,
        agents_app(settings, gateway.url) as url,
        AgentsClient(url, key) as client,
    ):
        agent_id = client.create(_spec(engine))
        tasks = [client.post_task(agent_id, text) for text in TASKS]
        results = [client.follow(agent_id, task_id, timeout_s=300) for task_id in tasks]
        pid = _actor_status(agent_id).pid
        assert pid != os.getpid()
        # It ends after three seconds without tasks, and the next task starts another process.
        wait(lambda: not os.path.exists(f"/proc/{pid}"), 60)
        task_id = client.post_task(agent_id, TASKS[0])
        assert client.follow(agent_id, task_id, timeout_s=300).answer == "Yes."
        pid = _actor_status(agent_id).pid
        client.delete(agent_id)
        wait(lambda: not os.path.exists(f"/proc/{pid}"), 60)
        with pytest.raises(ValueError, match="Failed to look up actor"):
            ray.get_actor(agent_id, namespace=NAMESPACE)
    assert [result.answer for result in results] == ["Yes.", "No."]
    assert all(result.usage["prompt_tokens"] == 30 for result in results)
    for result in results:
        assert [event.seq for event in result.events] == list(range(1, 9))
        types = [event.type for event in result.events]
        assert types == [
            "queued", "started", "model_call", "tool_call", "model_call", "tool_call",
            "model_call", "succeeded",
        ]  # fmt: skip
    bearer = {
        headers.get("authorization")
        for _, path, headers in gateway.requests
        if not path.startswith("/v1/models/")
    }
    assert len(bearer) == 1, "one delegated key for all calls of this agent"
    assert bearer != {f"Bearer {key}"}, "the caller's own key never reaches the agent"


@pytest.mark.faults(kills=2, share=0.08)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_killed_actor_resumes_and_repeats_no_finished_call(
    ray_local: str, settings: Settings, engine: EngineName, fault_seed: int
) -> None:
    # Before the first tool call, between the two, or after them.
    finished = 2 - fault_seed % 3
    key, _ = create_key(settings, ["agents", "llm", "features", "models"])
    released = threading.Event()

    def script(body: dict[str, Any]) -> dict[str, Any]:
        if len(scripted.results(body)) == finished and not released.is_set():
            # This model call hangs until the actor is dead.
            released.wait(300)
        return scripted.voucher(body)

    with (
        scripted.serve(script) as gateway,
        agents_app(settings, gateway.url) as url,
        AgentsClient(url, key) as client,
    ):
        agent_id = client.create(_spec(engine))
        task_id = client.post_task(agent_id, TASKS[0])
        wait(lambda: len(gateway.completions) == finished + 1, 300)
        first = _actor_status(agent_id)
        assert first.running == [task_id]
        os.kill(first.pid, signal.SIGKILL)
        wait(lambda: not os.path.exists(f"/proc/{first.pid}"), 60)
        released.set()
        result = client.follow(agent_id, task_id, timeout_s=300)
        assert _actor_status(agent_id).pid != first.pid
        assert client.task(agent_id, task_id).attempts == 2
        _stop_actor(agent_id)
    assert (result.status, result.answer) == ("succeeded", "Yes.")
    assert len(gateway.completions) == 4, "only the call that was under way is made again"
    assert len(gateway.paths("/features/")) == 1
    assert len(gateway.paths("/predict/")) == 1
    types = [event.type for event in result.events]
    assert types.count("requeued") == 1
    assert types.count("tool_call") == 2
    assert types.count("model_call") == 3
    assert result.usage == {"prompt_tokens": 30, "completion_tokens": 15}
