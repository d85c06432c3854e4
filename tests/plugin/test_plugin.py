"""A package that knows only the entry point groups is installed, found and used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPT = """
from sunloom.config import Settings, load_config
from pathlib import Path

from sunloom.core.plugins import plugin_names
from sunloom.core.progress import StepProgress
from sunloom.core.trackers import TrackedRun, open_trackers
from sunloom.core.alerts import Alert, emit_alert
from sunloom.llm.conversations import load_conversation_source

assert "weather" in plugin_names("sunloom.conversations")
assert len(load_conversation_source("weather").train(3, 0)) == 3
with open_trackers(("file", "memo"), TrackedRun(Path.cwd(), 2)) as trackers:
    for tracker in trackers:
        tracker.log(StepProgress(step=3, loss=0.5))
assert Path("memo-from-2").read_text() == "3 0.5\\nend\\n"
settings = load_config(Settings, sets=["telemetry.alert_sinks=[memo]"]).config
assert emit_alert(settings, Alert("rain", "warning", "it rains"))
assert not emit_alert(settings, Alert("rain", "warning", "it rains"))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the plugin is installed the ordinary way, without the network."""
    target = tmp_path_factory.mktemp("site")
    words = ["-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, *words, "--target", str(target), str(HERE)],
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != "PIP_FIND_LINKS"},
    )
    return target


def test_an_installed_plugin_is_found_and_used(site: Path, tmp_path: Path) -> None:
    memo = tmp_path / "memo.jsonl"
    environ = os.environ | {"SUNLOOM_TEST_MEMO": str(memo), "SUNLOOM_HOME": str(tmp_path)}
    environ["PYTHONPATH"] = os.pathsep.join([str(site), environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environ, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in memo.read_text().splitlines()] == [
        {"name": "rain", "message": "it rains"}
    ]
