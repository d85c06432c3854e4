"""The agents' routes behind the real guard, over real HTTP, with agents in this process."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from sunloom.agents.api import AgentsClient, run_recipe
from sunloom.agents.store import AgentRow, AgentStore
from sunloom.config import Settings
from sunloom.config.agents import AgentSpec, AgentsRecipe
from sunloom.core.database import open_database
from sunloom.errors import UsageError
from sunloom.serving.auth.api_keys import create_key, list_keys
from tests.unit.agents import scripted
from tests.unit.agents.front import LocalHosts, NoHosts, agents_app, wait

SCOPES = ["agents", "llm", "features", "models"]
SPEC: dict[str, Any] = {
    "name": "retail",
    "engine": "semantic_kernel",
    "tools": ["get_features", {"name": "predict", "options": {"decimals": 2}}],
}


@dataclass
class _Front:
    url: str
    key: str
    settings: Settings
    gateway: scripted.ScriptedGateway

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120)


@pytest.fixture
def front(settings: Settings) -> Iterator[_Front]:
    key, _ = create_key(settings, SCOPES, tenant="acme")
    hosts = LocalHosts(AgentStore(open_database(settings)))
    with scripted.serve() as gateway, agents_app(settings, gateway.url, hosts) as url:
        yield _Front(url, key, settings, gateway)


def test_a_task_from_its_creation_to_its_answer(front: _Front) -> None:
    with front.client() as http:
        created = http.post("/agents/create", json=SPEC)
        assert created.status_code == 201
        agent = created.json()
        assert (agent["name"], agent["engine"]) == ("retail", "semantic_kernel")
        url = f"/agents/{agent['agent_id']}"
        accepted = http.post(f"{url}/task", json={"task": "Should customer 4711 get one?"})
        assert accepted.status_code == 202
        body = accepted.json()
        assert body["status"] == "queued"
        events = http.get(body["events_url"]).text
        task = http.get(body["url"]).json()
        status = http.get(f"{url}/status").json()
        listed = http.get("/agents").json()["agents"]
    assert (task["status"], task["answer"]) == ("succeeded", "Yes.")
    assert status["tasks"]["succeeded"] == 1
    assert status["latest"][0]["task_id"] == body["task_id"]
    assert [row["agent_id"] for row in listed] == [agent["agent_id"]]
    blocks = events.strip().split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [f"id: {n}" for n in range(1, 9)]
    assert blocks[-1].splitlines()[1] == "event: succeeded"
    last = json.loads(blocks[-1].splitlines()[2].removeprefix("data: "))
    assert last["data"]["answer"] == "Yes."


def test_a_stream_resumes_after_the_last_event(front: _Front) -> None:
    with AgentsClient(front.url, front.key) as client, front.client() as http:
        agent = client.create(AgentSpec.model_validate(SPEC))
        task = client.post_task(agent, "Should customer 4711 get a voucher?")
        result = client.follow(agent, task, timeout_s=120)
        assert [event.seq for event in client.events(agent, task, after=6)] == [7, 8]
        assert list(client.events(agent, task, after=8)) == []
        url = f"/agents/{agent}/tasks/{task}/events"
        assert http.get(url, params={"after": 7}).text.count("id: ") == 1
    assert [event.seq for event in result.events] == list(range(1, 9))


def test_an_idempotency_key_creates_once(front: _Front) -> None:
    with front.client() as http:
        headers = {"Idempotency-Key": "one"}
        first = http.post("/agents/create", json=SPEC, headers=headers)
        again = http.post("/agents/create", json=SPEC, headers=headers)
        assert first.json() == again.json()
        other = http.post("/agents/create", json={**SPEC, "name": "x"}, headers=headers)
        assert other.status_code == 400
        assert "used with another body" in other.json()["error"]["message"]
        url = f"/agents/{first.json()['agent_id']}/task"
        tasks = [
            http.post(url, json={"task": "customer 1"}, headers=headers).json()["task_id"]
            for _ in range(3)
        ]
        assert len(set(tasks)) == 1
        assert http.post(url, json={"task": "customer 1"}).json()["task_id"] not in tasks
        assert len(http.get("/agents").json()["agents"]) == 1


def test_agents_act_with_a_short_lived_key_of_their_own(front: _Front) -> None:
    with AgentsClient(front.url, front.key) as client:
        agent = client.create(AgentSpec.model_validate(SPEC))
        for number in (1, 2):
            task = client.post_task(agent, f"customer {number}")
            client.follow(agent, task, timeout_s=120)
    sent = {
        headers["authorization"]
        for _, path, headers in front.gateway.requests
        if not path.startswith("/v1/models/")
    }
    assert len(sent) == 1
    assert f"Bearer {front.key}" not in sent
    delegated = [
        key for key in list_keys(front.settings, delegated=True) if key.purpose.startswith("agent ")
    ]
    assert len(delegated) == 1
    assert set(delegated[0].scopes) == {"llm", "features", "models"}
    assert delegated[0].tenant == "acme"
    assert delegated[0].expires_at is not None


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({**SPEC, "tools": ["get_feature"]}, 404, "No plugin 'get_feature'"),
        ({**SPEC, "model": "retail-agnt"}, 404, "Did you mean 'retail-agent'?"),
        ({**SPEC, "engine": "langgraph"}, 422, "engine"),
        ({**SPEC, "nmae": "x"}, 422, "nmae"),
        ({**SPEC, "tools": [{"name": "predict", "options": {"x": 1}}]}, 400, "Options"),
    ],
)
def test_a_wrong_agent_is_refused_by_name(
    front: _Front, body: dict[str, Any], status: int, message: str
) -> None:
    with front.client() as http:
        answer = http.post("/agents/create", json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert message in error["message"] + error["hint"]


def test_wrong_keys_tenants_and_ids_are_refused(front: _Front) -> None:
    weak, _ = create_key(front.settings, ["agents", "llm"], tenant="acme")
    stranger, _ = create_key(front.settings, SCOPES, tenant="other")
    with front.client() as http:
        agent = http.post("/agents/create", json=SPEC).json()["agent_id"]
        assert http.get("/agents/agent_1/status").status_code == 404
        assert http.get(f"/agents/{agent}/tasks/task_1").status_code == 404
        assert http.post(f"/agents/{agent}/task", json={"task": ""}).status_code == 422
    with front.client(weak) as http:
        refused = http.post(f"/agents/{agent}/task", json={"task": "customer 1"})
        assert refused.status_code == 403
        assert "features, models" in refused.json()["error"]["message"]
    with front.client(stranger) as http:
        assert http.get(f"/agents/{agent}/status").status_code == 404
        assert http.get("/agents").json() == {"agents": []}
    with front.client("sl-wrong") as http:
        assert http.get("/agents").status_code == 401
    assert httpx.get(f"{front.url}/agents").status_code == 401


def test_cancel_and_approve_over_http(front: _Front) -> None:
    spec = {**SPEC, "tools": ["get_features", {"name": "predict", "approval": True}]}
    with AgentsClient(front.url, front.key) as client, front.client() as http:
        agent = client.create(AgentSpec.model_validate(spec))
        task = client.post_task(agent, "Should customer 4711 get a voucher?")
        url = f"/agents/{agent}/tasks"
        for event in client.events(agent, task):
            if event.type == "approval_required":
                assert event.data["tool"] == "predict"
                assert http.post(f"{url}/{task}/approve", json={}).status_code == 200
        assert client.task(agent, task).answer == "Yes."
        refused = http.post(f"{url}/{task}/approve", json={})
        assert "waits for no approval" in refused.json()["error"]["message"]
        second = client.post_task(agent, "Should customer 4711 get a voucher?")
        for event in client.events(agent, second):
            if event.type == "approval_required":
                assert http.post(f"{url}/{second}/cancel").status_code == 202
        assert client.task(agent, second).status == "cancelled"


def test_a_recipe_runs_through_the_gateway(front: _Front, monkeypatch: pytest.MonkeyPatch) -> None:
    agents = [{"name": "retail", "engine": "semantic_kernel"}]
    recipe = AgentsRecipe.model_validate(
        {
            "agents": agents,
            "tools": ["get_features", "predict"],
            "tasks": ["customer 1", "customer 2"],
            "gateway": {"url": front.url},
        }
    )
    monkeypatch.delenv("SUNLOOM_API_KEY", raising=False)
    with pytest.raises(UsageError, match="no key"):
        run_recipe(recipe)
    monkeypatch.setenv("SUNLOOM_API_KEY", front.key)
    assert [result.answer for result in run_recipe(recipe)] == ["Yes.", "No."]
    with front.client() as http:
        assert http.get("/agents").json() == {"agents": []}, "its agent is deleted"


def test_the_schema_names_every_route(front: _Front) -> None:
    with front.client() as http:
        paths = http.get("/agents/openapi.json").json()["paths"]
    assert sorted(paths) == [
        "/agents",
        "/agents/create",
        "/agents/{agent_id}",
        "/agents/{agent_id}/status",
        "/agents/{agent_id}/task",
        "/agents/{agent_id}/tasks/{task_id}",
        "/agents/{agent_id}/tasks/{task_id}/approve",
        "/agents/{agent_id}/tasks/{task_id}/cancel",
        "/agents/{agent_id}/tasks/{task_id}/events",
    ]
    assert all(
        operation["description"] for methods in paths.values() for operation in methods.values()
    )


@pytest.mark.parametrize("task", ["", " ", "\n\t\u00a0"])
def test_a_blank_task_is_refused(front: _Front, task: str) -> None:
    with front.client() as http:
        # Refused by what it says, before anybody looks for the agent.
        answer = http.post("/agents/agent_none/task", json={"task": task})
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "task")
        half = http.post("/agents/agent_none/task", content=b'{"task": "hi \\ud83d"}')
        assert (half.status_code, half.json()["error"]["code"]) == (400, "invalid_request")


def test_a_deleted_agent_is_gone_and_its_tasks_are_cancelled(front: _Front) -> None:
    front.gateway.delay_s = 20
    stranger, _ = create_key(front.settings, SCOPES, tenant="other")
    with AgentsClient(front.url, front.key) as client, front.client() as http:
        agent = client.create(AgentSpec.model_validate({**SPEC, "concurrency": 1}))
        running, queued = (client.post_task(agent, f"customer {n}") for n in (1, 2))
        wait(lambda: front.gateway.completions, 60)
        with front.client(stranger) as other:
            assert other.delete(f"/agents/{agent}").status_code == 404
        began = time.monotonic()
        deleted = http.delete(f"/agents/{agent}")
        assert deleted.json() == {
            "agent_id": agent, "deleted": True, "cancelled_tasks": [running, queued],
        }  # fmt: skip
        # What the tasks did stays readable, and a stream ends with the last event.
        results = [client.follow(agent, task, timeout_s=30) for task in (running, queued)]
        assert time.monotonic() - began < 15, "nobody waits for the model"
        assert [result.status for result in results] == ["cancelled", "cancelled"]
        assert [event.type for event in results[0].events] == ["queued", "started", "cancelled"]
        assert http.get("/agents").json() == {"agents": []}
        for method, path in (
            ("DELETE", f"/agents/{agent}"),
            ("GET", f"/agents/{agent}/status"),
            ("POST", f"/agents/{agent}/task"),
        ):
            answer = http.request(method, path, json={"task": "x"} if method == "POST" else None)
            assert answer.status_code == 404, path
            assert "There is no agent" in answer.json()["error"]["message"]
        assert http.post(f"/agents/{agent}").status_code == 405
        again = http.post("/agents/create", json=SPEC)
        assert (again.status_code, again.json()["name"]) == (201, "retail")
    delegated = [
        key for key in list_keys(front.settings, delegated=True) if key.purpose.startswith("agent ")
    ]
    assert delegated
    assert all(key.revoked_at is not None for key in delegated)


def test_a_tenant_has_so_many_agents_and_tasks(settings: Settings) -> None:
    limits = {"most_agents": 3, "most_working": 2, "most_tasks": 3}
    agents = settings.serving.agents.model_copy(update=limits)
    serving = settings.serving.model_copy(update={"agents": agents})
    settings = settings.model_copy(update={"serving": serving})
    key, _ = create_key(settings, SCOPES, tenant="acme")
    other, _ = create_key(settings, SCOPES, tenant="other")
    headers = [{"Authorization": f"Bearer {one}"} for one in (key, other)]
    store = AgentStore(open_database(settings))
    with agents_app(settings, "http://127.0.0.1:9", NoHosts()) as url:
        with httpx.Client(base_url=url, headers=headers[0], timeout=60) as http:

            def post(number: int) -> tuple[int, str]:
                answer = http.post(f"/agents/{ids[number]}/task", json={"task": "x"})
                error = answer.json().get("error", {})
                return answer.status_code, error.get("message", "")

            ids = [http.post("/agents/create", json=SPEC).json()["agent_id"] for _ in range(3)]
            refused = http.post("/agents/create", json=SPEC)
            assert refused.status_code == 409
            assert (
                refused.json()["error"]["message"] == "Tenant 'acme' has 3 agents and may have 3."
            )
            assert [post(0)[0], post(1)[0]] == [202, 202]
            assert post(2) == (429, "Tenant 'acme' has 2 agents at work and may have 2.")
            assert post(0)[0] == 202
            assert post(1) == (429, "Tenant 'acme' has 3 unfinished tasks and may have 3.")
            assert sum(len(store.tasks(agent)) for agent in ids) == 3, "a refused task is none"
            assert http.delete(f"/agents/{ids[0]}").status_code == 200
            assert http.post("/agents/create", json=SPEC).status_code == 201
            assert post(2)[0] == 202
        with httpx.Client(base_url=url, headers=headers[1], timeout=60) as http:
            assert http.post("/agents/create", json=SPEC).status_code == 201


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_steps", 10**9),
        ("max_tokens", 10**9),
        ("timeout_s", 1e12),
        ("concurrency", 10**6),
        ("max_attempts", 10**6),
        ("temperature", 1e9),
        ("name", "n" * 65),
        ("model", "m" * 201),
        ("role", "r" * 2001),
        ("goal", "g" * 2001),
        ("backstory", "b" * 4001),
        ("instructions", "i" * 5_000_000),
        ("tools", ["get_features", "get_features"]),
        ("tools", [f"tool{n}" for n in range(65)]),
        ("tools", [{"name": "predict", "options": {str(n): n for n in range(201)}}]),
    ],
)
def test_numbers_and_texts_of_an_agent_are_bounded(front: _Front, field: str, value: Any) -> None:
    with front.client() as http:
        answer = http.post("/agents/create", json={**SPEC, field: value})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"].startswith(field)
    assert len(answer.content) < 2000


def test_an_agent_from_before_the_bounds_is_read(front: _Front) -> None:
    store = AgentStore(open_database(front.settings))
    row = store.create_agent(AgentSpec.model_validate(SPEC), "acme")
    with open_database(front.settings).session() as session:
        stored = session.get_one(AgentRow, row.id)
        stored.spec = {**row.spec, "max_attempts": 99, "max_tokens": 10**7, "model": "m" * 999}
    with front.client() as http:
        (agent,) = http.get("/agents").json()["agents"]
    spec = agent["spec"]
    assert (spec["max_attempts"], spec["max_tokens"], len(spec["model"])) == (10, 100_000, 200)
