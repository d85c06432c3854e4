"""Server-sent event stream of a task's events, which a client can resume."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from sunloom.agents.store import AgentStore
from sunloom.agents.tables import EventRow

FINAL_EVENTS = frozenset({"succeeded", "failed", "cancelled"})
# SQLite cannot notify readers, so the log is polled on every database.
_POLL_S = 0.15
# Proxies close connections on which nothing is sent for half a minute or so.
_HEARTBEAT_S = 15.0
_KEEP_AWAKE_S = 5.0


async def stream_events(
    store: AgentStore, task_id: str, after: int, keep_awake: Callable[[], Awaitable[None]]
) -> AsyncIterator[str]:
    """Events numbered above ``after``, as they come, up to the one that ends the task.

    Every event has its number as SSE id, so a client that lost the connection resumes with
    ``Last-Event-ID`` and misses nothing. The log is in the database, so any replica can stream it.
    While a client listens, the task's agent is kept awake and its key renewed.
    """
    last_sent = last_woken = time.monotonic()
    while True:
        events = await asyncio.to_thread(store.events, task_id, after)
        for event in events:
            yield _encode(event)
            after = event.seq
            last_sent = time.monotonic()
            if event.type in FINAL_EVENTS:
                return
        # A client that resumes after the last event would otherwise be kept waiting for ever.
        if not events and await asyncio.to_thread(_has_ended, store, task_id, after):
            return
        if time.monotonic() - last_woken > _KEEP_AWAKE_S:
            await keep_awake()
            last_woken = time.monotonic()
        if time.monotonic() - last_sent > _HEARTBEAT_S:
            yield ": still running\n\n"
            last_sent = time.monotonic()
        await asyncio.sleep(_POLL_S)


def _has_ended(store: AgentStore, task_id: str, after: int) -> bool:
    """Whether the client has received the last event already."""
    if after == 0:
        return False
    last = store.events(task_id, after - 1, limit=1)
    return not last or last[0].type in FINAL_EVENTS


def _encode(event: EventRow) -> str:
    data = {
        "seq": event.seq,
        "type": event.type,
        "created_at": event.created_at.isoformat(),
        "data": event.data,
    }
    return f"id: {event.seq}\nevent: {event.type}\ndata: {json.dumps(data)}\n\n"
