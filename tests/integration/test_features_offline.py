"""The offline store with several processes at once, on a local folder and on an S3 server."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sunloom.core.processes import free_port
from sunloom.feature_store.stores.offline_store import OfflineStore

pytestmark = pytest.mark.integration
INSTALL = "pip install s3fs 'moto[server,s3]'"

_WRITER = """
import sys
from datetime import datetime, timedelta, UTC
import polars as pl
from sunloom.feature_store.stores.offline_store import OfflineStore
uri, seed = sys.argv[1], int(sys.argv[2])
store = OfflineStore(uri)
for turn in range(6):
    number = seed * 100 + turn
    event_time = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=number)
    times = pl.Series([event_time], dtype=pl.Datetime("us", "UTC"))
    store.write("s", pl.DataFrame({"id": [number], "event_time": times, f"by_{seed}": [turn]}))
"""


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "offline")
    bucket: str = request.getfixturevalue("bucket")
    return f"{bucket}/{tmp_path.name}"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a private S3 server; the environment names its address and keys."""
    for module in ("s3fs", "moto"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(reason=f"no S3 server here: {INSTALL}")
    port = free_port()
    named = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    held = {name: os.environ.get(name) for name in named}
    os.environ.update(named)
    try:
        _wait(named["AWS_ENDPOINT_URL"])
        _make_bucket("offline")
        yield "s3://offline"
    finally:
        server.terminate()
        server.wait(30)
        for name, value in held.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _wait(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the S3 server did not start within 60 s"
            time.sleep(0.2)


def _make_bucket(name: str) -> None:
    import s3fs

    s3fs.S3FileSystem().mkdir(name)


def test_processes_that_write_at_once_lose_no_version(uri: str) -> None:
    environment = os.environ | {"PYTHONPATH": "platform", "POLARS_MAX_THREADS": "1"}
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, uri, str(seed)], env=environment)
        for seed in range(3)
    ]
    for writer in writers:
        assert writer.wait(100) == 0
    store = OfflineStore(uri)
    versions = store.versions("s")
    assert [version.number for version in versions] == list(range(1, 19))
    assert [version.rows for version in versions] == list(range(1, 19))
    found = store.read("s")
    assert found["id"].to_list() == [seed * 100 + turn for seed in range(3) for turn in range(6)]
    assert sorted(found.columns[2:]) == ["by_0", "by_1", "by_2"]
    assert found["by_1"].drop_nulls().to_list() == list(range(6))
    assert store.read("s", version=5).height == 5
    assert store.read("s", as_of=versions[7].written_at).height >= 8
