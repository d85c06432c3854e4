"""Jobs on a cluster started with ``ray start --head``, its own ports, a token before everything."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
from monitored_shops import NEWEST, SHOPS, VISITS, write_shops
from small_gateway import small_gateway

from sunloom.config import Settings, load_config
from sunloom.core.processes import free_port

pytestmark = pytest.mark.integration
BIN = Path(sys.executable).parent
START_S = 120
ATTEMPTS = 3


@dataclass(frozen=True)
class Cluster:
    """A running head and what a client needs to know of it."""

    url: str
    environ: dict[str, str]
    home: Path

    def run(self, *words: str, root: Path, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            cwd=root,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=400,
            stdin=subprocess.DEVNULL,
        )


def start_command(folder: Path, dashboard_port: int) -> list[str]:
    low = free_port()
    ports = {"port": free_port(), "dashboard-port": dashboard_port}
    ports |= {"dashboard-agent-listen-port": free_port(), "dashboard-agent-grpc-port": free_port()}
    ports |= {"ray-client-server-port": free_port(), "metrics-export-port": free_port()}
    low = 21000 if low > 60000 else low
    ports |= {"min-worker-port": low + 1, "max-worker-port": low + 300}
    options = [f"--{name}={port}" for name, port in ports.items()]
    options += ["--node-ip-address=127.0.0.1", "--num-cpus=4", "--object-store-memory=200000000"]
    options += [f"--temp-dir={folder}", "--disable-usage-stats", "--block"]
    return [str(BIN / "ray"), "start", "--head", *options]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("home")
    token = home / "token"
    token.write_text(secrets.token_hex(32))
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SUNLOOM", "RAY_")) and name != "VIRTUAL_ENV"
    }
    environ = inherited | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # On a busy machine the raylet would not wait for its agents, and die.
        "RAY_agent_register_timeout_ms": str(1000 * START_S),
        "SUNLOOM_HOME": str(home / "sunloom"),
    }
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="slj-", dir="/tmp") as folder:
        head, port = start_head(Path(folder), environ, home / "head.log")
        try:
            yield Cluster(f"http://127.0.0.1:{port}", environ, home)
        finally:
            end(head)


def start_head(folder: Path, environ: dict[str, str], log: Path) -> tuple[Any, int]:
    """Start a head; on a busy machine Ray gives up on itself after 30 s, so try again."""
    for attempt in range(ATTEMPTS):
        port = free_port()
        with log.open("w") as stream:
            head = subprocess.Popen(
                start_command(folder / str(attempt), port),
                env=environ,
                stdout=stream,
                stderr=stream,
            )
        if is_up(head, log):
            return head, port
        end(head)
    pytest.fail(log.read_text()[-3000:])


def is_up(head: subprocess.Popen[bytes], log: Path) -> bool:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and head.poll() is None:
        if "Ray runtime started" in log.read_text():
            return True
        time.sleep(0.5)
    return False


def job_address(cluster: Cluster) -> dict[str, str]:
    return {"SUNLOOM__CLUSTER__JOB_ADDRESS": cluster.url}


def end(head: subprocess.Popen[bytes]) -> None:
    """End the head and what it started, by pid."""
    family = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
    head.send_signal(signal.SIGTERM)
    try:
        head.wait(20)
    except subprocess.TimeoutExpired:
        head.kill()
    for process in family:
        if process.is_running():
            process.kill()
    psutil.wait_procs(family, timeout=10)


def last_line(text: str) -> dict[str, Any]:
    lines = [line for line in text.splitlines() if line.startswith('{"run_id"')]
    result: dict[str, Any] = json.loads(lines[-1])
    return result


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A job that ends soon: what to compare, and how."""
    # More than drift.min_rows: fewer are not judged.
    rows, path = 600, tmp_path_factory.mktemp("events") / "events.parquet"
    periods = {datetime(1997, 1, 2, tzinfo=UTC): 1.0, datetime(1998, 4, 2, tzinfo=UTC): 9.0}
    frames = [
        pl.DataFrame({
            "customer_id": range(rows),
            "timestamp": [start + timedelta(hours=n % 24) for n in range(rows)],
            "quantity": [1 + n % 5 for n in range(rows)],
            "amount": [factor * (10.0 + n % 50) for n in range(rows)],
        })
        for start, factor in periods.items()
    ]  # fmt: skip
    pl.concat(frames).write_parquet(path)
    sets = [f"events.path={path}", "drift.engine=direct", "drift.features=[quantity,amount]"]
    sets += ["drift.per_feature.amount.method=psi", "drift.per_feature.amount.threshold=0.2"]
    options = [word for assignment in sets for word in ("--set", assignment)]
    return ["--config", "conf/monitoring/drift.yaml", *options]


def test_a_job_runs_as_the_readme_submits_it(
    cluster: Cluster, project_root: Path, work: list[str]
) -> None:
    done = cluster.run(
        *(str(BIN / "ray"), "job", "submit", "--address", cluster.url, "--working-dir", "."),
        *("--", "python", "-m", "jobs.monitor_drift", *work),
        root=project_root,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    result = last_line(done.stdout)
    assert result["status"] == "succeeded"
    assert result["metrics"]["drifted_features"] == 1
    report = Path(result["artifacts"]["numbers"])
    assert report.is_relative_to(cluster.home / "sunloom"), "results outlive the shipped folder"
    assert report.is_file()


def test_our_submit_follows_the_log_and_returns_the_result(
    cluster: Cluster, project_root: Path, work: list[str]
) -> None:
    done = cluster.run(
        *(str(BIN / "sunloom"), "job", "submit", "monitor_drift", "--json", *work),
        root=project_root,
        **job_address(cluster),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    job = json.loads(done.stdout)
    assert (job["status"], job["exit_code"]) == ("SUCCEEDED", 0)
    assert job["result"]["metrics"]["drifted_features"] == 1
    assert job["result"]["metrics"]["alerts"] == 1


def submitted(cluster: Cluster, root: Path, name: str, recipe: Path) -> dict[str, Any]:
    """Run a job to its end; its metrics."""
    done = cluster.run(
        *(str(BIN / "ray"), "job", "submit", "--address", cluster.url, "--working-dir", "."),
        *("--", "python", "-m", f"jobs.{name}", "--config", str(recipe)),
        root=root,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    metrics: dict[str, Any] = last_line(done.stdout)["metrics"]
    return metrics


def test_what_features_cost_and_how_late_rows_are_is_at_the_gateway(
    cluster: Cluster, project_root: Path, tmp_path: Path
) -> None:
    write_shops(tmp_path)
    sets = [f"paths.state={cluster.home / 'sunloom' / '.sunloom'}"]
    settings = load_config(Settings, sets=sets, conf_dir=project_root / "conf").config
    costs = submitted(cluster, project_root, "monitor_cost", tmp_path / "shop.yaml")
    began = datetime.now(UTC)
    figures = submitted(cluster, project_root, "monitor_performance", tmp_path / "watch.yaml")
    ended = datetime.now(UTC)
    with small_gateway(settings) as client:
        shown = client.get("/monitoring/performance").json()
        alerts = client.get("/monitoring/alerts?status=open").json()["alerts"]
        text = client.get("/metrics").text
    assert costs["rows"] == SHOPS
    assert {one["feature"] for one in costs["features"]} == {"town", "size", "spent"}
    assert sum(one["share"] for one in costs["features"]) == pytest.approx(1.0)
    assert costs["whole_ms"] > 0
    (cost,) = shown["costs"]
    assert cost["monitor"] == "mj_shop"
    assert {name: cost[name] for name in ("rows", "whole_ms", "features")} == costs
    dearest = costs["features"][0]
    line = f'sunloom_feature_cost_ms{{feature_set="mj_shop",feature="{dearest["feature"]}"}} '
    assert float(text.split(line)[1].split()[0]) == pytest.approx(dearest["alone_ms"], rel=1e-6)

    least, most = ((moment - NEWEST).total_seconds() for moment in (began, ended))
    assert least <= figures["freshness_lag_s"] <= most
    assert (figures["rows"], figures["windows"], figures["raised"]) == (VISITS, 0, ["freshness"])
    (lag,) = shown["features"]
    assert (lag["monitor"], lag["rows"], lag["features"]) == ("visits", VISITS, 1)
    assert lag["freshness_lag_s"] == figures["freshness_lag_s"]
    assert lag["rows_per_s"] == pytest.approx(VISITS / lag["counting_s"])
    assert lag["microseconds_per_value"] == pytest.approx(1e6 * lag["counting_s"] / VISITS)
    assert 'feature_rows_per_second{monitor="visits"}' in text
    late = [one for one in alerts if one["name"] == "feature_freshness"]
    assert [(one["threshold"], one["labels"]) for one in late] == [(3600.0, {"monitor": "visits"})]


def test_a_wrong_key_fails_the_job_with_status_2_and_the_nearest_name(
    cluster: Cluster, project_root: Path, work: list[str]
) -> None:
    done = cluster.run(
        *(str(BIN / "sunloom"), "job", "submit", "monitor_drift", *work),
        *("--set", "drift.thresold=1"),
        root=project_root,
        **job_address(cluster),
    )
    assert done.returncode == 2
    assert "Did you mean" in done.stdout
    assert "threshold" in done.stdout
    assert last_line(done.stdout)["status"] == "failed"
    listed = cluster.run(
        str(BIN / "sunloom"), "job", "list", "--json", root=project_root, **job_address(cluster)
    )
    newest = json.loads(listed.stdout)[0]
    assert (newest["status"], newest["exit_code"]) == ("FAILED", 2)


def test_a_job_can_be_stopped_and_its_state_read(
    cluster: Cluster, project_root: Path, work: list[str]
) -> None:
    base = (str(BIN / "sunloom"), "job")
    submitted = cluster.run(
        *(*base, "submit", "monitor_drift", "--no-wait", "--json", *work),
        root=project_root,
        **job_address(cluster),
    )
    job_id = json.loads(submitted.stdout)["id"]
    stopped = cluster.run(
        *base, "stop", job_id, "--json", root=project_root, **job_address(cluster)
    )
    assert json.loads(stopped.stdout)["status"] == "STOPPED", stopped.stderr
    unknown = cluster.run(*base, "status", "job_x", root=project_root, **job_address(cluster))
    assert unknown.returncode == 2
    assert job_id in unknown.stderr


def test_without_the_token_nothing_is_answered(cluster: Cluster, project_root: Path) -> None:
    done = cluster.run(
        *(str(BIN / "sunloom"), "job", "list"),
        root=project_root,
        **job_address(cluster),
        RAY_AUTH_TOKEN_PATH=str(cluster.home / "none"),
    )
    assert done.returncode != 0
    wrong = cluster.home / "wrong"
    wrong.write_text(secrets.token_hex(32))
    refused = cluster.run(
        *(str(BIN / "sunloom"), "job", "list"),
        root=project_root,
        **job_address(cluster),
        RAY_AUTH_TOKEN_PATH=str(wrong),
    )
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
