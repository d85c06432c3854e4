"""Streams of events: resumable, a few for each key, one reader of a task's log for all."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Annotated, Generic, Protocol, TypeVar

from fastapi import Header, Query
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
from typing_extensions import override

from sunloom.agents.store import FINAL, AgentStore, EventRow
from sunloom.core.telemetry import get_logger
from sunloom.errors import RateLimitError
from sunloom.serving.asgi import Receive, Scope, Send
from sunloom.serving.auth.api_keys import KeyRecord
from sunloom.serving.auth.key_holds import KeyHolds

# SQLite cannot notify readers, so the log is polled on every database.
_POLL_S = 0.15
# Proxies close connections on which nothing is sent for half a minute or so.
HEARTBEAT_S = 15.0
"""Longest that a stream sends nothing."""
_KEEP_AWAKE_S = 5.0
# A stream whose client reads slowly falls behind by these, and reads the log itself beyond.
_MOST_EVENTS = 500
_log = get_logger("serving.events")

KeepAwake = Callable[[], Awaitable[None]]
LastEventId = Annotated[
    str | None, Header(alias="Last-Event-ID", description="Number of the last event seen.")
]
"""Header of a route that streams events: where a client resumes."""
After = Annotated[int, Query(ge=0, lt=10**9, description="As Last-Event-ID, in the URL.")]
"""Parameter of such a route, for clients that cannot set the header."""
_EVENT_NUMBER = re.compile("[0-9]{1,9}")


def resume_after(last_event_id: str | None, after: int) -> int:
    """Number of the last event that a client has seen: the header's, else the parameter's."""
    number = _EVENT_NUMBER.fullmatch(last_event_id or "")
    return int(number.group()) if number else after


class StreamLimit:
    """Bound of the streams that a key has open at once.

    Args:
        most: That a key and those delegated from it may have.
        shared: What is open in other replicas; None where this process is the only one.
    """

    def __init__(self, most: int, shared: KeyHolds | None = None) -> None:
        self._most, self._shared = most, shared
        self._open: Counter[str] = Counter()

    @asynccontextmanager
    async def hold(self, key: KeyRecord) -> AsyncIterator[None]:
        """Count one stream of a key as open while the block runs.

        Raises:
            RateLimitError: The key has as many as it may have.
        """
        too_many = RateLimitError(
            f"Key {key.id} has {self._most} streams of events open.",
            "Close one, or ask for the state without a stream.",
        )
        if self._shared is not None:
            one_more = self._shared.hold(key.account, lambda held, _: int(held < self._most))
            async with one_more as is_held:
                if not is_held:
                    raise too_many
                yield
            return
        if self._open[key.account] >= self._most:
            raise too_many
        self._open[key.account] += 1
        try:
            yield
        finally:
            self._open[key.account] -= 1
            if not self._open[key.account]:
                del self._open[key.account]


class StoppableReader(Protocol):
    """Reads what several streams send."""

    def stop(self) -> None:
        """Read no more."""


R = TypeVar("R", bound=StoppableReader)


class SharedReaders(Generic[R]):
    """One reader for all streams of the same thing, for as long as one of them is open."""

    def __init__(self) -> None:
        self._readers: dict[str, R] = {}
        self._streams: Counter[str] = Counter()

    @contextmanager
    def follow(self, name: str, start: Callable[[], R]) -> Iterator[R]:
        """The reader of a thing while the block runs.

        Args:
            name: Of the thing.
            start: Makes the reader, where no other stream has one.
        """
        reader = self._readers.get(name)
        if reader is None:
            reader = self._readers[name] = start()
        self._streams[name] += 1
        try:
            yield reader
        finally:
            self._streams[name] -= 1
            if not self._streams[name]:
                reader.stop()
                del self._readers[name], self._streams[name]


class EventStreams:
    """The streams of one process.

    Args:
        store: Tasks and their logs.
        most: Streams that a key and those delegated from it may have open at once.
        shared: What is open in other replicas; None where this process is the only one.

    Attributes:
        limit: Counts the open ones.
    """

    def __init__(self, store: AgentStore, most: int, shared: KeyHolds | None = None) -> None:
        self._store = store
        self.limit = StreamLimit(most, shared)
        self._tails: SharedReaders[_Tail] = SharedReaders()

    def response(
        self, key: KeyRecord, task_id: str, after: int, keep_awake: KeepAwake
    ) -> EventResponse:
        """The response that streams a task's events.

        Args:
            key: The caller's key.
            task_id: A task of the caller's tenant.
            after: Number of the last event that the client has seen.
            keep_awake: Wakes the task's agent while a client listens.
        """
        events = self.events(task_id, after, keep_awake)
        return EventResponse(events, lambda: self.limit.hold(key))

    async def events(
        self, task_id: str, after: int, keep_awake: KeepAwake
    ) -> AsyncGenerator[str, None]:
        """Events numbered above ``after``, as they come, up to the one that ends the task.

        Every event has its number as SSE id, so a client that lost the connection resumes with
        ``Last-Event-ID`` and misses nothing. The log is in the database, so any replica can stream
        it.
        """
        while events := await asyncio.to_thread(self._store.events, task_id, after):
            for event in events:
                yield _encode(event)
                after = event.seq
                # A task's last event has its final status as its type.
                if event.type in FINAL:
                    return
        # A client that resumes after the last event would otherwise be kept waiting for ever.
        if await asyncio.to_thread(_has_ended, self._store, task_id, after):
            return
        with self._tails.follow(task_id, lambda: _Tail(self._store, task_id, after)) as tail:
            async for text in self._follow(tail, task_id, after, keep_awake):
                yield text

    async def _follow(
        self, tail: _Tail, task_id: str, after: int, keep_awake: KeepAwake
    ) -> AsyncIterator[str]:
        last_sent = time.monotonic()
        while True:
            events = tail.events_after(after)
            if events is None:
                events = await asyncio.to_thread(self._store.events, task_id, after)
            for event in events:
                yield _encode(event)
                after = event.seq
                last_sent = time.monotonic()
                if event.type in FINAL:
                    return
            now = time.monotonic()
            # One of a task's streams wakes its agent, for all of them.
            if now - tail.woken_at > _KEEP_AWAKE_S:
                tail.woken_at = now
                await keep_awake()
            if now - last_sent > HEARTBEAT_S:
                yield ": still running\n\n"
                last_sent = now
            if not events:
                await tail.wait(_KEEP_AWAKE_S)


class EventResponse(StreamingResponse):
    """A stream of events that counts as open from its first byte to its last.

    Args:
        events: The encoded events.
        opened: Entered while the response is sent.

    Raises:
        RateLimitError: The key has too many open; nothing was sent then.
    """

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        opened: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        super().__init__(
            events,
            media_type="text/event-stream",
            # nginx would collect events before it sends them.
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._events = events
        self._opened = opened

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        async with self._opened():
            try:
                await super().__call__(scope, receive, send)
            finally:
                # Whatever ended the response: the generator holds the reader of the log.
                await self._events.aclose()


class _Tail:
    """The end of one task's log, polled once for all streams that follow it."""

    def __init__(self, store: AgentStore, task_id: str, after: int) -> None:
        self.woken_at = time.monotonic()
        self._events: deque[EventRow] = deque(maxlen=_MOST_EVENTS)
        # All events above it, up to the newest that was read, are among the kept ones.
        self._complete_after = after
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read(store, task_id, after))

    def events_after(self, after: int) -> list[EventRow] | None:
        """The kept events above a number; None where older ones than those kept are needed."""
        if after < self._complete_after:
            return None
        return [event for event in self._events if event.seq > after]

    async def wait(self, timeout_s: float) -> None:
        """Wait for the next events."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def stop(self) -> None:
        """End the reader."""
        self._reader.cancel()

    async def _read(self, store: AgentStore, task_id: str, after: int) -> None:
        while True:
            try:
                events = await asyncio.to_thread(store.events, task_id, after)
            except SQLAlchemyError as error:
                _log.warning("the log of %s cannot be read, trying again: %s", task_id, error)
                events = []
            if not events:
                await asyncio.sleep(_POLL_S)
                continue
            for event in events:
                if len(self._events) == _MOST_EVENTS:
                    self._complete_after = self._events[0].seq
                self._events.append(event)
            after = events[-1].seq
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()


def _has_ended(store: AgentStore, task_id: str, after: int) -> bool:
    """Whether the client has received the last event already."""
    if after == 0:
        return False
    last = store.events(task_id, after - 1, limit=1)
    return not last or last[0].type in FINAL


def _encode(event: EventRow) -> str:
    data = {
        "seq": event.seq,
        "type": event.type,
        "created_at": event.created_at.isoformat(),
        "data": event.data,
    }
    return f"id: {event.seq}\nevent: {event.type}\ndata: {json.dumps(data)}\n\n"
