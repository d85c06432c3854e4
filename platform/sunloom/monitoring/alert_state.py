"""Findings become alerts: after so many windows, once, until it has been calm long enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sunloom.config import Settings
from sunloom.config.monitoring.watch import WatchConfig
from sunloom.core.alerts.alert import Alert
from sunloom.core.alerts.delivery import emit_alert, resolve_alert
from sunloom.monitoring.findings import Finding

SET_RULE = "feature_set_drift"
_SET_LEAST = 5
_NAMED = 10


@dataclass
class AlertState:
    """What went before, by rule and feature: windows with a finding, calm ones, and what is open.

    Attributes:
        held: ``rule/feature`` to ``up``, ``calm`` and ``open``; plain data, kept between runs.
    """

    held: dict[str, dict[str, int]] = field(default_factory=dict)

    def drifting(self) -> set[str]:
        """Features with an open alert about drift."""
        prefix = "feature_drift/"
        held = self.held.items()
        return {key.removeprefix(prefix) for key, s in held if key.startswith(prefix) and s["open"]}

    def step(self, key: str, flagged: bool, calm: bool, config: WatchConfig) -> str | None:
        """Count one window; ``raise`` or ``resolve`` where an alert is due."""
        rules = config.alerts
        state = self.held.get(key, {"up": 0, "calm": 0, "open": 0})
        state["up"] = state["up"] + 1 if flagged else 0
        state["calm"] = state["calm"] + 1 if calm and not flagged else 0
        due = None
        if flagged and (state["open"] or state["up"] >= rules.raise_after):
            state["open"], due = 1, "raise"
        elif state["open"] and state["calm"] >= rules.clear_after:
            due = "resolve"
        if due == "resolve" or not (state["up"] or state["open"]):
            self.held.pop(key, None)
        else:
            self.held[key] = state
        return due


def update_alerts(
    settings: Settings,
    config: WatchConfig,
    findings: Sequence[Finding],
    streaks: AlertState,
    window: str,
) -> list[str]:
    """Raise and resolve what is due after one window.

    Where a feature has drifted, values outside its range are part of that and raise nothing of
    their own; where most features have, one alert about the set stands for all of theirs.

    Args:
        settings: Sinks and database.
        config: The monitor.
        findings: Of one window.
        streaks: Changed in place.
        window: Shown in messages.

    Returns:
        Features (or the set's name) with an alert raised or counted up.
    """
    drifted = [one for one in findings if one.rule == "feature_drift" and one.flagged]
    judged = sum(one.rule == "feature_drift" for one in findings)
    is_set = len(drifted) >= max(_SET_LEAST, config.alerts.set_share * judged)
    raised: list[str] = []
    if judged:
        _settle_set(settings, config, drifted, judged, is_set, streaks, window, raised)
    moved = {one.feature for one in drifted} | streaks.drifting()
    for one in findings:
        part_of_drift = one.rule == "feature_range" and one.feature in moved
        is_covered = (one.rule == "feature_drift" and is_set) or part_of_drift
        flagged = one.flagged and not is_covered
        due = streaks.step(
            f"{one.rule}/{one.feature}", flagged, one.calm and not one.flagged, config
        )
        alert = _alert(config, one, window)
        if due == "raise":
            emit_alert(settings, alert)
            raised.append(one.feature)
        elif due == "resolve":
            resolve_alert(settings, alert)
    return raised


def _settle_set(
    settings: Settings,
    config: WatchConfig,
    drifted: Sequence[Finding],
    judged: int,
    is_set: bool,
    streaks: AlertState,
    window: str,
    raised: list[str],
) -> None:
    largest = sorted(drifted, key=lambda one: -one.value)
    names = ", ".join(f"{one.feature} ({one.value:.3f})" for one in largest[:_NAMED])
    more = f" and {len(drifted) - _NAMED} more" if len(drifted) > _NAMED else ""
    alert = Alert(
        SET_RULE,
        "critical",
        f"{len(drifted)} of {judged} features of {config.name} drifted in {window}: {names}{more}",
        {"monitor": config.name},
        float(len(drifted)),
        config.alerts.set_share * judged,
    )
    due = streaks.step(SET_RULE, is_set, not is_set, config)
    if due == "raise":
        emit_alert(settings, alert)
        raised.append(config.name)
    elif due == "resolve":
        resolve_alert(settings, alert)


def _alert(config: WatchConfig, one: Finding, window: str) -> Alert:
    labels = {"monitor": config.name, "feature": one.feature}
    message = f"{one.message} ({window}, bound {one.threshold:g})"
    return Alert(one.rule, config.alerts.severity, message, labels, one.value, one.threshold)


def lag_alert(config: WatchConfig, lag_s: float) -> Alert:
    """The alert about rows that stopped coming."""
    limit: Any = config.max_lag
    return Alert(
        "feature_freshness",
        config.alerts.severity,
        f"The newest row of {config.name} is {lag_s / 3600:.1f} hours old",
        {"monitor": config.name},
        lag_s,
        limit.total_seconds() if limit else None,
    )
