"""The database, the registry and alerts on a real PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sunloom.config import Settings, load_config
from sunloom.core.artifacts import open_registry
from sunloom.core.processes import free_port
from sunloom.core.telemetry import Alert, emit_alert, list_alerts

pytestmark = pytest.mark.integration
INSTALL = "apt-get install postgresql"


def _programs() -> Path:
    found = shutil.which("initdb")
    folders = (
        [Path(found).resolve().parent]
        if found
        else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    )
    if not folders or not (folders[-1] / "initdb").exists():
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(f"PostgreSQL is required and not installed: {INSTALL}")
        pytest.skip(reason=f"no PostgreSQL server here: {INSTALL}")
    return folders[-1]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A private server on loopback; gives its SQLAlchemy URL."""
    programs, port = _programs(), free_port()
    # PostgreSQL refuses to run as root.
    account = "postgres" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="sl-pg-"))
    if account:
        shutil.chown(folder, account)
    arguments = ["-D", str(folder / "data"), "-U", "sunloom", "-A", "trust"]
    subprocess.run(
        [programs / "initdb", *arguments], check=True, capture_output=True, user=account, cwd="/"
    )
    options = ["-D", str(folder / "data"), "-p", str(port), "-k", str(folder)]
    server = subprocess.Popen(
        [programs / "postgres", *options, "-c", "listen_addresses=127.0.0.1"],
        user=account,
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(programs, port)
        yield f"postgresql+psycopg://sunloom@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown: SIGTERM would wait for clients
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(programs: Path, port: int) -> None:
    check = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
    deadline = time.monotonic() + 60
    while subprocess.run(check, capture_output=True).returncode != 0:
        assert time.monotonic() < deadline, "PostgreSQL did not start within 60 s"
        time.sleep(0.1)


@pytest.fixture
def remote(postgres: str, tmp_path: Path, project_root: Path) -> Settings:
    sets = [f"paths.state={tmp_path}", f"database.url={postgres}"]
    return load_config(Settings, sets=sets, conf_dir=project_root / "conf").config


def test_versions_are_counted_once_by_concurrent_writers(remote: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.json").write_text("[1]")
    registry = open_registry(remote)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: registry.register("m", "tabular", folder).version, range(8)))
    assert sorted(made) == list(range(1, 9))
    registry.promote("m", 3)
    assert registry.get("m").ref == "m@3"
    assert not (tmp_path / "sunloom.db").exists()


def test_alerts_are_deduplicated_and_keep_their_zone(remote: Settings) -> None:
    alert = Alert("feature_drift", "warning", "amount drifted", {"feature": "amount"}, 0.3, 0.1)
    assert emit_alert(remote, alert)
    assert not emit_alert(remote, alert)
    [row] = list_alerts(remote, "open")
    assert row["count"] == 2
    assert row["first_at"].endswith("+00:00")
