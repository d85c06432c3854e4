"""Whatever a block starts ends with it, orphans included."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sunloom.core.processes import (
    free_port,
    is_alive,
    is_port_free,
    own_processes,
)


def test_children_and_orphans_end_with_the_block() -> None:
    # The middle process ends at once, so its sleeping child is an orphan.
    script = (
        "import subprocess as s; print(s.Popen(['sleep', '60'], stdout=s.DEVNULL, "
        "stderr=s.DEVNULL).pid)"
    )
    with own_processes():
        direct = subprocess.Popen(["sleep", "60"])
        out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        orphan = int(out.stdout)
        time.sleep(0.1)
        assert psutil.pid_exists(orphan)
    assert not psutil.pid_exists(orphan)
    assert not psutil.pid_exists(direct.pid)


def test_a_process_that_starts_while_the_others_are_ended_ends_too(tmp_path: Path) -> None:
    # Ray's dashboard starts its modules at any moment, also between the list and the signal.
    script = (
        "import signal, subprocess, sys\n"
        "def start(*_):\n"
        "    later = subprocess.Popen(['sleep', '60'])\n"
        "    open(sys.argv[1], 'w').write(str(later.pid))\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, start)\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    pid = tmp_path / "pid"
    with own_processes():
        words = [sys.executable, "-c", script, str(pid)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    assert not psutil.pid_exists(int(pid.read_text()))


def test_multiprocessing_starts_another_fork_server_after_the_block() -> None:
    script = (
        "import multiprocessing, time\n"
        "from sunloom.core.processes import own_processes\n"
        "def run():\n"
        "    context = multiprocessing.get_context('forkserver')\n"
        "    process = context.Process(target=time.sleep, args=(0,))\n"
        "    process.start()\n"
        "    process.join()\n"
        "    print(process.exitcode)\n"
        "with own_processes():\n"
        "    run()\n"
        "run()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("0\n0\n", 0), done.stderr


def test_what_ran_before_is_left_alone() -> None:
    earlier = subprocess.Popen(["sleep", "60"])
    try:
        with own_processes():
            pass
        assert earlier.poll() is None
    finally:
        earlier.kill()
        earlier.wait()


def test_the_block_cleans_up_after_an_error() -> None:
    started: list[subprocess.Popen[bytes]] = []

    def work() -> None:
        with own_processes():
            started.append(subprocess.Popen(["sleep", "60"]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not psutil.pid_exists(started[0].pid)


def test_a_process_that_has_ended_is_not_alive() -> None:
    child = subprocess.Popen(["sleep", "60"])
    process = psutil.Process(child.pid)
    assert is_alive(process)
    child.kill()
    while process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not is_alive(process)
    child.wait()
    # Nothing is left to ask for its status.
    assert not is_alive(process)


def test_free_ports_are_free_until_bound() -> None:
    port = free_port()
    assert is_port_free(port)
    # Those of connections begin there: between here and a server's start one could take it.
    first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert port < int(first) or int(first) <= 20_000
    assert len({free_port() for _ in range(20)}) > 15, "processes that search at once"
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        assert not is_port_free(port)


def test_every_thread_has_the_lower_priority() -> None:
    script = """
import os, threading
from sunloom.core.processes import lower_priority
before = os.getpriority(os.PRIO_PROCESS, 0)
end = threading.Event()
threading.Thread(target=end.wait).start()
lower_priority(1)
threading.Thread(target=end.wait).start()
threads = [int(name) for name in os.listdir("/proc/self/task")]
print(len(threads) >= 3, {os.getpriority(os.PRIO_PROCESS, name) - before for name in threads})
lower_priority(30)
print(os.getpriority(os.PRIO_PROCESS, 0))
end.set()
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.split("\n") == ["True {1}", "19", ""]
