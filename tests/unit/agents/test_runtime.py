"""The runtime with both real engines on a scripted model: answers, limits, cancelling."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from sunloom.agents.approval import ApprovalDecision, decide
from sunloom.agents.finished_tasks import register_conversations
from sunloom.agents.gateway_client import Endpoint
from sunloom.agents.runtime import AgentRuntime
from sunloom.agents.store import AgentStore, TaskRow
from sunloom.config import Settings, load_config
from sunloom.config.agents import AgentSpec
from sunloom.config.llm import LlmRecipe
from sunloom.core.database import Database
from sunloom.core.model_registry import open_registry
from sunloom.errors import AgentError, ConflictError, DataError, NotFoundError
from sunloom.llm.conversation_files import open_conversations
from sunloom.llm.conversations import Conversation
from tests.unit.agents import scripted

QUESTION = "Should customer 4711 get a voucher?"
ENGINES = pytest.mark.parametrize("engine", ["semantic_kernel", "crewai"])
Act = Callable[[AgentStore, TaskRow, scripted.ScriptedGateway], Any]


def _spec(engine: str, **changes: Any) -> AgentSpec:
    tools = [{"name": "get_features", "options": {"features": ["recency_days"]}}, "predict"]
    return AgentSpec.model_validate(
        {"name": "retail", "engine": engine, "tools": tools, "max_steps": 5, **changes}
    )


def _run(
    folder: Path,
    spec: AgentSpec,
    gateway: scripted.ScriptedGateway,
    act: Act | None = None,
    store_of_runtime: type[AgentStore] = AgentStore,
) -> tuple[AgentStore, TaskRow]:
    """Run one task to its end, with ``act`` beside it in a thread."""
    database = Database(f"sqlite:///{folder / 'agents.db'}")
    store = AgentStore(database)
    agent = store.create_agent(spec, "acme")
    task = store.add_task(agent.id, QUESTION)

    async def drive() -> None:
        endpoint = Endpoint(gateway.url, "KEY")
        runtime = AgentRuntime(agent.id, spec, store_of_runtime(database), endpoint)
        serving = asyncio.create_task(runtime.serve())
        acting = asyncio.create_task(asyncio.to_thread(act or _nothing, store, task, gateway))
        async with asyncio.timeout(100):
            while store.task(task.id).finished_at is None:
                await asyncio.sleep(0.02)
                await runtime.wake()
            await acting
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(drive())
    return store, store.task(task.id)


def _nothing(*_: Any) -> None:
    return


def _until(done: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@ENGINES
def test_one_field_chooses_the_engine_and_both_send_the_same_texts(
    tmp_path: Path, engine: str
) -> None:
    spec = _spec(engine, role="Retail analyst", goal="Answer", backstory="You look up.")
    with scripted.serve() as gateway:
        _, task = _run(tmp_path, spec, gateway)
    assert (task.status, task.answer, task.error) == ("succeeded", "Yes.", None)
    assert task.usage == {"prompt_tokens": 30, "completion_tokens": 15}
    first, last = gateway.completions[0], gateway.completions[-1]
    system, user = first["messages"]
    assert system["content"] == (
        "You are Retail analyst. You look up.\nYour personal goal is: Answer"
    )
    assert user["content"].removeprefix("\nCurrent Task: ") == QUESTION
    assert (first["temperature"], first["max_tokens"], first["model"]) == (0, 96, "retail-agent")
    offered = [tool["function"]["name"] for tool in first["tools"]]
    assert offered == ["get_features", "predict"], "no engine's own prefix"
    assert [m["content"] for m in last["messages"] if m["role"] == "tool"] == [
        '{"feature_set":"customer","entity_id":4711,"found":true,"features":{"recency_days":45}}',
        '{"model":"repurchase@1","entity_id":4711,"probability":0.1234,"prediction":"lapse"}',
    ]
    sent = {headers["authorization"] for _, _, headers in gateway.requests}
    assert sent == {"Bearer KEY"}


@ENGINES
def test_finished_tasks_are_conversations_that_their_tenant_learns_from(
    tmp_path: Path, engine: str
) -> None:
    with scripted.serve() as gateway:
        store, task = _run(tmp_path, _spec(engine), gateway)
    # Of another tenant, of another agent, and one that has not succeeded.
    other = store.create_agent(_spec(engine), "other")
    store.add_task(other.id, QUESTION)
    idle = store.create_agent(_spec(engine), "acme")
    sets = [f"paths.{name}={tmp_path / name}" for name in ("state", "outputs")]
    sets += [f"database.url=sqlite:///{tmp_path / 'agents.db'}", "data.held_out_share=0"]
    registry = open_registry(load_config(Settings, sets=sets[:3], environ={}).config)
    for tenant, agent_id in (("other", None), ("acme", idle.id)):
        with pytest.raises(DataError, match="No task of the tenant"):
            register_conversations(store, registry, "tasks", tenant, agent_id)
    with pytest.raises(NotFoundError):
        register_conversations(store, registry, "tasks", "other", task.agent_id)
    table = register_conversations(store, registry, "tasks", "acme")
    assert (table.ref, table.tenant, table.lineage["rows"]) == ("tasks@1", "acme", 1)

    def learn(tenant: str) -> list[Conversation]:
        chosen = [*sets, "data.train=[{path: tasks@1}]", f"output.tenant={tenant}"]
        recipe = load_config(LlmRecipe, sets=chosen, conf_dir=Path("conf"), environ={}).config
        return open_conversations(recipe).train(1, 0)

    (learned,) = learn("acme")
    assert [tool["function"]["name"] for tool in learned.tools] == ["get_features", "predict"]
    assert [m["role"] for m in learned.messages[-6:]] == [
        "user", "assistant", "tool", "assistant", "tool", "assistant",
    ]  # fmt: skip
    assert QUESTION in learned.messages[-6]["content"]
    calls = [c["function"] for m in learned.messages for c in m.get("tool_calls", [])]
    assert [call["name"] for call in calls] == ["get_features", "predict"]
    assert json.loads(calls[0]["arguments"]) == {"feature_set": "customer", "entity_id": 4711}
    assert learned.messages[-1] == {"role": "assistant", "content": "Yes."}
    with pytest.raises(NotFoundError):
        learn("other")


@ENGINES
def test_parallel_tool_calls_all_run(tmp_path: Path, engine: str) -> None:
    def script(body: dict[str, Any]) -> dict[str, Any]:
        if len(had := scripted.results(body)) == 2:
            return scripted.say(" / ".join(result["prediction"] for result in had))
        predictions = [("predict", {"model": "repurchase", "entity_id": n}) for n in (1, 2)]
        return scripted.calls(predictions)

    with scripted.serve(script) as gateway:
        _, task = _run(tmp_path, _spec(engine), gateway)
    assert task.answer == "lapse / return"
    assert len(gateway.completions) == 2


@ENGINES
def test_a_task_that_does_not_end_fails_at_max_steps(tmp_path: Path, engine: str) -> None:
    def script(body: dict[str, Any]) -> dict[str, Any]:
        number = len(scripted.results(body))
        return scripted.call("predict", number, model="repurchase", entity_id=number)

    with scripted.serve(script) as gateway:
        _, task = _run(tmp_path, _spec(engine), gateway)
    assert task.status == "failed"
    assert task.error is not None
    assert task.error["message"] == "The task is not done after 5 model calls."
    assert len(gateway.completions) == 5


@ENGINES
@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (scripted.say("Yes, customer", "length"), "cut off at max_tokens"),
        ({"status": 404, "text": "There is no model 'x'."}, "There is no model 'x'."),
        (scripted.say("  "), "empty"),
    ],
)
def test_a_bad_answer_fails_the_task_with_its_reason(
    tmp_path: Path, engine: str, choice: dict[str, Any], message: str
) -> None:
    with scripted.serve(lambda _: choice) as gateway:
        _, task = _run(tmp_path, _spec(engine), gateway)
    assert task.status == "failed"
    assert task.error is not None
    assert message in task.error["message"]


@ENGINES
def test_a_slow_model_runs_into_the_time_limit(tmp_path: Path, engine: str) -> None:
    with scripted.serve(delay_s=20) as gateway:
        _, task = _run(tmp_path, _spec(engine, timeout_s=0.5), gateway)
    assert task.finished_at is not None
    assert task.started_at is not None
    assert (task.finished_at - task.started_at).total_seconds() < 15, "nobody waits for the model"
    assert task.status == "failed"
    assert task.error is not None
    assert "longer than 0.5 s" in task.error["message"]


@ENGINES
def test_cancelling_stops_a_model_call_under_way(tmp_path: Path, engine: str) -> None:
    def act(store: AgentStore, task: TaskRow, gateway: scripted.ScriptedGateway) -> None:
        _until(lambda: gateway.completions)
        store.request_cancel(task.id)

    with scripted.serve(delay_s=20) as gateway:
        store, task = _run(tmp_path, _spec(engine), gateway, act)
    assert task.status == "cancelled"
    assert len(gateway.completions) == 1, "no call follows"
    assert [event.type for event in store.events(task.id)][-2:] == [
        "cancel_requested",
        "cancelled",
    ]


class _SlowStore(AgentStore):
    """A database that responds late: several polls pass while a task's end is recorded."""

    def task(self, task_id: str, agent_id: str | None = None) -> TaskRow:
        time.sleep(0.5)
        return super().task(task_id, agent_id)


def test_polls_do_not_interrupt_the_record_of_a_cancelled_task(tmp_path: Path) -> None:
    def act(store: AgentStore, task: TaskRow, gateway: scripted.ScriptedGateway) -> None:
        _until(lambda: gateway.completions)
        store.request_cancel(task.id)

    with scripted.serve(delay_s=20) as gateway:
        _, task = _run(tmp_path, _spec("semantic_kernel"), gateway, act, _SlowStore)
    assert task.status == "cancelled"


@ENGINES
@pytest.mark.parametrize("approved", [True, False])
def test_a_call_waits_for_approval(tmp_path: Path, engine: str, approved: bool) -> None:
    def script(body: dict[str, Any]) -> dict[str, Any]:
        if had := scripted.results(body):
            return scripted.say(json.dumps(had[0]))
        return scripted.call("predict", model="repurchase", entity_id=1)

    def act(store: AgentStore, task: TaskRow, gateway: scripted.ScriptedGateway) -> None:
        _until(lambda: store.task(task.id).status == "awaiting_approval")
        time.sleep(0.8)
        assert not gateway.paths("/predict/"), "nothing happens before the decision"
        with pytest.raises(NotFoundError, match="No call 9"):
            decide(store, task.id, ApprovalDecision(True), call=9)
        decide(store, task.id, ApprovalDecision(approved, "too dear"))

    spec = _spec(engine, tools=[{"name": "predict", "approval": True}], timeout_s=50)
    with scripted.serve(script) as gateway:
        store, task = _run(tmp_path, spec, gateway, act)
        assert len(gateway.paths("/predict/")) == int(approved)
    assert task.status == "succeeded"
    assert task.answer is not None
    denied = json.loads(task.answer).get("error")
    assert denied == (None if approved else "The call was denied: too dear.")
    types = [event.type for event in store.events(task.id)]
    assert types.count("approval_required") == 1
    assert ("approved" if approved else "denied") in types
    with pytest.raises(ConflictError, match="waits for no approval"):
        decide(store, task.id, ApprovalDecision(True))


@ENGINES
def test_many_tasks_share_one_engine_and_keep_apart(tmp_path: Path, engine: str) -> None:
    spec = _spec(engine, concurrency=4)
    store = AgentStore(Database(f"sqlite:///{tmp_path / 'agents.db'}"))
    agent = store.create_agent(spec, "acme")
    numbers = range(100, 108)
    ids = [store.add_task(agent.id, f"Should customer {n} get a voucher?").id for n in numbers]

    async def drive(url: str) -> None:
        runtime = AgentRuntime(agent.id, spec, store, Endpoint(url, "KEY"))
        serving = asyncio.create_task(runtime.serve())
        async with asyncio.timeout(100):
            while store.counts(agent.id)["succeeded"] < len(ids):
                assert len(runtime.running_tasks) <= 4
                await asyncio.sleep(0.02)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    with scripted.serve(delay_s=0.05) as gateway:
        asyncio.run(drive(gateway.url))
    answers = [store.task(task_id).answer for task_id in ids]
    assert answers == ["Yes." if n % 2 else "No." for n in numbers]
    assert len(gateway.completions) == 3 * len(ids)


def test_an_idle_agent_asks_no_database_and_ends_after_a_while(tmp_path: Path) -> None:
    spec = _spec("semantic_kernel")
    database = Database(f"sqlite:///{tmp_path / 'agents.db'}")
    store = AgentStore(database)
    agent = store.create_agent(spec, "acme")
    statements: list[str] = []

    async def drive(url: str) -> float:
        runtime = AgentRuntime(agent.id, spec, store, Endpoint(url, ""), idle_s=0.5)
        serving = asyncio.create_task(runtime.serve())
        task = store.add_task(agent.id, QUESTION)
        await asyncio.sleep(0.1)
        assert store.task(task.id).status == "queued", "nobody has brought its key"
        await runtime.wake(task.id, Endpoint(url, "KEY"))
        async with asyncio.timeout(60):
            while store.task(task.id).finished_at is None:
                await asyncio.sleep(0.02)
            while runtime.running_tasks:
                await asyncio.sleep(0.02)
        # One look at the queue after a task's end.
        await asyncio.sleep(0.2)
        event.listen(database.engine, "before_cursor_execute", count)
        began = time.monotonic()
        await asyncio.wait_for(serving, 30)
        with pytest.raises(AgentError, match="ends after a time"):
            await runtime.wake(task.id, Endpoint(url, "KEY"))
        return time.monotonic() - began

    def count(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        statements.append(statement)

    with scripted.serve() as gateway:
        waited_s = asyncio.run(drive(gateway.url))
    assert waited_s < 20
    assert statements == []


@ENGINES
def test_each_task_has_the_key_of_its_own_asker_to_the_end(tmp_path: Path, engine: str) -> None:
    spec = _spec(engine, concurrency=4)
    store = AgentStore(Database(f"sqlite:///{tmp_path / 'agents.db'}"))
    agent = store.create_agent(spec, "acme")
    numbers = range(100, 104)
    tasks = {n: store.add_task(agent.id, f"Should customer {n} get a voucher?") for n in numbers}

    async def drive(url: str) -> None:
        runtime = AgentRuntime(agent.id, spec, store, Endpoint(url, ""))
        serving = asyncio.create_task(runtime.serve())
        async with asyncio.timeout(100):
            while store.counts(agent.id)["succeeded"] < len(tasks):
                for n, task in tasks.items():
                    # As streams of events do it, whoever reads them.
                    await runtime.wake(task.id, Endpoint(url, f"KEY-{n}"))
                await asyncio.sleep(0.05)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    with scripted.serve(delay_s=0.2) as gateway:
        asyncio.run(drive(gateway.url))
    sent = [(path, headers["authorization"]) for _, path, headers in gateway.requests]
    features = {path.rsplit("=", 1)[1]: key for path, key in sent if path.startswith("/features")}
    assert features == {str(n): f"Bearer KEY-{n}" for n in numbers}
    for n in numbers:
        # Three model calls, features and a prediction.
        assert [key for _, key in sent].count(f"Bearer KEY-{n}") == 5
