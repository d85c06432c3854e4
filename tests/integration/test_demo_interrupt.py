"""Ctrl-C in the middle of the demo leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.integration
START_S, END_S = 240, 90


def started_by(state: Path) -> list[str]:
    """Processes that carry the demo's state folder in their environment or command line."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        if process.pid == os.getpid():
            continue
        try:
            words = [*(process.info["cmdline"] or []), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if any(str(state) in word for word in words):
            found.append(f"{process.pid} {' '.join(process.info['cmdline'] or [])[:80]}")
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_interrupt_ends_everything(
    tmp_path: Path, project_root: Path, number: signal.Signals
) -> None:
    state, log = tmp_path / "state", tmp_path / "log"
    words = [str(Path(sys.executable).with_name("sunloom")), "demo", "--port", "0"]
    words += ["--set", f"paths.outputs={tmp_path / 'outputs'}"]
    with log.open("w") as stream:
        demo = subprocess.Popen(
            words,
            cwd=project_root,
            env=os.environ | {"SUNLOOM__PATHS__STATE": str(state)},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A suite in the background ignores Ctrl-C, and children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        deadline = time.monotonic() + START_S
        while "[2/9]" not in log.read_text():
            assert demo.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        time.sleep(3)
        assert len(started_by(state)) > 5
        demo.send_signal(number)
        assert demo.wait(END_S) != 0
        assert started_by(state) == []
    finally:
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)
            demo.wait()
