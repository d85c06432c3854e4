"""The monitoring service: rounds of a monitor, one after the other, until it is stopped."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from threading import Event

from sunloom.config.monitoring import MonitoringRecipe
from sunloom.core.alerts import Alert, emit_alert, resolve_alert
from sunloom.core.interrupts import stop_on_signals
from sunloom.core.telemetry import get_logger
from sunloom.errors import SunloomError
from sunloom.monitoring.drift_job import DriftRunResult, run_drift
from sunloom.monitoring.watch import KINDS, WatchResult, run_watch


@dataclass(frozen=True)
class ServiceResult:
    """All rounds of a service.

    Attributes:
        rounds: Rounds begun.
        failed: Rounds that failed.
        raised: Features with an alert, over all rounds.
    """

    rounds: int
    failed: int
    raised: Sequence[str]


def run_monitoring(
    recipe: MonitoringRecipe, as_of: datetime | None = None, kinds: Collection[str] = KINDS
) -> WatchResult | DriftRunResult:
    """One round of what the recipe describes: a watched table, or two periods of an event log."""
    if recipe.watch is None:
        return run_drift(recipe)
    return run_watch(recipe, as_of, kinds)


def keep_monitoring(
    recipe: MonitoringRecipe,
    every: timedelta,
    stop: Event | None = None,
    kinds: Collection[str] = KINDS,
) -> ServiceResult:
    """Run a round at once and one after each ``every``, until SIGTERM, SIGINT or ``stop``.

    A round that fails raises the alert ``monitor_failed`` and the next one is tried; one that
    works resolves it.
    """
    stop = stop or Event()
    rounds = failed = 0
    raised: list[str] = []
    with stop_on_signals(stop.set):
        while not stop.is_set():
            start = time.monotonic()
            rounds += 1
            result = _run_round(recipe, kinds)
            if result is None:
                failed += 1
            elif isinstance(result, WatchResult):
                raised += result.raised
            # The pause ends ``every`` after the start, so that rounds do not drift apart.
            stop.wait(max(0.0, every.total_seconds() - (time.monotonic() - start)))
    return ServiceResult(rounds=rounds, failed=failed, raised=raised)


def _run_round(
    recipe: MonitoringRecipe, kinds: Collection[str]
) -> WatchResult | DriftRunResult | None:
    """The round's result; None where it failed."""
    name = recipe.watch.name if recipe.watch is not None else recipe.events.name
    alert = Alert("monitor_failed", "critical", f"{name} cannot be watched", {"monitor": name})
    try:
        result = run_monitoring(recipe, kinds=kinds)
    # Others are defects of the code: they end the service instead of repeating for ever.
    except SunloomError as error:
        get_logger("monitoring").error("%s: %s", name, error)
        emit_alert(recipe, replace(alert, message=f"{alert.message}: {error.message}"))
        return None
    resolve_alert(recipe, alert)
    return result
