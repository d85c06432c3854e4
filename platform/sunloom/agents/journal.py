"""Journal of a task's calls: a call that has finished is replayed, not repeated.

Agent libraries cannot resume in the middle of a run. After a crash the run therefore starts over,
and its calls to the model and to tools are replayed from the journal as long as they are the same
calls. The library's code is unchanged and sees no difference.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.exc import SQLAlchemyError

from sunloom.agents.store import AgentStore, JournalRow
from sunloom.errors import AgentError

CallKind = Literal["model", "tool", "approval"]


@dataclass(frozen=True)
class CallOutcome:
    """The outcome of a call.

    Attributes:
        data: The recorded result.
        replayed: Whether it was replayed from the journal.
    """

    data: dict[str, Any]
    replayed: bool


class Journal:
    """Calls of one attempt at one task.

    A call is identified by its content and by how many calls with the same content came before it
    in the attempt, so parallel calls may begin in any order.

    Args:
        store: Store of the entries.
        task_id: The task.
    """

    def __init__(self, store: AgentStore, task_id: str) -> None:
        self._store = store
        self._task_id = task_id
        self._occurrences: Counter[tuple[str, str]] = Counter()

    async def begin(self, kind: CallKind, request: dict[str, Any]) -> JournalRow:
        """Open the entry of a call, or return the one that an earlier attempt opened.

        Raises:
            AgentError: The database does not respond.
        """
        # A unique constraint needs a short value; requests hold whole conversations.
        # The order of keys says nothing about a call.
        canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), default=str)
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        # Counted before the first await: parallel calls of equal content get different numbers.
        occurrence = self._occurrences[kind, digest]
        self._occurrences[kind, digest] += 1
        entry = JournalRow(
            task_id=self._task_id,
            kind=kind,
            digest=digest,
            occurrence=occurrence,
            request=request,
        )
        try:
            return await asyncio.to_thread(self._store.open_entry, entry)
        except SQLAlchemyError as error:
            raise AgentError("The journal cannot be read: the call was not made.") from error

    async def call_once(
        self,
        kind: CallKind,
        request: dict[str, Any],
        make: Callable[[str], Awaitable[dict[str, Any]]],
    ) -> CallOutcome:
        """Make the call, unless an earlier attempt finished it.

        Args:
            kind: Model or tool.
            request: Everything that distinguishes this call from others.
            make: Makes the call and returns plain JSON data. It receives the call's idempotency
                key, which is the same in every attempt: a receiver that honours such keys does the
                work once even if the crash came between its response and our record of it.

        Raises:
            AgentError: The database does not respond.
        """
        entry = await self.begin(kind, request)
        if entry.outcome is not None:
            return CallOutcome(entry.outcome, replayed=True)
        outcome = await make(f"{self._task_id}:{entry.seq}")
        # Before the caller sees the outcome: whatever it does next can rely on the record.
        try:
            await asyncio.to_thread(self._store.close_entry, self._task_id, entry.seq, outcome)
        # The end of the task: as an error of the call it would have the model call again.
        except SQLAlchemyError as error:
            raise AgentError(
                f"A {kind} call was made, and its outcome could not be recorded.",
                "It is not repeated; give the task again once the database responds.",
            ) from error
        return CallOutcome(outcome, replayed=False)
