"""Alerts are stored once while open; runs leave a record."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from sunloom.config import Settings
from sunloom.core.alerts import Alert, emit_alert, list_alerts, resolve_alert
from sunloom.core.runs import RunResult, start_run
from sunloom.core.telemetry import configure_logging, progress_bar

DRIFT = Alert("feature_drift", "warning", "amount drifted", {"feature": "amount"}, 0.3, 0.1)


def test_an_open_alert_counts_up_and_resolves(settings: Settings) -> None:
    assert emit_alert(settings, DRIFT)
    assert not emit_alert(settings, DRIFT)
    [held] = list_alerts(settings)
    assert (held.count, held.status, held.value) == (2, "open", 0.3)
    assert resolve_alert(settings, DRIFT)
    assert not resolve_alert(settings, DRIFT)
    assert list_alerts(settings, "open") == []
    assert emit_alert(settings, DRIFT)
    assert [row.status for row in list_alerts(settings)] == ["open", "resolved"]


def test_other_labels_are_another_alert(settings: Settings) -> None:
    emit_alert(settings, DRIFT)
    emit_alert(settings, Alert("feature_drift", "warning", "x", {"feature": "quantity"}))
    assert len(list_alerts(settings, "open")) == 2


def test_a_run_leaves_config_and_record(settings: Settings) -> None:
    run = start_run(settings, "toy")
    result = run.finish("succeeded", {"auc": 0.8}, {"model": "m@1"})
    record = json.loads((run.directory / "run.json").read_text())
    expected = {key: record[key] for key in ("run_id", "status", "artifacts", "metrics")}
    assert json.loads(result.to_json()) == expected
    assert RunResult.from_json(result.to_json()) == result
    assert record["seconds"] >= 0
    assert (run.directory / "config.resolved.yaml").is_file()
    assert start_run(settings, "toy").run_id != run.run_id


def test_progress_logs_quarters_without_a_terminal(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    configure_logging(settings)
    logger = logging.getLogger("sunloom")
    logger.propagate = True
    with caplog.at_level("INFO", "sunloom.progress"), progress_bar("train", 8) as bar:
        for _ in range(8):
            bar.advance()
    shares = [record.getMessage().split()[1] for record in caplog.records]
    assert shares == ["25%", "50%", "75%", "100%"]


LOUD = """
import logging, os, sys
from pathlib import Path
from sunloom.config import Settings, load_config
from sunloom.core.telemetry import configure_logging, get_logger, keep_libraries_off_screen

configure_logging(load_config(Settings).config)
with keep_libraries_off_screen(Path(sys.argv[1])):
    print("a library's print")
    os.write(2, b"a library in C\\n")
    logging.getLogger("ray").warning("a library's warning")
    os.system("echo a process of a library")
    get_logger("demo").warning("a line of ours")
get_logger("demo").warning("after the block")
print("the result")
"""


def test_what_libraries_print_goes_to_a_file_and_our_lines_to_the_screen(tmp_path: Path) -> None:
    log = tmp_path / "new" / "libraries.log"
    done = subprocess.run(
        [sys.executable, "-c", LOUD, str(log)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "the result\n"
    assert [line.split("  ")[-1] for line in done.stderr.splitlines()] == [
        "a line of ours",
        "after the block",
    ]
    assert set(log.read_text().splitlines()) == {
        "a library's print",
        "a library in C",
        "a library's warning",
        "a process of a library",
    }
