"""The state of a monitor's alerts: raised after so many windows, resolved after calm ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from sunloom.config import Settings
from sunloom.config.monitoring import WatchAlerts, WatchConfig
from sunloom.core.alerts import Alert, emit_alert, resolve_alert
from sunloom.monitoring.findings import Finding

SET_RULE = "feature_set_drift"
# Of a few features, one or two are a large share already, but no event of the whole set.
_SET_LEAST = 5
# The text must fit: the database holds 4,000 characters of a message.
_MOST_NAMES = 10

Change = Literal["raise", "resolve"]


@dataclass
class AlertState:
    """Consecutive windows with a finding, calm ones, and open alerts, by rule and feature.

    Attributes:
        rules: ``rule/feature`` to ``up``, ``calm`` and ``open``; plain data, stored between runs.
    """

    rules: dict[str, dict[str, int]] = field(default_factory=dict)

    def features_with_open_drift(self) -> set[str]:
        """Features with an open alert about drift."""
        prefix = "feature_drift/"
        return {
            key.removeprefix(prefix)
            for key, state in self.rules.items()
            if key.startswith(prefix) and state["open"]
        }

    def advance(self, key: str, *, flagged: bool, calm: bool, rules: WatchAlerts) -> Change | None:
        """Count one window.

        Args:
            key: ``rule/feature``.
            flagged: Whether there is a finding.
            calm: Whether the value is well below its bound.
            rules: Windows before an alert is raised, and before it is resolved.

        Returns:
            The change of the alert that is due.
        """
        state = self.rules.get(key, {"up": 0, "calm": 0, "open": 0})
        state["up"] = state["up"] + 1 if flagged else 0
        # Between the bound and calm neither count goes on: a value at the bound does not flap.
        state["calm"] = state["calm"] + 1 if calm and not flagged else 0
        change: Change | None = None
        if flagged and (state["open"] or state["up"] >= rules.raise_after):
            state["open"], change = 1, "raise"
        elif state["open"] and state["calm"] >= rules.clear_after:
            change = "resolve"
        # Only rules in progress are stored: most of thousands of features are calm all the time.
        if change == "resolve" or not (state["up"] or state["open"]):
            self.rules.pop(key, None)
        else:
            self.rules[key] = state
        return change


def update_alerts(
    settings: Settings,
    config: WatchConfig,
    findings: Sequence[Finding],
    state: AlertState,
    window: str,
) -> list[str]:
    """Raise and resolve the alerts that are due after one window.

    Where a feature has drifted, values outside its range are part of that and raise no alert of
    their own; where most features have, one alert about the set replaces all of theirs.

    Args:
        settings: Sinks and database.
        config: The monitor.
        findings: Of one window.
        state: Changed in place.
        window: Shown in messages.

    Returns:
        Features (or the set's name) with an alert raised or counted up.
    """
    drift = [finding for finding in findings if finding.rule == "feature_drift"]
    drifted = [finding for finding in drift if finding.flagged]
    is_set = len(drifted) >= max(_SET_LEAST, config.alerts.set_share * len(drift))
    raised: list[str] = []
    # A round without drift is no calm window of the set: it must not resolve its alert.
    if drift:
        change = state.advance(SET_RULE, flagged=is_set, calm=not is_set, rules=config.alerts)
        if _apply(settings, change, _set_alert(config, drifted, len(drift), window)):
            raised.append(config.name)
    # Before the loop, which changes what is open.
    drifting = {finding.feature for finding in drifted} | state.features_with_open_drift()
    for finding in findings:
        is_part_of_drift = finding.rule == "feature_range" and finding.feature in drifting
        is_covered = (finding.rule == "feature_drift" and is_set) or is_part_of_drift
        change = state.advance(
            f"{finding.rule}/{finding.feature}",
            flagged=finding.flagged and not is_covered,
            calm=finding.calm and not finding.flagged,
            rules=config.alerts,
        )
        if _apply(settings, change, _feature_alert(config, finding, window)):
            raised.append(finding.feature)
    return raised


def _apply(settings: Settings, change: Change | None, alert: Alert) -> bool:
    """Raise or resolve the alert; whether it is raised."""
    if change == "raise":
        emit_alert(settings, alert)
    elif change == "resolve":
        resolve_alert(settings, alert)
    return change == "raise"


def _set_alert(
    config: WatchConfig, drifted: Sequence[Finding], features: int, window: str
) -> Alert:
    largest = sorted(drifted, key=lambda finding: -finding.value)[:_MOST_NAMES]
    names = ", ".join(f"{finding.feature} ({finding.value:.3f})" for finding in largest)
    more = f" and {len(drifted) - _MOST_NAMES} more" if len(drifted) > _MOST_NAMES else ""
    return Alert(
        name=SET_RULE,
        severity="critical",
        message=f"{len(drifted)} of {features} features of {config.name} drifted in {window}: "
        f"{names}{more}",
        labels={"monitor": config.name},
        value=float(len(drifted)),
        threshold=config.alerts.set_share * features,
    )


def _feature_alert(config: WatchConfig, finding: Finding, window: str) -> Alert:
    return Alert(
        name=finding.rule,
        severity=config.alerts.severity,
        message=f"{finding.message} ({window}, bound {finding.threshold:g})",
        labels={"monitor": config.name, "feature": finding.feature},
        value=finding.value,
        threshold=finding.threshold,
    )


def lag_alert(config: WatchConfig, lag_s: float, max_lag: timedelta) -> Alert:
    """The alert about a source without new rows."""
    return Alert(
        name="feature_freshness",
        severity=config.alerts.severity,
        message=f"The newest row of {config.name} is {lag_s / 3600:.1f} hours old",
        labels={"monitor": config.name},
        value=lag_s,
        threshold=max_lag.total_seconds(),
    )
