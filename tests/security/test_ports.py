"""Walks every port that the deployment opens, without a key."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
import ray
from gateway_fixture import RunningGateway

from sunloom.serving.deploy.environment import instance_folder

pytestmark = [pytest.mark.security, pytest.mark.integration]

HEALTH = {"/healthz", "/readyz", "/-/healthz"}
PATHS = (
    "/", "/-/routes", "/-/healthz", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json",
    "/stats", "/v1/models", "/v1/load_lora_adapter", "/features/customer?entity_id=1",
    "/predict/repurchase", "/agents", "/models", "/internal/route", "/nothing",
)  # fmt: skip
# Ray's own processes answer on ports of their own; README lists them.
APPS = ("haproxy", "ray::ServeReplica", "ray::ProxyActor")


def app_ports() -> dict[int, str]:
    """Ports on which HAProxy, the replicas and Serve's proxy speak HTTP."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline()) or process.name()
            connections = process.net_connections(kind="tcp")
        except psutil.Error:
            continue
        if not any(name in title for name in APPS):
            continue
        listening = [one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN]
        found |= {port: title.split(" ")[0] for port in listening if speaks_http(port)}
    return found


def speaks_http(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/-/healthz", timeout=5)
    except httpx.HTTPError:
        return False  # gRPC
    return True


def test_no_port_answers_without_a_key(gateway: RunningGateway) -> None:
    ports = app_ports()
    kinds = list(ports.values())
    assert sum("haproxy" in kind for kind in kinds) == 3, ports
    assert sum("ServeReplica" in kind for kind in kinds) == 5, ports
    leaks = []
    for port, title in ports.items():
        for path in PATHS:
            answer = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=20)
            if answer.status_code != 401 and path.partition("?")[0] not in HEALTH:
                leaks.append((title, port, path, answer.status_code, answer.text[:200]))
    assert not leaks


def test_apps_listen_on_loopback_only(gateway: RunningGateway) -> None:
    for process in psutil.Process().children(recursive=True):
        # Short-lived children come and go while this walks.
        with suppress(psutil.NoSuchProcess):
            if "haproxy" not in process.name():
                continue
            hosts = {one.laddr.ip for one in process.net_connections(kind="tcp")}
            assert hosts <= {"127.0.0.1"}


@pytest.mark.parametrize("header", ["Bearer", "Basic eDp5", "bearer wrong", "Bearer a b"])
def test_odd_authorization_headers_are_401(gateway: RunningGateway, header: str) -> None:
    answer = httpx.get(f"{gateway.url}/models", headers={"Authorization": header}, timeout=20)
    assert answer.status_code == 401


@pytest.mark.parametrize("path", ["//v1/models", "/V1/models", "/v1/../models", "/%2e%2e/models"])
def test_odd_paths_are_no_way_around(gateway: RunningGateway, path: str) -> None:
    port = int(gateway.url.rpartition(":")[2])
    with httpx.Client(timeout=20) as client:
        answer = client.get(f"http://127.0.0.1:{port}{path}")
    assert answer.status_code == 401


def test_health_routes_say_nothing_of_the_inside(gateway: RunningGateway) -> None:
    for path in ("/healthz", "/-/healthz"):
        text = httpx.get(gateway.url + path, timeout=20).text
        assert text in ('{"status":"ok"}', "success")


def test_only_their_owner_enters_the_folders(gateway: RunningGateway) -> None:
    state = gateway.settings.paths.state
    # As every worker names it: .../r/session_…
    session = Path(ray.worker._global_node.get_session_dir_path())
    ray_folder = session.parents[1]
    assert ray_folder.name.startswith(f"sunloom-{os.getuid()}-")
    for folder in (state, state / "online", ray_folder, instance_folder(gateway.settings)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    for file in state.glob("sunloom.db*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    sockets = list(instance_folder(gateway.settings).rglob("*.sock*"))
    assert sockets
    assert not [path for path in sockets if stat.S_IMODE(path.stat().st_mode) & 0o077]
