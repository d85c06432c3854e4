"""Calls that a person must approve: the task waits, for as long as it takes."""

from __future__ import annotations

import asyncio
from typing import Any

from sunloom.agents.journal import Journal
from sunloom.agents.store import AgentStore
from sunloom.agents.task_states import TaskStatus
from sunloom.agents.tools.toolbox import PendingCall
from sunloom.errors import ConflictError, NotFoundError, ToolError

_POLL_S = 0.2


class ApprovalHook:
    """Holds back calls of tools that are marked for approval until someone has decided.

    The decision lies in the journal, so a task that starts over does not ask again.

    Args:
        store: Where tasks and journal lie.
        task_id: The task.
        journal: Its journal.
        limit: The task's time limit, which stands still while it waits.
    """

    def __init__(
        self, store: AgentStore, task_id: str, journal: Journal, limit: asyncio.Timeout
    ) -> None:
        self._store = store
        self._task_id = task_id
        self._journal = journal
        self._limit = limit
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, call: PendingCall) -> None:
        """Let the call pass, wait for a decision, or refuse it.

        Raises:
            ToolError: The call was denied.
        """
        if not call.bound.approval:
            return
        async with self._one_at_a_time:
            decision = await self._decision(call)
        if not decision["approved"]:
            note = decision.get("note")
            raise ToolError(f"The call was denied{f': {note}' if note else ''}.")

    async def _decision(self, call: PendingCall) -> dict[str, Any]:
        shown = {"tool": call.bound.tool.name, "arguments": call.arguments}
        entry = await self._journal.begin("approval", shown)
        if entry.outcome is not None:
            return entry.outcome
        await self._move(
            TaskStatus.AWAITING_APPROVAL, "approval_required", {"call": entry.seq, **shown}
        )
        decision = await self._wait(entry.seq)
        event = "approved" if decision["approved"] else "denied"
        await self._move(TaskStatus.RUNNING, event, {"call": entry.seq})
        return decision

    async def _wait(self, seq: int) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        ends = self._limit.when()
        remaining_s = None if ends is None else ends - loop.time()
        self._limit.reschedule(None)
        try:
            while (outcome := await asyncio.to_thread(self._outcome, seq)) is None:
                await asyncio.sleep(_POLL_S)
        finally:
            if remaining_s is not None:
                self._limit.reschedule(loop.time() + remaining_s)
        return outcome

    def _outcome(self, seq: int) -> dict[str, Any] | None:
        entry = next(row for row in self._store.journal(self._task_id) if row.seq == seq)
        return entry.outcome

    async def _move(self, then: TaskStatus, event: str, data: dict[str, Any]) -> None:
        await asyncio.to_thread(self._store.transition, self._task_id, then, event, data)


def decide(
    store: AgentStore, task_id: str, approved: bool, call: int | None = None, note: str = ""
) -> int:
    """Record a person's decision on a call that waits.

    Args:
        store: Where tasks and journal lie.
        task_id: The task.
        approved: Whether the call may be made.
        call: Number of the call; the one that waits when empty.
        note: Reason, which the model gets to read when the call is denied.

    Returns:
        The call's number.

    Raises:
        NotFoundError: No such call waits.
        ConflictError: The task does not wait for a decision.
    """
    status = store.task(task_id).status
    if status != TaskStatus.AWAITING_APPROVAL:
        raise ConflictError(f"Task {task_id} is {status} and waits for no approval.")
    waiting = [
        row.seq for row in store.journal(task_id) if row.kind == "approval" and row.outcome is None
    ]
    if not waiting or (call is not None and call not in waiting):
        raise NotFoundError(
            f"No call {call if call is not None else ''} of task {task_id} waits for approval.",
            param="call",
            known=[str(seq) for seq in waiting],
        )
    chosen = call if call is not None else waiting[0]
    store.close_entry(task_id, chosen, {"approved": approved, "note": note})
    return chosen
