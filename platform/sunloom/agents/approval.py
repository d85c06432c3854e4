"""Approval of tool calls by a person: the task waits for the decision, however long."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import Any

from sunloom.agents.journal import Journal
from sunloom.agents.store import AgentStore, TaskStatus
from sunloom.agents.tools.toolbox import PendingCall
from sunloom.errors import ConflictError, NotFoundError, ToolError

# The decision comes from another process by way of the database. A person may take days: the pause
# grows from one poll to the next.
_FIRST_POLL_S = 0.1
_LAST_POLL_S = 2.0


@dataclass(frozen=True)
class ApprovalDecision:
    """A person's decision on a tool call.

    Attributes:
        approved: Whether the call may be made.
        note: Reason, which the model reads if the call was denied.
    """

    approved: bool
    note: str = ""


class ApprovalHook:
    """Holds tool calls that need approval until a person has decided.

    The decision is in the journal, so a task that starts over does not ask again.

    Args:
        store: Tasks and journal.
        task_id: The task.
        journal: Its journal.
        limit: The task's time limit, which is suspended while the task waits.
    """

    def __init__(
        self, store: AgentStore, task_id: str, journal: Journal, limit: asyncio.Timeout
    ) -> None:
        self._store = store
        self._task_id = task_id
        self._journal = journal
        self._limit = limit
        # A task has one status: parallel calls wait for approval one after another.
        self._lock = asyncio.Lock()

    async def __call__(self, call: PendingCall) -> None:
        """Let the call pass, wait for a decision, or deny it.

        Raises:
            ToolError: The call was denied.
        """
        if not call.bound.approval:
            return
        async with self._lock:
            decision = await self._decision_on(call)
        if not decision.approved:
            raise ToolError(f"The call was denied{f': {decision.note}' if decision.note else ''}.")

    async def _decision_on(self, call: PendingCall) -> ApprovalDecision:
        request = {"tool": call.bound.tool.name, "arguments": call.arguments}
        # Before the status changes: a decision looks for an open entry of the waiting task.
        entry = await self._journal.begin("approval", request)
        if entry.outcome is not None:
            return ApprovalDecision(**entry.outcome)
        await self._transition(
            TaskStatus.AWAITING_APPROVAL, "approval_required", {"call": entry.seq, **request}
        )
        decision = await self._wait_for_decision(entry.seq)
        event = "approved" if decision.approved else "denied"
        await self._transition(TaskStatus.RUNNING, event, {"call": entry.seq})
        return decision

    async def _wait_for_decision(self, seq: int) -> ApprovalDecision:
        loop = asyncio.get_running_loop()
        deadline = self._limit.when()
        remaining_s = None if deadline is None else deadline - loop.time()
        self._limit.reschedule(None)
        pause_s = _FIRST_POLL_S
        try:
            while True:
                outcome = await asyncio.to_thread(self._store.outcome, self._task_id, seq)
                if outcome is not None:
                    return ApprovalDecision(**outcome)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 1.2, _LAST_POLL_S)
        finally:
            if remaining_s is not None:
                self._limit.reschedule(loop.time() + remaining_s)

    async def _transition(self, then: TaskStatus, event: str, data: dict[str, Any]) -> None:
        await asyncio.to_thread(self._store.transition, self._task_id, then, event, data)


def decide(
    store: AgentStore, task_id: str, decision: ApprovalDecision, call: int | None = None
) -> int:
    """Record a person's decision on a call that waits.

    Args:
        store: Tasks and journal.
        task_id: The task.
        decision: The decision.
        call: Number of the call; None for the one that waits.

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
    seq = call if call is not None else waiting[0]
    # Of two concurrent decisions the first counts: an entry is closed once.
    store.close_entry(task_id, seq, asdict(decision))
    return seq
