"""The state machine, the queue, the event log and the journal in the database."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sunloom.agents.journal import Journal
from sunloom.agents.store import AgentStore, TaskStatus, check_transition
from sunloom.config.agents import AgentSpec
from sunloom.core.database import Database
from sunloom.errors import ConflictError, NotFoundError


@pytest.fixture
def store(tmp_path: Path) -> AgentStore:
    return AgentStore(Database(f"sqlite:///{tmp_path / 'agents.db'}"))


@pytest.fixture
def agent_id(store: AgentStore) -> str:
    return store.create_agent(AgentSpec(name="one"), "acme").id


def test_finished_tasks_go_nowhere() -> None:
    with pytest.raises(ConflictError, match="is succeeded and cannot become running"):
        check_transition("t", TaskStatus.SUCCEEDED, TaskStatus.RUNNING)
    check_transition("t", TaskStatus.RUNNING, TaskStatus.AWAITING_APPROVAL)


def test_claims_are_oldest_first_and_each_task_is_claimed_once(
    store: AgentStore, agent_id: str
) -> None:
    ids = [store.add_task(agent_id, f"task {n}").id for n in range(20)]
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: store.claim(agent_id), range(24)))
    taken = [row.id for row in claimed if row is not None]
    assert sorted(taken) == sorted(ids)
    assert claimed.count(None) == 4
    assert store.counts(agent_id)["running"] == 20
    assert all(row.attempts == 1 for row in claimed if row is not None)


def test_events_are_numbered_without_gaps_under_parallel_writers(
    store: AgentStore, agent_id: str
) -> None:
    task = store.add_task(agent_id, "task")
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda n: store.append_event(task.id, "x", {"n": n}), range(40)))
    assert sorted(numbers) == list(range(2, 42))
    assert [event.seq for event in store.events(task.id, after=38)] == [39, 40, 41]


def test_another_tenant_sees_no_agent(store: AgentStore, agent_id: str) -> None:
    with pytest.raises(NotFoundError, match="There is no agent") as refused:
        store.agent(agent_id, tenant="other")
    assert refused.value.known == []
    assert store.agent(agent_id, tenant="acme").id == agent_id


def test_cancelling_a_queued_task_ends_it_and_a_running_one_is_marked(
    store: AgentStore, agent_id: str
) -> None:
    running = store.add_task(agent_id, "runs")
    store.claim(agent_id)
    queued = store.add_task(agent_id, "waits")
    assert store.request_cancel(queued.id).status == TaskStatus.CANCELLED
    assert store.request_cancel(running.id).status == TaskStatus.RUNNING
    assert store.request_cancel(running.id).cancel_requested
    assert store.cancel_requests(agent_id) == [running.id]
    assert [event.type for event in store.events(running.id)].count("cancel_requested") == 1


def test_unfinished_tasks_are_queued_again_until_their_attempts_are_used_up(
    store: AgentStore, agent_id: str
) -> None:
    task = store.add_task(agent_id, "task")
    for attempt in (1, 2):
        row = store.claim(agent_id)
        assert row is not None
        assert row.attempts == attempt
        if attempt == 1:
            assert store.requeue_unfinished(agent_id, max_attempts=2) == [task.id]
    assert store.requeue_unfinished(agent_id, max_attempts=2) == []
    ended = store.task(task.id)
    assert ended.status == TaskStatus.FAILED
    assert ended.error == {"code": "agent", "message": "The actor died 2 times."}


def test_the_journal_replays_finished_calls_and_repeats_lost_ones(
    store: AgentStore, agent_id: str
) -> None:
    task = store.add_task(agent_id, "task")
    keys: list[str] = []

    async def attempt(crash_at: int | None) -> list[Any]:
        journal = Journal(store, task.id)

        async def make(key: str) -> dict[str, Any]:
            keys.append(key)
            if len(keys) == crash_at:
                raise RuntimeError("the process ends here")
            return {"n": len(keys)}

        requests = [{"a": 1}, {"a": 1}, {"a": 2}]
        return [await journal.call_once("tool", request, make) for request in requests]

    with pytest.raises(RuntimeError):
        asyncio.run(attempt(crash_at=3))
    outcomes = asyncio.run(attempt(crash_at=None))
    # The same request twice is two calls; the lost third one keeps its idempotency key.
    assert keys == [f"{task.id}:{n}" for n in (1, 2, 3, 3)]
    assert [(outcome.data, outcome.replayed) for outcome in outcomes] == [
        ({"n": 1}, True),
        ({"n": 2}, True),
        ({"n": 4}, False),
    ]
