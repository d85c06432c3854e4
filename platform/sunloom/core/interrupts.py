"""Signals that ask this process to end: SIGINT (Ctrl-C), SIGTERM and SIGHUP.

They are raised as :class:`Interrupted` in the main thread, so that every ``finally`` runs. A
signal counts until somebody has acted on it, even if a library swallowed the exception: work that
was interrupted never passes for finished.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Received inside `interrupt_on_signals` and not acted on yet. Signal handlers belong to the
# process, hence so does this.
_received: list[signal.Signals] = []


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end.

    Args:
        number: The signal.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"interrupted by {number.name}")
        self.number = number

    @property
    def exit_status(self) -> int:
        """128 and the signal's number, as shells have it: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Raise :class:`Interrupted` where SIGINT, SIGTERM or SIGHUP arrives inside the block.

    Outside the main thread, which alone receives signals, the block runs as it is.

    Raises:
        Interrupted: A signal arrived; also when the block ended well or with another exception.
    """
    if not _is_main_thread():
        yield
        return
    _received.clear()
    # A signal that is ignored was ignored on purpose: by nohup, or by a shell for its background.
    numbers = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
        raise_if_interrupted()
    # Ray raises a bare KeyboardInterrupt of its own for a signal that arrives inside `ray.get`,
    # Typer and others leave with SystemExit: which signal it was is only in the list.
    except BaseException as error:
        if _received and not isinstance(error, Interrupted):
            raise Interrupted(_received[0]) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


def raise_if_interrupted() -> None:
    """End work whose interruption was swallowed on the way.

    Raises:
        Interrupted: A signal arrived and nobody acted on it.
    """
    if _received:
        raise Interrupted(_received[0])


def is_interrupted() -> bool:
    """Whether a signal arrived and nobody acted on it."""
    return bool(_received)


def wait_for_interrupt() -> None:
    """Sleep until a signal arrives, which then is acted on: the work ended as it was meant to."""
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        _received.clear()


@contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at the first signal inside the block; a second one interrupts.

    Args:
        stop: Lets the work end well, soon.
    """
    if not _is_main_thread():
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        restore()
        stop()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()


@contextmanager
def ignore_interrupts() -> Iterator[None]:
    """Let a clean-up run to its end: the second Ctrl-C of an impatient user would cut it short."""
    if not _is_main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def keep_signal_handlers() -> Iterator[None]:
    """Keep this process's signal handlers while a library runs that installs its own.

    Ray Tune and Ray Train take Ctrl-C for the wish to end a run early with what there is, and
    leave their handler behind; Ray's own handler of SIGTERM leaves at once with status 15.

    Raises:
        Interrupted: A signal arrived inside the block, whatever the library made of it.
    """
    original = signal.signal

    def refuse(signalnum: int, handler: Any) -> Any:
        # In other threads the original raises the error that a library expects there.
        return signal.getsignal(signalnum) if _is_main_thread() else original(signalnum, handler)

    # Restoring them afterwards would be too late: the library's handler would get the signal.
    signal.signal = refuse
    try:
        yield
    finally:
        signal.signal = original
        if _is_main_thread():
            # Ray's core puts a handler of its own beneath Python's, in C++: it prints a stack and
            # aborts the process three seconds after SIGTERM, in the middle of the clean-up.
            for number in _SIGNALS:
                # None stands for one that was not installed from Python: it stays.
                if (handler := signal.getsignal(number)) is not None:
                    signal.signal(number, handler)
    raise_if_interrupted()


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _received.append(signal.Signals(number))
    raise Interrupted(_received[-1])


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
