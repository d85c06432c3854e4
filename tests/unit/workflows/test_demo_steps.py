"""The demo's list of steps says how long is left."""

import pytest

from sunloom.workflows.demo.flow import StepList, format_minutes

TITLES = {"a": "First", "b": "Second", "c": "Third"}


def test_the_time_left_follows_the_pace_of_the_steps_that_ended() -> None:
    steps = StepList(TITLES, {"a": 10, "b": 60, "c": 30})
    assert steps.left_s("a") == 100
    assert steps.left_s("a", elapsed_s=4) == 96
    assert steps.left_s("a", elapsed_s=25) == 90, "the steps after it take no less"
    steps.seconds["a"] = 20.0
    # 20 s instead of 10, beside 30 s at the expected pace.
    assert steps.left_s("b") == 1.25 * 90, "one short step says little about the machine"
    steps.seconds["b"] = 120.0
    assert steps.left_s("c") == 1.7 * 30, "two steps that took twice as long say more"
    steps.seconds |= {"a": 10.0, "b": 60.0}
    assert steps.left_s("c") == 30


def test_each_step_prints_whole_lines_with_the_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = StepList(TITLES, {"a": 10, "b": 600, "c": 30})
    with steps.step("a"):
        steps.note("done [all]")
    steps.seconds["a"] = 10.0
    with steps.step("c"):
        pass
    first, result, third, _ = capsys.readouterr().err.splitlines()
    assert first == "[1/3] First … (about 11 min left)"
    assert result.endswith("s  done [all]")
    assert third == "[3/3] Third … (about 30 s left)"


def test_durations_read_as_people_say_them() -> None:
    assert [format_minutes(s) for s in (4.4, 89, 90, 605)] == [
        "about 4 s",
        "about 89 s",
        "about 2 min",
        "about 10 min",
    ]
