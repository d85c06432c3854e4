"""The README's features page, followed by a stranger in an empty folder, word by word."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from broker import broker
from small_gateway import small_gateway

from sunloom.config import Settings, load_config

pytestmark = pytest.mark.integration
BLOCK = re.compile(r"^```(bash|python|yaml)\n(.*?)^```", re.M | re.S)
NAME = re.compile(r"# (\S+\.(?:py|yaml))\n")
AIRPORTS = ["BER", "CDG", "JFK", "NRT"]
Run = Callable[[str], str]


def page(root: Path) -> str:
    text = (root / "README.md").read_text()
    return text.split("### Features from your own files\n")[1].split("\n### ")[0].split("\n## ")[0]


@pytest.fixture
def run(tmp_path: Path, project_root: Path) -> Run:
    """Runs a block's lines in the stranger's folder, with nothing of the checkout's."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = os.environ | {"PATH": path, "SUNLOOM_CONF": str(project_root / "conf")}
    environ.pop("SUNLOOM_HOME", None)

    def run(text: str) -> str:
        done = subprocess.run(
            ["bash", "-e"],
            input=text,
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_features_page(project_root: Path, tmp_path: Path, run: Run) -> None:
    with broker(tmp_path) as address:
        blocks = [
            (language, text.replace("127.0.0.1:9092", address))
            for language, text in BLOCK.findall(page(project_root))
            if "break_it.py" not in text  # test_monitoring_readme.py
        ]
        for language, text in blocks:
            if language != "bash":
                named = NAME.match(text)
                assert named, text
                (tmp_path / named[1]).write_text(text)
        bash = [text for language, text in blocks if language == "bash"]
        first, second, third, served, fourth = bash
        before = run(first)
        after = run(second)
    checked = run(third)
    with small_gateway(settings_in(tmp_path)) as client:
        key, url = client.headers["Authorization"].removeprefix("Bearer "), str(client.base_url)
        row = run(f"SUNLOOM_KEY={key} SUNLOOM_URL={url}\n{served}")
    of_nodes = run(fourth)
    check_training(tmp_path)
    assert (tmp_path / "plan.svg").read_text().startswith("<")
    counts = [
        int(re.findall(r"departures_count__604800__\D+(\d+) ", out)[-1]) for out in (before, after)
    ]
    departures = pl.read_parquet(tmp_path / "departures.parquet")
    day = pl.lit("2026-11-21T00:00:00Z").str.to_datetime(time_unit="us", time_zone="UTC")
    week = (pl.col("left_at") > day - pl.duration(days=7)) & (pl.col("left_at") <= day)
    assert counts[0] == departures.filter(week & (pl.col("airport_id") == "JFK")).height
    # The stream's own event is the only one of the last day, and history still counts.
    assert re.findall(r"departures_count__86400__\D+(\d+) ", after)[-1] == "1"
    assert re.search(r'"history/departure": 1', after)
    assert "checks passed on 5,000 rows" in checked
    check_preparation(departures["delay_minutes"], tmp_path / "ready.parquet")
    check_served(json.loads(row), departures, pl.read_parquet(tmp_path / "ready.parquet"))
    assert pl.read_parquet(tmp_path / "airports.parquet")["id"].to_list() == AIRPORTS
    routes = pl.read_parquet(tmp_path / "routes.parquet").rows()
    near = {other for ends in routes if "JFK" in ends for other in ends} - {"JFK"}
    loops = 2 * (("JFK", "JFK") in routes)
    assert re.findall(r"degree\D+(\d+) ", of_nodes)[-1] == str(len(near) + loops)


def settings_in(folder: Path) -> Settings:
    sets = [f"paths.state={folder / '.sunloom'}", f"paths.outputs={folder / 'outputs'}"]
    return load_config(Settings, sets=sets).config


def check_served(answer: Any, raw: pl.DataFrame, ready: pl.DataFrame) -> None:
    """A row over HTTP is on the line through two rows of the file: scaling is linear."""
    assert answer["artifact"] == "departures@1"
    [row] = answer["rows"]
    (a, b), (x, y) = ((t["delay_minutes"].min(), t["delay_minutes"].max()) for t in (raw, ready))
    assert row["delay_minutes"] == pytest.approx(x + (90.0 - a) * (y - x) / (b - a), rel=1e-9)
    assert (row["id"], row["airport_id"]) == (1, "JFK")


def check_training(folder: Path) -> None:
    moments = pl.read_parquet(folder / "labels.parquet")
    training = pl.read_parquet(folder / "training.parquet")
    assert training.select(moments.columns).equals(moments)
    departures = pl.read_parquet(folder / "departures.parquet")
    for row in training.head(20).iter_rows(named=True):
        seen = departures.filter(
            (pl.col("airport_id") == row["id"]) & (pl.col("left_at") <= row["event_time"])
        )
        recent = seen.filter(pl.col("left_at") > pl.lit(row["event_time"]) - pl.duration(days=1))
        assert row["departures_count__86400__"] == recent.height
        expected = seen["delay_minutes"].mean()
        assert row["mean_delay"] == (None if expected is None else pytest.approx(expected))


def check_preparation(delays: pl.Series, path: Path) -> None:
    low, middle, high = (
        delays.quantile(share, interpolation="linear") for share in (0.25, 0.5, 0.75)
    )
    assert low is not None
    assert middle is not None
    assert high is not None
    ready = pl.read_parquet(path)["delay_minutes"]
    assert ready.to_list() == pytest.approx(((delays - middle) / (high - low)).to_list(), rel=1e-9)
