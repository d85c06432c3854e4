"""A Ray of several nodes on this machine, each with processes of its own that a test may kill."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from patience import patience

from sunloom.core.processes import end_processes, free_port

_RAY = Path(sys.executable).parent / "ray"
_START_S = 60


@dataclass
class RayNodes:
    """A head without CPUs, and nodes of one CPU.

    Attributes:
        address: Of the head.
        environ: What drivers and nodes need to reach it.
        folder: Gets the nodes' logs.
        nodes: Command of each, oldest first.
    """

    address: str
    environ: dict[str, str]
    folder: Path
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add(self) -> None:
        """Start a node; it is up when this returns, for two at once hinder each other."""
        self._start(f"--address={self.address}", "--num-cpus=1")

    def add_head(self) -> None:
        """Start the head."""
        port = self.address.rpartition(":")[2]
        ports = {"port": port, "ray-client-server-port": free_port()}
        options = [f"--{name}={number}" for name, number in ports.items()]
        options += ["--num-cpus=0", f"--temp-dir={self.folder}", "--include-dashboard=false"]
        self._start("--head", *options)

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """SIGKILL a node: raylet, agents and workers."""
        for process in _family(node):
            process.kill()
        node.wait()
        self.nodes.remove(node)

    def workers(self) -> list[psutil.Process]:
        """Ray Train's workers on all nodes."""
        everything = [process for node in self.nodes for process in _family(node)]
        return [p for p in everything if "RayTrainWorker" in " ".join(p.cmdline())]

    def _start(self, *options: str) -> None:
        names = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
        ports = [f"--{name}={free_port()}" for name in names]
        common = ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"]
        common += [f"--node-ip-address={self.address.partition(':')[0]}", "--block"]
        log = self.folder / f"{time.monotonic_ns()}.log"
        with log.open("wb") as stream:
            command = [str(_RAY), "start", *options, *ports, *common]
            node = subprocess.Popen(command, env=self.environ, stdout=stream, stderr=stream)
        self.nodes.append(node)
        deadline = time.monotonic() + patience(_START_S)
        while "Ray runtime started" not in log.read_text():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


def _family(node: subprocess.Popen[bytes]) -> list[psutil.Process]:
    process = psutil.Process(node.pid)
    return [process, *process.children(recursive=True)]


@contextmanager
def ray_nodes(count: int, modules: Path) -> Iterator[RayNodes]:
    """A head and so many nodes; all end with the block.

    Args:
        count: Nodes at the beginning.
        modules: Folder that Python on all nodes looks for modules in.
    """
    from ray.util import get_node_ip_address

    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="sln-", dir="/tmp") as name:
        token = Path(name) / "token"
        token.write_text(secrets.token_hex(32))
        environ = {key: v for key, v in os.environ.items() if not key.startswith("RAY_")} | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "PYTHONPATH": f"{modules}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            # On a busy machine the raylet would not wait for its agents, and die.
            "RAY_agent_register_timeout_ms": "120000",
        }
        # Not loopback, which drivers would take for this machine's address on its network.
        nodes = RayNodes(f"{get_node_ip_address()}:{free_port()}", environ, Path(name))
        try:
            nodes.add_head()
            for _ in range(count):
                nodes.add()
            yield nodes
        finally:
            end_processes([process for node in nodes.nodes for process in _family(node)], 5)
            for node in nodes.nodes:
                node.wait()
