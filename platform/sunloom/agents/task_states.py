"""States of a task and the allowed transitions."""

from __future__ import annotations

from enum import StrEnum

from sunloom.errors import ConflictError


class TaskStatus(StrEnum):
    """Status of a task."""

    QUEUED = "queued"
    RUNNING = "running"
    AWAITING_APPROVAL = "awaiting_approval"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED})

_TRANSITIONS: dict[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.QUEUED: frozenset({TaskStatus.RUNNING, TaskStatus.CANCELLED, TaskStatus.FAILED}),
    # Back to queued when the actor that ran the task died.
    TaskStatus.RUNNING: frozenset({TaskStatus.QUEUED, TaskStatus.AWAITING_APPROVAL, *FINAL}),
    TaskStatus.AWAITING_APPROVAL: frozenset({TaskStatus.QUEUED, TaskStatus.RUNNING, *FINAL}),
    TaskStatus.SUCCEEDED: frozenset(),
    TaskStatus.FAILED: frozenset(),
    TaskStatus.CANCELLED: frozenset(),
}


def check_transition(task_id: str, now: TaskStatus, then: TaskStatus) -> None:
    """Check that a transition is allowed.

    Raises:
        ConflictError: The task cannot change from ``now`` to ``then``.
    """
    if then not in _TRANSITIONS[now]:
        raise ConflictError(
            f"Task {task_id} is {now.value} and cannot become {then.value}.",
            f"From {now.value}: {', '.join(sorted(_TRANSITIONS[now])) or 'none, it is finished'}.",
        )


def is_final(status: TaskStatus) -> bool:
    """Whether no transition leaves this status."""
    return status in FINAL
