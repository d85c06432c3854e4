"""Repeats of tests that kill at random moments, and the length of those that go on for a while.

The suite runs each once and briefly; ``make fault-test`` and ``make soak-test`` ask for more. A
test that kills takes ``fault_seed``, which chooses the moments, and its mark says how many kills
one run of it is and which share of all it is given: ``@pytest.mark.faults(kills=4, share=0.3)``.
"""

from __future__ import annotations

import math

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the two targets."""
    group = parser.getgroup("sunloom")
    group.addoption("--faults", type=int, default=0, help="kills in all tests marked faults")
    group.addoption("--soak", type=float, default=0.0, help="seconds of each test marked soak")


def runs_of(faults: int, kills: int, share: float) -> int:
    """Runs of one test: at least the suite's one.

    Args:
        faults: Kills in all.
        kills: Kills in one run of the test.
        share: The test's part of all kills.
    """
    return max(1, math.ceil(faults * share / kills))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A seed for each run of a test that kills."""
    if "fault_seed" in metafunc.fixturenames:
        (mark,) = metafunc.definition.iter_markers("faults")
        runs = runs_of(metafunc.config.getoption("--faults"), **mark.kwargs)
        # A single run keeps the name that the test has in every list.
        ids = [pytest.HIDDEN_PARAM] if runs == 1 else None
        metafunc.parametrize("fault_seed", range(runs), ids=ids)


@pytest.fixture
def soak_s(request: pytest.FixtureRequest) -> float:
    """Seconds that a test marked ``soak`` goes on for; 0: as briefly as it makes sense."""
    return float(request.config.getoption("--soak"))
