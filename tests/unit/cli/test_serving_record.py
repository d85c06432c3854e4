"""What `serve run` leaves for `serve status` and `serve shutdown` to find."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from sunloom.cli.serve import ServingRecord
from sunloom.config import Settings


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()


def test_a_record_exists_while_it_is_kept(settings: Settings) -> None:
    assert ServingRecord.read(settings) is None
    with ServingRecord.keep(settings, "http://127.0.0.1:9"):
        record = ServingRecord.read(settings)
        assert record is not None
        assert record.url == "http://127.0.0.1:9"
        assert record.is_alive()
        assert not record.status().ready
    assert ServingRecord.read(settings) is None


def test_ending_stops_the_recorded_process(sleeper: subprocess.Popen[bytes]) -> None:
    born_s = psutil.Process(sleeper.pid).create_time()
    record = ServingRecord("http://127.0.0.1:9", sleeper.pid, born_s)
    record.end()
    assert not psutil.pid_exists(sleeper.pid)
    assert not record.is_alive()
    record.end()


def test_a_reused_pid_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    born_s = psutil.Process(sleeper.pid).create_time()
    record = ServingRecord("http://127.0.0.1:9", sleeper.pid, born_s - 500)
    assert not record.is_alive()
    record.end()
    assert sleeper.poll() is None


@pytest.mark.parametrize("text", ["", "{", json.dumps({"pid": 1})])
def test_a_damaged_record_is_none(settings: Settings, text: str) -> None:
    settings.paths.state.mkdir(parents=True)
    (settings.paths.state / "serve.json").write_text(text)
    assert ServingRecord.read(settings) is None
