"""The state of a monitor's alerts: raised after so many windows, resolved after calm ones."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from sunloom.config import Settings
from sunloom.config.monitoring import WatchConfig
from sunloom.core.alerts import Alert, emit_alert, resolve_alert
from sunloom.monitoring.findings import Finding

SET_RULE = "feature_set_drift"
_DRIFT = "feature_drift/"
# Of a few features, one or two are a large share already, but no event of the whole set.
_SET_LEAST = 5
# The text must fit: the database holds 4,000 characters of a message.
_MOST_NAMES = 10

Streaks = dict[str, dict[str, int]]
"""``rule/feature`` to consecutive windows with a finding (``up``), calm ones (``calm``), and
whether an alert is ``open``; plain data, stored between runs."""


def update_alerts(
    settings: Settings,
    config: WatchConfig,
    findings: Sequence[Finding],
    streaks: Streaks,
    window: str,
) -> list[str]:
    """Raise and resolve the alerts that are due after one window.

    Where a feature has drifted, values outside its range are part of that and raise no alert of
    their own; where most features have, one alert about the set replaces all of theirs.

    Args:
        settings: Sinks and database.
        config: The monitor.
        findings: Of one window.
        streaks: Changed in place.
        window: Shown in messages.

    Returns:
        Features (or the set's name) with an alert raised or counted up.
    """
    drift = [finding for finding in findings if finding.rule == "feature_drift"]
    drifted = [finding for finding in drift if finding.flagged]
    is_set = len(drifted) >= max(_SET_LEAST, config.alerts.set_share * len(drift))
    raised: list[str] = []
    # A round without drift is no calm window of the set: it must not resolve its alert.
    if drift and _count_window(
        settings, config, streaks,
        key=SET_RULE, flagged=is_set, calm=not is_set,
        alert=_set_alert(config, drifted, len(drift), window),
    ):  # fmt: skip
        raised.append(config.name)
    # Before the loop, which changes what is open.
    drifting = {finding.feature for finding in drifted} | {
        key.removeprefix(_DRIFT)
        for key, counts in streaks.items()
        if key.startswith(_DRIFT) and counts["open"]
    }
    for finding in findings:
        is_part_of_drift = finding.rule == "feature_range" and finding.feature in drifting
        is_covered = (finding.rule == "feature_drift" and is_set) or is_part_of_drift
        if _count_window(
            settings, config, streaks,
            key=f"{finding.rule}/{finding.feature}",
            flagged=finding.flagged and not is_covered,
            calm=finding.calm and not finding.flagged,
            alert=_feature_alert(config, finding, window),
        ):  # fmt: skip
            raised.append(finding.feature)
    return raised


def _count_window(
    settings: Settings,
    config: WatchConfig,
    streaks: Streaks,
    *,
    key: str,
    flagged: bool,
    calm: bool,
    alert: Alert,
) -> bool:
    """Count one window of a rule, and raise or resolve its alert where due; whether it is raised.

    Args:
        settings: Sinks and database.
        config: Windows before an alert is raised, and before it is resolved.
        streaks: Changed in place.
        key: ``rule/feature``.
        flagged: Whether there is a finding.
        calm: Whether the value is well below its bound.
        alert: The rule's alert.
    """
    counts = streaks.get(key, {"up": 0, "calm": 0, "open": 0})
    counts["up"] = counts["up"] + 1 if flagged else 0
    # Between the bound and calm neither count goes on: a value at the bound does not flap.
    counts["calm"] = counts["calm"] + 1 if calm and not flagged else 0
    is_raised = flagged and bool(counts["open"] or counts["up"] >= config.alerts.raise_after)
    is_resolved = counts["open"] and not flagged and counts["calm"] >= config.alerts.clear_after
    counts["open"] = int(counts["open"] or is_raised)
    # Only rules in progress are stored: most of thousands of features are calm all the time.
    if is_resolved or not (counts["up"] or counts["open"]):
        streaks.pop(key, None)
    else:
        streaks[key] = counts
    if is_raised:
        emit_alert(settings, alert)
    elif is_resolved:
        resolve_alert(settings, alert)
    return is_raised


def _set_alert(
    config: WatchConfig, drifted: Sequence[Finding], features: int, window: str
) -> Alert:
    # First what has no distance at all: it cannot be compared.
    largest = sorted(drifted, key=lambda f: -inf if f.value is None else -f.value)[:_MOST_NAMES]
    names = ", ".join(
        f"{finding.feature} ({'no value' if finding.value is None else f'{finding.value:.3f}'})"
        for finding in largest
    )
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
