"""One call of a resolver: sync or async, with its timeout enforced."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from sunloom.errors import DataError, SunloomError

Outcome = tuple[Any, str | None]
"""A value, or None and the cause of the failure."""

_MAX_ABANDONED = 16
# All rows of a batch at once would open a connection each.
_ASYNC_CALLS = 64


def attempt(call: Callable[[], Any]) -> Outcome:
    """The call's outcome; our own errors pass."""
    try:
        return call(), None
    except SunloomError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a user's function raises
        return None, _cause(error)


def _cause(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class TimedCaller:
    """Runs calls in a thread and stops waiting after the timeout.

    Python cannot end a thread: a call that overran goes on in its own, and the next call gets a
    new one. After 16 of them at once the resolver is an error.

    Args:
        timeout_s: The longest wait for one call.
        name: The resolver, for messages.
    """

    def __init__(self, timeout_s: float, name: str) -> None:
        self._timeout_s = timeout_s
        self._name = name
        self._worker: _Worker | None = None
        self._abandoned: list[_Worker] = []

    def attempt(self, call: Callable[[], Any]) -> Outcome:
        """The call's outcome.

        Raises:
            DataError: Too many earlier calls still run.
        """
        worker = self._worker or _Worker()
        self._worker = worker
        done = worker.submit(lambda: attempt(call))
        try:
            outcome: Outcome = done.result(self._timeout_s)
        except TimeoutError:
            self._abandon(worker)
            return None, f"no answer within {self._timeout_s:g} s"
        return outcome

    def close(self) -> None:
        """End the idle thread."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _abandon(self, worker: _Worker) -> None:
        # The thread ends when its call returns, if it ever does.
        worker.stop()
        self._worker = None
        self._abandoned = [w for w in (*self._abandoned, worker) if w.is_alive()]
        if len(self._abandoned) > _MAX_ABANDONED:
            raise DataError(
                f"Resolver {self._name!r}: {len(self._abandoned)} calls overran their timeout of "
                f"{self._timeout_s:g} s and still run.",
                "Give the function's own calls (HTTP, SQL) a timeout, or make it async.",
            )


class _Worker:
    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        # Not an executor: its threads are joined at exit, which a call that hangs would prevent.
        self._thread = threading.Thread(target=self._run, daemon=True, name="resolver")
        self._thread.start()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        done: Future[Any] = Future()
        self._calls.put((call, done))
        return done

    def stop(self) -> None:
        self._calls.put(None)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            call, done = item
            try:
                done.set_result(call())
            except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
                done.set_exception(error)


def attempt_async(calls: Sequence[Callable[[], Any]], timeout_s: float | None) -> list[Outcome]:
    """Run awaitables together, at most 64 at once; each is ended at its timeout."""
    outcomes: list[Outcome] = run_in_own_loop(_gather(calls, timeout_s))
    return outcomes


async def _gather(calls: Sequence[Callable[[], Any]], timeout_s: float | None) -> list[Outcome]:
    free = asyncio.Semaphore(_ASYNC_CALLS)

    async def attempt_one(call: Callable[[], Any]) -> Outcome:
        async with free:
            try:
                async with asyncio.timeout(timeout_s) as limit:
                    return await call(), None
            except SunloomError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a user's function raises
                # A TimeoutError of the function itself is reported as its own.
                if limit.expired():
                    return None, f"no answer within {timeout_s:g} s"
                return None, _cause(error)

    return await asyncio.gather(*(attempt_one(call) for call in calls))


def run_in_own_loop(work: Any) -> Any:
    """The awaitable's result, also in a thread that runs an event loop itself."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    # A running loop cannot run another: a thread of its own can.
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
            done.set_exception(error)

    threading.Thread(target=run, daemon=True, name="resolver-loop").start()
    return done.result()
