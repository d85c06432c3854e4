"""Keys that asked for tasks: an agent works on a task with its asker's rights, whoever reads it."""

from __future__ import annotations

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.config import Settings
from sunloom.core.database import Base, open_database
from sunloom.serving.auth.api_keys import KeyRecord, read_key


class TaskAskerRow(Base):
    """The key that asked for a task."""

    # Beside the tasks, whose table an earlier commit made: no column can be added to it.
    __tablename__ = "agent_task_askers"

    task_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    key_id: Mapped[str] = mapped_column(String(20))


class TaskAskers:
    """The askers of tasks, in the database.

    Args:
        settings: Names the database.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = open_database(settings, TaskAskerRow)

    def record(self, task_id: str, key: KeyRecord) -> None:
        """Record who asked for a new task."""
        with self._database.session() as session:
            session.add(TaskAskerRow(task_id=task_id, key_id=key.id))

    def key_of(self, task_id: str) -> KeyRecord | None:
        """The asker's key, valid or not; None for tasks of an earlier commit."""
        with self._database.session() as session:
            row = session.get(TaskAskerRow, task_id)
        return read_key(self._settings, row.key_id) if row is not None else None
