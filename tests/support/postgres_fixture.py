"""A private PostgreSQL for tests that need a real one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sunloom.core.processes import free_port

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


@pytest.fixture(scope="session")
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
