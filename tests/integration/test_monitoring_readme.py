"""The README's broken column and shifted day: a report to read, an alert by webhook, as printed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sunloom.core.processes import free_port

pytestmark = pytest.mark.integration
BLOCK = re.compile(r"^```(bash|python|yaml)\n(.*?)^```", re.M | re.S)
NAME = re.compile(r"# (\S+\.(?:py|yaml))\n")


def run(text: str, folder: Path, root: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = os.environ | {"PATH": path, "SUNLOOM_CONF": str(root / "conf")}
    environ.pop("SUNLOOM_HOME", None)
    done = subprocess.run(
        ["bash", "-e"], input=text, cwd=folder, env=environ, capture_output=True, text=True,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_broken_column_and_a_shifted_day(project_root: Path, tmp_path: Path) -> None:
    page = (project_root / "README.md").read_text().replace("8099", str(free_port()))
    blocks = BLOCK.findall(page.split("### Features from your own files\n")[1].split("\n### ")[0])
    for _, text in blocks:
        if named := NAME.match(text):
            (tmp_path / named[1]).write_text(text)
    (block,) = [text for kind, text in blocks if kind == "bash" and "break_it.py" in text]
    output = run(f"python make_files.py\n{block}", tmp_path, project_root)
    check_broken(output, tmp_path)


def check_broken(output: str, folder: Path) -> None:
    """The column that was broken is in the report, the one that was shifted in the webhook."""
    assert "read outputs/quality/broken/report.html" in output
    report = folder / "outputs" / "quality" / "broken"
    plain = json.loads((report / "report.json").read_text())
    failed = [(one["check"], one["feature"]) for one in plain["checks"] if not one["passed"]]
    assert failed == [("range", "delay_minutes")]
    assert [one["feature"] for one in plain["drift"] if one["drifted"]] == ["delay_minutes"]
    assert "1,667 of 5,000 rows" in (report / "report.html").read_text()
    aside = (report / "quarantine.jsonl").read_text().splitlines()
    assert len(aside) == 1_667
    assert json.loads(aside[0])["reason"] == "delay_minutes is outside 0 to 600"
    alert = json.loads((folder / "alert.json").read_text())
    assert (alert["name"], alert["status"]) == ("feature_drift", "open")
    assert alert["labels"] == {"monitor": "departures", "feature": "delay_minutes"}
    assert "2026-11-20T00/2026-11-21T00" in alert["message"]
    assert alert["value"] > 0.5
