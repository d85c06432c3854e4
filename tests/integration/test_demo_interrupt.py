"""Ctrl-C or SIGTERM in the middle of the work leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from patience import patience

pytestmark = pytest.mark.integration
START_S, END_S = 240, 30
DEMO = ("demo", "--port", "0")
SERVE = ("serve", "run", "--port", "0", "--set", "serving.llm.enabled=false")


def started_by(state: Path) -> list[str]:
    """Processes that carry the command's state folder in their environment or command line."""
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


# Ray Tune and Ray Train have signal handlers of their own: test_tabular_training and
# test_llm_training interrupt them.
@pytest.mark.parametrize(
    ("command", "sign", "number"),
    [
        pytest.param(DEMO, "[1/9]", signal.SIGTERM, id="ray-starts"),
        pytest.param(DEMO, "[2/9]", signal.SIGINT, id="ray-data-works"),
        pytest.param(SERVE, "starting:", signal.SIGTERM, id="ray-serve-starts"),
    ],
)
def test_an_interrupt_ends_everything(
    command: tuple[str, ...], sign: str, number: signal.Signals, tmp_path: Path, project_root: Path
) -> None:
    state, log = tmp_path / "state", tmp_path / "log"
    words = [str(Path(sys.executable).with_name("sunloom")), *command]
    words += ["--set", f"paths.outputs={tmp_path / 'outputs'}"]
    with log.open("w") as stream:
        process = subprocess.Popen(
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
        deadline = time.monotonic() + patience(START_S)
        while sign not in log.read_text() or len(started_by(state)) < 3:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        time.sleep(3)
        process.send_signal(number)
        assert process.wait(patience(END_S)) == 128 + number, log.read_text()[-3000:]
        assert started_by(state) == []
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
