"""A private Redis for tests that need a real one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sunloom.core.processes import free_port

INSTALL = "apt-get install redis-server"


@dataclass
class RedisServer:
    """A server of our own on loopback and on a unix socket.

    Attributes:
        port: Its TCP port.
        folder: Its files, the socket ``redis.sock`` among them.
    """

    port: int
    folder: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Address over TCP."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket(self) -> str:
        """Address over the unix socket."""
        return f"unix://{self.folder / 'redis.sock'}?db=0"

    def start(self, *options: str) -> None:
        """Start it, with what it saved when it last stopped."""
        named = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        named += ["--unixsocket", str(self.folder / "redis.sock"), "--save", "3600 1"]
        self._process = subprocess.Popen(
            [_program(), *named, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < deadline, "Redis did not start within 30 s"
            time.sleep(0.05)

    def stop(self) -> None:
        """End it; it saves first."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def _answers(self) -> bool:
        import redis

        try:
            with redis.Redis(port=self.port, retry=None) as client:
                return bool(client.ping())
        except redis.exceptions.AuthenticationError:
            return True
        except redis.exceptions.ConnectionError:
            return False


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A running private server; tests keep apart by prefix."""
    with private_redis() as server:
        yield server


@contextmanager
def private_redis(*options: str) -> Iterator[RedisServer]:
    """A private server, ended and removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="sl-redis-"))
    server = RedisServer(free_port(), folder)
    try:
        server.start(*options)
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _program() -> str:
    found = shutil.which("redis-server")
    if found is None:
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(f"Redis is required and not installed: {INSTALL}")
        pytest.skip(reason=f"no Redis server here: {INSTALL}")
    return found
