"""Streams of a training's progress: one look at the job a second, whoever listens."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sunloom.config import Settings
from sunloom.core.database import Database
from sunloom.core.jobs import ENDED, job_client, job_state
from sunloom.core.progress import read_progress
from sunloom.core.telemetry import get_logger
from sunloom.errors import SunloomError
from sunloom.serving.apps.event_streams import (
    HEARTBEAT_S,
    EventResponse,
    SharedReaders,
    StreamLimit,
)
from sunloom.serving.apps.gateway.training_views import outcome_of_log, run_folder, summarize_job
from sunloom.serving.auth.api_keys import KeyRecord
from sunloom.serving.auth.key_holds import KeyHolds

_LOOK_S = 1.0
_log = get_logger("serving.training")


@dataclass(frozen=True)
class _View:
    """A job at one moment.

    Attributes:
        summary: Id, status, recipe and times.
        folder: Of its run, once there is one.
        outcome: Artifacts, metrics and error of a job that has ended; else None.
    """

    summary: dict[str, Any]
    folder: Path | None
    outcome: dict[str, Any] | None


class TrainingStreams:
    """The streams of one process.

    Args:
        settings: The job server, and how many streams a key may have open.
        database: Counts those of several replicas.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        # Of their own: a key's streams of agents' tasks leave it as many of trainings.
        shared = KeyHolds(database, "trainings") if settings.serving.gateway.replicas > 1 else None
        self.limit = StreamLimit(settings.serving.training.event_streams, shared)
        self._watches: SharedReaders[_Watch] = SharedReaders()

    def response(self, key: KeyRecord, job_id: str, after: int) -> EventResponse:
        """The response that streams a job's progress.

        Args:
            key: The caller's key.
            job_id: A job of the caller's tenant.
            after: The last step that the client has seen.
        """
        return EventResponse(self.events(job_id, after), lambda: self.limit.hold(key))

    async def events(self, job_id: str, after: int) -> AsyncGenerator[str, None]:
        """``status`` at first and at each change, ``step`` for each step, ``end`` with the result.

        A step has its number as SSE id. One that is done again from a checkpoint is sent once.
        """
        status, last_sent = None, time.monotonic()
        with self._watches.follow(job_id, lambda: _Watch(self._settings, job_id)) as watch:
            while True:
                view, texts = watch.view, []
                if view is not None:
                    if view.summary["status"] != status:
                        status = view.summary["status"]
                        texts.append(_encode("status", view.summary))
                    for progress in await asyncio.to_thread(_read, view.folder, after):
                        after = progress.step
                        texts.append(_encode("step", json.loads(progress.to_json()), after))
                    if view.outcome is not None:
                        texts.append(_encode("end", view.summary | view.outcome))
                if not texts and time.monotonic() - last_sent > HEARTBEAT_S:
                    texts.append(": still running\n\n")
                for text in texts:
                    yield text
                    last_sent = time.monotonic()
                if view is not None and view.outcome is not None:
                    return
                await watch.wait()


class _Watch:
    """Looks at one job for all streams that follow it."""

    def __init__(self, settings: Settings, job_id: str) -> None:
        self.view: _View | None = None
        self._settings, self._job_id = settings, job_id
        self._looked = asyncio.Event()
        self._looking = asyncio.create_task(self._look())

    async def wait(self) -> None:
        """Wait for the next look."""
        await self._looked.wait()

    def stop(self) -> None:
        """Look no more."""
        self._looking.cancel()

    async def _look(self) -> None:
        while True:
            try:
                self.view = await asyncio.to_thread(self._read_job)
            # The client raises a RuntimeError for whatever the server answers.
            except (SunloomError, RuntimeError, OSError) as error:
                _log.warning("job %s cannot be looked at, trying again: %s", self._job_id, error)
            looked, self._looked = self._looked, asyncio.Event()
            looked.set()
            await asyncio.sleep(_LOOK_S)

    def _read_job(self) -> _View:
        client = job_client(self._settings)
        job = client.get_job_info(self._job_id)
        has_ended = job_state(job).status in ENDED
        folder = self.view.folder if self.view else None
        # The server sends the whole log each time.
        logs = "" if folder and not has_ended else str(client.get_job_logs(self._job_id))
        return _View(
            summary=summarize_job(job),
            folder=folder or run_folder(logs),
            outcome=outcome_of_log(job, logs) if has_ended else None,
        )


def _read(folder: Path | None, after: int) -> Any:
    return read_progress(folder, after) if folder else []


def _encode(event: str, data: dict[str, Any], number: int | None = None) -> str:
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {event}\ndata: {json.dumps(data)}\n\n"
