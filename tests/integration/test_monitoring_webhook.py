"""A shifted column reaches a webhook: own Parquet, own recipe, the command line, real HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from webhook_receiver import Receiver

pytestmark = pytest.mark.integration
SUNLOOM = Path(sys.executable).parent / "sunloom"
START = datetime(2026, 1, 5, tzinfo=UTC)
RECIPE = """
telemetry:
  alert_sinks: [log, webhook, slack]
  webhook: {url: "${ALERT_URL}"}
  slack: {url: "${SLACK_URL}"}
watch:
  name: orders
  source: {path: orders.parquet, event_time: at}
  reference: {type: table, path: training.parquet}
  window: 1d
"""


def _orders(days: int, seed: int, shift: float = 0.0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    count = days * 600
    price = random.normal(50, 10, count)
    price[-600:] += shift
    return pl.DataFrame(
        {
            "at": [START + timedelta(days=n / 600) for n in range(count)],
            "price": price,
            "country": random.choice(["de", "fr"], count),
            "on": random.random(count) < 0.4,
        }
    ).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))


def command(folder: Path, receiver: Receiver, *words: str) -> tuple[list[str], dict[str, str]]:
    base = f"http://127.0.0.1:{receiver.server_port}"
    environ = os.environ | {"SUNLOOM_HOME": str(folder), "ALERT_URL": f"{base}/hook?token=t0ken"}
    environ["SLACK_URL"] = f"{base}/slack"
    return [str(SUNLOOM), "features", "monitor", "recipe.yaml", *words], environ


def once(folder: Path, receiver: Receiver, day: int) -> tuple[dict[str, Any], str]:
    moment = (START + timedelta(days=day)).strftime("%Y-%m-%d")
    words, environ = command(folder, receiver, "--as-of", moment, "--json")
    done = subprocess.run(
        words, cwd=folder, env=environ, capture_output=True, text=True, timeout=120,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_shift_reaches_the_webhook_once_and_its_end_too(
    tmp_path: Path, receiver: Receiver
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    _orders(5, seed=1).write_parquet(tmp_path / "training.parquet")
    _orders(3, seed=2).write_parquet(tmp_path / "orders.parquet")
    calm, _ = once(tmp_path, receiver, 3)
    assert (calm["windows"], calm["raised"], receiver.seen) == (3, [], [])

    _orders(4, seed=2, shift=15.0).write_parquet(tmp_path / "orders.parquet")
    moved, log = once(tmp_path, receiver, 4)
    assert moved["raised"] == ["price"]
    (path, body), (slack_path, slack) = receiver.seen
    assert (path, slack_path) == ("/hook?token=t0ken", "/slack")
    assert (body["name"], body["status"]) == ("feature_drift", "open")
    assert body["labels"] == {"monitor": "orders", "feature": "price"}
    assert body["value"] > body["threshold"] == 0.1
    assert slack["text"].startswith("[warning] feature_drift: price of orders drifted: psi")
    assert "t0ken" not in log

    again, _ = once(tmp_path, receiver, 4)
    assert (again["windows"], len(receiver.seen)) == (0, 2)
    _orders(6, seed=3).write_parquet(tmp_path / "orders.parquet")
    once(tmp_path, receiver, 6)
    assert [body["status"] for path, body in receiver.seen[2:] if path != "/slack"] == ["resolved"]


def test_the_service_goes_on_through_a_failed_round_and_stops_at_sigterm(
    tmp_path: Path, receiver: Receiver
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    _orders(2, seed=1).write_parquet(tmp_path / "training.parquet")
    words, environ = command(tmp_path, receiver, "--every", "1s", "--json")
    service = subprocess.Popen(
        words, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        _until(lambda: _names(receiver) == ["monitor_failed open"])
        assert "no file" in receiver.seen[0][1]["message"]
        _orders(4, seed=2, shift=15.0).write_parquet(tmp_path / "orders.parquet")
        expected = ["monitor_failed open", "feature_drift open", "monitor_failed resolved"]
        _until(lambda: _names(receiver) == expected)
        service.send_signal(signal.SIGTERM)
        output, _ = service.communicate(timeout=30)
    finally:
        service.kill()
    done = json.loads(output)
    assert service.returncode == 0
    assert done["failed"] >= 1
    assert done["rounds"] > done["failed"]
    assert done["raised"] == ["price"]


def _names(receiver: Receiver) -> list[str]:
    return [f"{b['name']} {b['status']}" for path, b in list(receiver.seen) if path != "/slack"]


def _until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 60 s"
        time.sleep(0.1)
