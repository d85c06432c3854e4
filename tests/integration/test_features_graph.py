"""Nodes' features as a user makes them: Parquet and a recipe, the command, the job, a read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from commands import Outcome, run_here
from polars.testing import assert_frame_equal
from small_gateway import small_gateway

from sunloom.config import Settings, load_config

pytestmark = pytest.mark.integration
START = datetime(2026, 11, 1, tzinfo=UTC)
RECIPE = """
graph:
  edges: payments.parquet
  source: payer
  target: payee
  weight: amount
  directed: true
  time: paid_at
  as_of: 2026-11-20T00:00:00Z
  key: account_id
  features: [in_degree, component_size, pagerank]
  nodes: {table: accounts.csv, columns: [age], aggregations: [mean]}
  embedding: {dimensions: 2}
  out: features.parquet
  feature_set: account_graph
"""
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A stranger's folder: payments between 50 accounts in two circles, and their ages."""
    random = np.random.default_rng(0)
    payer = random.integers(0, 50, 1000)
    payee = np.where(random.random(1000) < 0.9, (payer + 2 * random.integers(1, 20, 1000)) % 50, 1)
    frame = pl.DataFrame(
        {
            "payer": payer,
            "payee": payee,
            "amount": random.uniform(1, 50, 1000),
            "paid_at": [START + timedelta(minutes=30 * n) for n in range(1000)],
        }
    )
    frame.write_parquet(tmp_path / "payments.parquet")
    ages = pl.DataFrame({"account_id": range(52), "age": range(20, 72)})
    ages.write_csv(tmp_path / "accounts.csv")
    (tmp_path / "accounts.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def environ(folder: Path, project_root: Path) -> dict[str, str]:
    """The stranger's environment."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SUNLOOM", "RAY_"))}
    return inherited | {
        "SUNLOOM_CONF": str(project_root / "conf"),
        "SUNLOOM_HOME": str(folder),
        "PYTHONPATH": os.pathsep.join(map(str, (project_root, project_root / "platform"))),
    }


@pytest.fixture
def command(folder: Path, environ: dict[str, str]) -> Command:
    """Runs Python's words in the stranger's folder."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture
def sunloom(command: Command) -> Command:
    """Runs the command line."""
    return lambda *words: command("-c", "from sunloom.cli.main import run; run()", *words)


@pytest.fixture
def sunloom_here(
    folder: Path,
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., Outcome]:
    """Runs a command in this process and the stranger's folder, so without ``--json``."""
    monkeypatch.chdir(folder)
    for name in os.environ.keys() - environ.keys():
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    return lambda *words: run_here(words, capfd)


def settings_in(folder: Path, project_root: Path) -> Settings:
    sets = [f"paths.state={folder / '.sunloom'}", f"paths.outputs={folder / 'outputs'}"]
    return load_config(Settings, sets=sets, conf_dir=project_root / "conf").config


def test_from_parquet_to_http(folder: Path, project_root: Path, sunloom: Command) -> None:
    done = sunloom("features", "graph", "--config", "accounts.yaml", "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    seen = pl.read_parquet(folder / "payments.parquet").filter(
        pl.col("paid_at") <= datetime(2026, 11, 20, tzinfo=UTC)
    )
    assert (told["nodes"], told["records"], told["edges"]) == (52, 52, seen.height)
    assert "graph: 100% embedding" in done.stderr
    table = pl.read_parquet(folder / "features.parquet")
    assert table.columns == ["account_id", "event_time", *told["features"]]
    assert table["pagerank"].sum() == pytest.approx(1.0)
    reached = seen.filter(payee=7)["payer"].n_unique()
    row = table.row(by_predicate=pl.col("account_id") == 7, named=True)
    assert row["in_degree"] == reached
    mean_age = seen.filter(payer=7)["payee"].unique().to_numpy().mean() + 20
    assert row["neighbour_mean_age"] == pytest.approx(mean_age)
    read = sunloom("features", "get", "account_graph", "7", "--json")
    stored = json.loads(read.stdout)["results"][0]["features"]
    assert stored == {name: row[name] for name in told["features"]}
    with small_gateway(settings_in(folder, project_root)) as client:
        answer = client.get("/features/account_graph", params={"entity_id": 7})
        assert answer.json()["features"] == stored
        lonely = client.get("/features/account_graph", params={"entity_id": 51}).json()
    assert (lonely["features"]["in_degree"], lonely["features"]["component_size"]) == (0, 1)
    assert lonely["features"]["neighbour_mean_age"] is None


def test_without_a_recipe(folder: Path, sunloom_here: Callable[..., Outcome]) -> None:
    ends = pl.read_parquet(folder / "payments.parquet").select(source="payer", target="payee")
    ends.write_parquet(folder / "edges.parquet")
    words = ["--input", "edges.parquet", "--out", "nodes.parquet"]
    done = sunloom_here("features", "graph", *words)
    assert done.status == 0, done.err
    table = pl.read_parquet(folder / "nodes.parquet")
    assert (table.height, table.columns[:2]) == (50, ["id", "degree"])
    assert not (folder / ".sunloom" / "online").exists()
    words = ["--input", "payments.parquet", "--out", "nodes.parquet"]
    wrong = sunloom_here("features", "graph", *words)
    assert wrong.status == 2
    assert "lacks the columns source, target" in wrong.err
    ends_named = ["--set", "graph.source=payer", "--set", "graph.target=payee"]
    right = sunloom_here("features", "graph", *words, *ends_named)
    assert right.status == 0, right.err
    assert_frame_equal(pl.read_parquet(folder / "nodes.parquet"), table)
    for options, words_said in (
        (["--out", "nodes.parquet"], "graph.edges is missing"),
        (["--input", "edges.parquet"], "Neither graph.out nor graph.feature_set"),
        (["--input", "gone.parquet", "--out", "nodes.parquet"], "There is no file gone.parquet"),
    ):
        refused = sunloom_here("features", "graph", *options)
        assert refused.status == 2
        assert words_said in refused.err


def test_the_job_writes_what_the_command_writes(
    folder: Path, command: Command, sunloom: Command
) -> None:
    assert sunloom("features", "graph", "--config", "accounts.yaml").returncode == 0
    table = pl.read_parquet(folder / "features.parquet")
    done = command(
        "-m", "jobs.features_graph", "--config", "accounts.yaml", "--set", "graph.out=job.parquet"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["status"] == "succeeded"
    assert told["artifacts"] == {"out": "job.parquet", "feature_set": "account_graph"}
    assert told["metrics"]["nodes"] == 52
    assert_frame_equal(pl.read_parquet(folder / "job.parquet"), table)
