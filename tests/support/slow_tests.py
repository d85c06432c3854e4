"""Tests that take longer than half a minute are listed in ``tests/slow_tests.toml`` with a reason.

The terminal summary names those that took that long and are not listed. A run on a quiet machine
decides: beside other work a test takes longer than alone, so only the multiple fails the run.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

LIST = Path(__file__).parents[1] / "slow_tests.toml"
SLOW_S, FAILS_S = 30.0, 240.0


def listed_tests() -> dict[str, str]:
    """Node id of each listed test, without parameters, to its reason."""
    return {entry["test"]: entry["reason"] for entry in tomllib.loads(LIST.read_text())["slow"]}


def slow_tests(durations: dict[str, float], listed: dict[str, str]) -> dict[str, float]:
    """Tests that took longer than ``SLOW_S`` and are not listed, with their seconds."""
    return {
        test: seconds
        for test, seconds in durations.items()
        if seconds > SLOW_S and test.partition("[")[0] not in listed
    }


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Name slow tests that are not listed."""
    unlisted = slow_tests(_durations(terminalreporter), listed_tests())
    if unlisted:
        terminalreporter.section(f"longer than {SLOW_S:.0f} s and not in tests/{LIST.name}")
    for test, seconds in sorted(unlisted.items(), key=lambda item: -item[1]):
        terminalreporter.line(f"{seconds:6.1f} s  {test}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run in which a test that is not listed took eight times as long as it may alone."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and reporter is not None:
        unlisted = slow_tests(_durations(reporter), listed_tests())
        if any(seconds > FAILS_S for seconds in unlisted.values()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _durations(reporter: pytest.TerminalReporter) -> dict[str, float]:
    return {
        report.nodeid: report.duration
        for outcome in ("passed", "failed")
        for report in reporter.stats.get(outcome, [])
        # A start that tests share belongs to none of them.
        if report.when == "call"
    }
