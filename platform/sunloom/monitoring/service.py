"""Rounds of a monitor, one after the other, until it is told to stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from threading import Event, current_thread, main_thread
from types import FrameType
from typing import Any

from sunloom.config.monitoring.recipe import MonitoringRecipe
from sunloom.core.alerts.alert import Alert
from sunloom.core.alerts.delivery import emit_alert, resolve_alert
from sunloom.core.telemetry import get_logger
from sunloom.errors import SunloomError
from sunloom.monitoring.drift_job import run_drift
from sunloom.monitoring.watch import KINDS, run_watch


def run_monitoring(
    recipe: MonitoringRecipe, moment: datetime | None = None, kinds: Collection[str] = KINDS
) -> dict[str, Any]:
    """One round of what the recipe describes: a watched table, or two periods of an event log."""
    if recipe.watch is None:
        return run_drift(recipe)
    return run_watch(recipe, moment, kinds)


def keep_monitoring(
    recipe: MonitoringRecipe,
    every: timedelta,
    stop: Event | None = None,
    kinds: Collection[str] = KINDS,
) -> dict[str, Any]:
    """A round now and then one every so often, until SIGTERM, SIGINT or ``stop``.

    A round that fails raises the alert ``monitor_failed`` and the next one is tried; one that
    works resolves it.

    Returns:
        ``rounds``, ``failed`` and ``raised``: features with an alert, over all rounds.
    """
    stop = stop or Event()
    done: dict[str, Any] = {"rounds": 0, "failed": 0, "raised": []}
    with _stopped_by_signals(stop):
        while not stop.is_set():
            began = time.monotonic()
            _try(recipe, kinds, done)
            stop.wait(max(0.0, every.total_seconds() - (time.monotonic() - began)))
    return done


def _try(recipe: MonitoringRecipe, kinds: Collection[str], done: dict[str, Any]) -> None:
    name = recipe.watch.name if recipe.watch is not None else recipe.events.name
    failed = Alert("monitor_failed", "critical", f"{name} cannot be watched", {"monitor": name})
    done["rounds"] += 1
    try:
        result = run_monitoring(recipe, kinds=kinds)
    except SunloomError as error:
        get_logger("monitoring").error("%s: %s", name, error)
        done["failed"] += 1
        message = f"{failed.message}: {error.message}"
        emit_alert(recipe, Alert(failed.name, failed.severity, message, failed.labels))
        return
    resolve_alert(recipe, failed)
    done["raised"] += result.get("raised", [])


@contextmanager
def _stopped_by_signals(stop: Event) -> Iterator[None]:
    if current_thread() is not main_thread():
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
