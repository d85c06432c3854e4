"""Streams of a task's events: how many a key may open, and one reader of the log for all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from sunloom.agents.approval import ApprovalDecision
from sunloom.agents.gateway_client import Endpoint
from sunloom.agents.store import AgentRow, AgentStore, JournalRow, TaskStatus
from sunloom.config import Settings
from sunloom.config.agents import AgentSpec
from sunloom.core.database import Database, open_database
from sunloom.errors import PermissionDeniedError, RateLimitError
from sunloom.serving.apps.agents import AgentService, Decision
from sunloom.serving.apps.event_streams import EventStreams
from sunloom.serving.auth.api_keys import (
    KeyRecord,
    create_key,
    delegate,
    find_key,
    revoke_key,
)

SPEC = AgentSpec(name="retail", engine="semantic_kernel", tools=["get_features", "predict"])


class SeenHosts:
    """Keys with which agents were woken; runs nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.accounts: list[str] = []
        self.ended: list[str] = []

    async def wake(self, agent: AgentRow, task_id: str, endpoint: Endpoint) -> None:
        key = find_key(self._settings, endpoint.api_key)
        assert key is not None
        self.accounts.append(key.account)

    async def end(self, agent_id: str) -> None:
        self.ended.append(agent_id)


async def stay_asleep() -> None:
    """Wake nothing."""


@contextmanager
def counted_reads(database: Database) -> Iterator[list[str]]:
    statements: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if statement.startswith("SELECT") and "agent_events" in statement:
            statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", count)
    try:
        yield statements
    finally:
        event.remove(database.engine, "before_cursor_execute", count)


async def texts(streams: EventStreams, task_id: str, after: int = 0) -> list[str]:
    return [text async for text in streams.events(task_id, after, stay_asleep)]


def test_all_streams_of_a_task_share_one_reader(settings: Settings) -> None:
    database = open_database(settings)
    store = AgentStore(database)
    task = store.add_task(store.create_agent(SPEC, "acme").id, "work")
    streams = EventStreams(store, 100)

    async def walk() -> tuple[int, list[list[str]]]:
        reading = [asyncio.create_task(texts(streams, task.id)) for _ in range(40)]
        resumed = asyncio.create_task(texts(streams, task.id, after=1))
        while streams._tails._streams[task.id] < 41:
            await asyncio.sleep(0.02)
        with counted_reads(database) as statements:
            await asyncio.sleep(0.5)
        store.transition(task.id, TaskStatus.RUNNING, "started", {})
        store.transition(task.id, TaskStatus.SUCCEEDED, "succeeded", {})
        return len(statements), [*await asyncio.gather(*reading), await resumed]

    reads, results = asyncio.run(walk())
    # Polled every 0.15 s, once for all 41.
    assert 1 <= reads <= 5
    assert [text.split("\n")[0] for text in results[0]] == ["id: 1", "id: 2", "id: 3"]
    assert results[:40] == [results[0]] * 40
    assert results[40] == results[0][1:]
    assert not streams._tails._readers


def test_a_key_has_a_bounded_number_of_streams(settings: Settings) -> None:
    store = AgentStore(open_database(settings))
    task = store.add_task(store.create_agent(SPEC, "acme").id, "work")
    streams = EventStreams(store, 2)
    _, key = create_key(settings, ["agents"])
    _, child = delegate(settings, key, ["agents"])
    _, other = create_key(settings, ["agents"])
    started: list[int] = []

    async def stream(who: KeyRecord) -> None:
        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                started.append(message["status"])

        response = streams.response(who, task.id, 0, stay_asleep)
        await response({"type": "http"}, asyncio.Event().wait, send)  # type: ignore[arg-type]

    async def walk() -> None:
        reading = [asyncio.create_task(stream(who)) for who in (key, child)]
        await asyncio.sleep(0.1)
        with pytest.raises(RateLimitError, match="2 streams"):
            await stream(key)
        assert started == [200, 200]
        reading.append(asyncio.create_task(stream(other)))
        await asyncio.sleep(0.1)
        assert len(started) == 3
        reading[0].cancel()
        await asyncio.sleep(0.1)
        reading.append(asyncio.create_task(stream(key)))
        await asyncio.sleep(0.1)
        assert len(started) == 4
        for task_of_stream in reading:
            task_of_stream.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        assert not streams.limit._open

    asyncio.run(walk())


def test_whoever_reads_a_task_lends_the_agent_nothing(settings: Settings) -> None:
    _, asker = create_key(settings, ["admin"])
    _, reader = create_key(settings, ["agents"])
    hosts = SeenHosts(settings)

    async def walk() -> None:
        service = AgentService(settings, hosts)
        agent = await service.create(SPEC, asker)
        task = await service.add_task(agent.id, "work", asker)
        hosts.accounts.clear()
        await service.revive(task, reader)
        assert hosts.accounts == [asker.id]
        revoke_key(settings, asker.id)
        # Another process has no delegated key in its cache.
        await AgentService(settings, hosts).revive(task, reader)
        assert hosts.accounts == [asker.id]

    asyncio.run(walk())


def test_who_approves_a_call_may_make_it_himself(settings: Settings) -> None:
    spec = AgentSpec.model_validate(
        {**SPEC.model_dump(), "tools": ["get_features", {"name": "predict", "approval": True}]}
    )
    _, asker = create_key(settings, ["admin"])
    _, poor = create_key(settings, ["agents"])
    _, rich = create_key(settings, ["agents", "models"])
    agents = settings.serving.agents.model_copy(update={"approval_by_another": True})
    serving = settings.serving.model_copy(update={"agents": agents})
    strict = settings.model_copy(update={"serving": serving})

    async def walk() -> None:
        service = AgentService(strict, SeenHosts(settings))
        agent = await service.create(spec, asker)
        task = await service.add_task(agent.id, "work", asker)
        service.store.transition(task.id, TaskStatus.RUNNING, "started", {})
        request = {"tool": "predict", "arguments": {}}
        entry = JournalRow(
            task_id=task.id, kind="approval", digest="d", occurrence=1, request=request
        )
        service.store.open_entry(entry)
        service.store.transition(task.id, TaskStatus.AWAITING_APPROVAL, "approval_required", {})
        yes = Decision(approved=True)
        with pytest.raises(PermissionDeniedError, match="models"):
            await service.approve(agent.id, task.id, yes, poor)
        with pytest.raises(PermissionDeniedError, match="asked for task"):
            await service.approve(agent.id, task.id, yes, asker)
        await service.approve(agent.id, task.id, yes, rich)
        (closed,) = service.store.journal(task.id)
        assert closed.outcome == vars(ApprovalDecision(True))

    asyncio.run(walk())


def test_unfinished_tasks_are_brought_their_askers_keys(settings: Settings) -> None:
    keys = [create_key(settings, ["admin"])[1] for _ in range(3)]
    hosts = SeenHosts(settings)

    async def walk() -> None:
        service = AgentService(settings, hosts)
        agent = await service.create(SPEC, keys[0])
        tasks = [await service.add_task(agent.id, "work", key) for key in keys]
        service.store.transition(tasks[0].id, TaskStatus.CANCELLED, "cancelled", {})
        revoke_key(settings, keys[1].id)
        hosts.accounts.clear()
        # Another process, as after a crash, which has no delegated key in its cache.
        sweep = asyncio.create_task(AgentService(settings, hosts).keep_awake())
        async with asyncio.timeout(20):
            while not hosts.accounts:
                await asyncio.sleep(0.02)
        sweep.cancel()
        await asyncio.gather(sweep, return_exceptions=True)
        assert hosts.accounts == [keys[2].id]
        ended = service.store.task(tasks[1].id)
        assert ended.status == TaskStatus.FAILED
        assert ended.error is not None
        assert "was revoked or has expired" in ended.error["message"]

    asyncio.run(walk())
