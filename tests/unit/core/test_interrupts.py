"""A signal ends the work it arrives in, whatever a library makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sunloom.core.interrupts import (
    Interrupted,
    ignore_interrupts,
    interrupt_on_signals,
    keep_signal_handlers,
    raise_if_interrupted,
    stop_on_signals,
    wait_for_interrupt,
)

NUMBERS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)


def swallow() -> None:
    """What a library may do with an interrupt."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        return


def replace_with_bare_interrupt() -> None:
    """What ``ray.get`` does."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        raise KeyboardInterrupt from None


def leave_with_success() -> None:
    """What Ray Train's handler does."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        sys.exit(0)


def fail() -> None:
    """What a library does that takes an interrupt for a failure."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt as error:
        raise RuntimeError("the run failed") from error


@NUMBERS
def test_a_signal_is_raised_with_its_exit_status(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, interrupt_on_signals():
        signal.raise_signal(number)
    assert caught.value.exit_status == 128 + number
    assert isinstance(caught.value, KeyboardInterrupt)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    "library", [swallow, replace_with_bare_interrupt, leave_with_success, fail]
)
def test_an_interrupt_that_a_library_changes_counts(library: Callable[[], None]) -> None:
    with pytest.raises(Interrupted) as caught, interrupt_on_signals():
        library()
    assert caught.value.exit_status == 143


def test_swallowed_interrupts_end_the_step_that_asks() -> None:
    finished = False
    with pytest.raises(Interrupted), interrupt_on_signals():
        swallow()
        raise_if_interrupted()
        finished = True
    assert not finished
    raise_if_interrupted()


@NUMBERS
def test_a_library_cannot_take_the_handlers(number: signal.Signals) -> None:
    stopped_early = []
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(Interrupted) as caught, interrupt_on_signals():
        ours = signal.getsignal(number)
        with keep_signal_handlers():
            for taken in (number, signal.SIGUSR1):
                signal.signal(taken, lambda *_: stopped_early.append(True))
            assert signal.getsignal(number) is ours
            signal.raise_signal(number)
    assert caught.value.number == number
    assert stopped_early == []
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_search_that_was_cut_short_does_not_return() -> None:
    with pytest.raises(Interrupted), interrupt_on_signals():
        with keep_signal_handlers():
            swallow()
        pytest.fail("the result of an interrupted run would be used")


def test_a_clean_up_is_not_cut_short() -> None:
    done = False
    with interrupt_on_signals(), ignore_interrupts():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        done = True
    assert done


def test_waiting_for_a_signal_ends_well() -> None:
    with interrupt_on_signals():
        timer = threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGTERM])
        timer.start()
        wait_for_interrupt()
        timer.join()


def test_the_first_signal_stops_and_the_second_interrupts() -> None:
    stops = []
    first = stop_on_signals(lambda: stops.append("first"))
    with pytest.raises(Interrupted), interrupt_on_signals(), first:
        signal.raise_signal(signal.SIGTERM)
        raise_if_interrupted()
        stops.append("still at work")
        signal.raise_signal(signal.SIGTERM)
    assert stops == ["first", "still at work"]


def test_signals_that_are_ignored_stay_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupt_on_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_run_as_they_are() -> None:
    outcome = []

    def work() -> None:
        with interrupt_on_signals(), keep_signal_handlers(), ignore_interrupts():
            outcome.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcome == ["done"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_ends_with_the_status_of_its_signal(
    number: signal.Signals, status: int, project_root: Path
) -> None:
    script = (
        "import sys, time\nfrom sunloom.cli import main\n"
        "@main.app.command()\ndef wait() -> None:\n"
        "    print('ready', flush=True)\n    time.sleep(60)\n"
        "main.run(['wait'])\n"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(project_root / "platform")},
        stdout=subprocess.PIPE,
        # A suite in the background ignores Ctrl-C, and children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert command.stdout is not None
    assert command.stdout.readline() == b"ready\n"
    start = time.monotonic()
    command.send_signal(number)
    assert command.wait(30) == status
    assert time.monotonic() - start < 10
