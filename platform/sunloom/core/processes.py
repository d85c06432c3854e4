"""Leave no process behind: everything that this process started ends with it.

HAProxy and vLLM's engine core outlive the Ray workers that started them when those are killed.
As a subreaper, this process inherits such orphans, so it can find and end them by pid.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from sunloom.core.interrupts import ignore_interrupts
from sunloom.core.telemetry import get_logger

# From <linux/prctl.h>; the standard library does not offer prctl.
_PR_SET_CHILD_SUBREAPER = 36
_PASSES = 10
# Above the workers of a Ray that somebody started with its own ports (10002 to 19999).
_FIRST_PORT, _PORT_TRIALS = 20_000, 50
_random = random.SystemRandom()


def adopt_orphans() -> bool:
    """Make this process the parent of its orphaned descendants (Linux); False elsewhere."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return int(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0
    except (OSError, AttributeError):
        return False


def end_descendants(grace_s: float = 5.0, keep: frozenset[int] = frozenset()) -> list[str]:
    """End every descendant of this process and reap it.

    Args:
        grace_s: Seconds between SIGTERM and SIGKILL.
        keep: Pids to leave alone, such as those that ran before the work began.

    Returns:
        Names of the processes that had to be ended.
    """
    names: list[str] = []
    _stop_fork_server(keep)
    # A server may have forked while its relatives were listed (Ray's dashboard starts its modules
    # that way), so the list is made again until nothing is on it.
    for _ in range(_PASSES):
        found = [child for child in psutil.Process().children(recursive=True) if is_alive(child)]
        found = [child for child in found if child.pid not in keep]
        if not found:
            break
        names += [process_name(child) for child in found]
        end_processes(found, grace_s)
    # Orphans adopted in the meantime stay zombies until this process waits for them.
    _reap()
    return names


def _stop_fork_server(keep: frozenset[int]) -> None:
    """End the server that multiprocessing forks from, so that it starts another when it needs one.

    Ended by pid, it would be waited for at the next use, in vain: "No child processes".
    """
    from multiprocessing.forkserver import _forkserver

    server: Any = _forkserver
    if server._forkserver_pid is not None and server._forkserver_pid not in keep:
        server._stop()


def end_processes(processes: list[psutil.Process], grace_s: float) -> None:
    """End processes: SIGTERM, and SIGKILL for those that run ``grace_s`` seconds later."""
    _signal(processes, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    _signal(alive, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=grace_s)


def process_name(process: psutil.Process) -> str:
    """Name of a process; its pid if it has ended meanwhile."""
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return str(process.pid)


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs; a zombie has ended already and only waits to be reaped."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def descendants() -> frozenset[int]:
    """Pids of all descendants of this process."""
    return frozenset(child.pid for child in psutil.Process().children(recursive=True))


@contextmanager
def own_processes() -> Iterator[None]:
    """End whatever was started inside the block, however the block ends."""
    adopt_orphans()
    before = descendants()
    try:
        yield
    finally:
        with ignore_interrupts():
            names = end_descendants(keep=before)
        if names:
            get_logger("processes").debug("ended %s", ", ".join(sorted(set(names))))


def lower_priority(by: int) -> None:
    """Lower the CPU priority of this process's threads (Linux: each has its own).

    Args:
        by: Steps of niceness; threads that start later inherit those of the one that starts them.
    """
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):
            niceness = os.getpriority(os.PRIO_PROCESS, int(thread))
            os.setpriority(os.PRIO_PROCESS, int(thread), min(19, niceness + by))


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nothing listens on at this moment.

    It lies below those that the system hands out for connections, where there is room: one of
    these could be taken in the seconds until a server listens there.
    """
    candidates = range(_FIRST_PORT, _first_connection_port())
    # Not in order: processes that search at the same time must not find the same one.
    for port in _random.sample(candidates, min(len(candidates), _PORT_TRIALS)):
        if is_port_free(port, host):
            return port
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _first_connection_port() -> int:
    """The first of the ports that the system hands out (Linux); 0 where it does not tell."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def is_port_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        # Servers set it too: without it, connections in TIME_WAIT make a free port look busy.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _reap() -> None:
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
