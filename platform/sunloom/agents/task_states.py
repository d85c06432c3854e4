"""The states of a task and the ways between them."""

from __future__ import annotations

from enum import StrEnum

from sunloom.errors import ConflictError


class TaskStatus(StrEnum):
    """Where a task stands."""

    QUEUED = "queued"
    RUNNING = "running"
    AWAITING_APPROVAL = "awaiting_approval"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED})

_WAYS: dict[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.QUEUED: frozenset({TaskStatus.RUNNING, TaskStatus.CANCELLED, TaskStatus.FAILED}),
    # Back to queued when the actor that ran the task died.
    TaskStatus.RUNNING: frozenset({TaskStatus.QUEUED, TaskStatus.AWAITING_APPROVAL, *FINAL}),
    TaskStatus.AWAITING_APPROVAL: frozenset({TaskStatus.QUEUED, TaskStatus.RUNNING, *FINAL}),
    TaskStatus.SUCCEEDED: frozenset(),
    TaskStatus.FAILED: frozenset(),
    TaskStatus.CANCELLED: frozenset(),
}


def check_transition(task_id: str, now: TaskStatus, then: TaskStatus) -> None:
    """Refuse a way that does not exist.

    Raises:
        ConflictError: The task cannot go from ``now`` to ``then``.
    """
    if then not in _WAYS[now]:
        raise ConflictError(
            f"Task {task_id} is {now.value} and cannot become {then.value}.",
            f"From {now.value}: {', '.join(sorted(_WAYS[now])) or 'nothing, it is finished'}.",
        )


def is_final(status: TaskStatus) -> bool:
    """Whether nothing follows on this status."""
    return status in FINAL
