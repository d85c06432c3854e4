"""Environment variables of Ray Serve, for each instance on a machine."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

from sunloom.config import Settings
from sunloom.core.files import private_folder
from sunloom.core.processes import free_port
from sunloom.serving.deploy.haproxy import write_wrapper

INSTANCE = "SUNLOOM_SERVING_FOLDER"
"""Variable that marks every process of one instance, so that its orphans can be recognised."""

ARRIVAL_S = "SUNLOOM_SERVING_ARRIVAL_S"
"""Variable with ``serving.limits.arrival_s``, for the servers that Serve builds itself."""


def serving_environment(settings: Settings) -> dict[str, str]:
    """Variables that make Serve run behind HAProxy, apart from any other instance.

    Several Serve instances on one machine would share HAProxy's folder and three service
    ports; here each state folder has its own.

    Args:
        settings: The state folder names the instance.

    Raises:
        DependencyError: No HAProxy is installed.
    """
    folder = instance_folder(settings)
    statistics, metrics, fallback = _service_ports(str(folder))
    variables = {
        INSTANCE: str(folder),
        ARRIVAL_S: str(settings.serving.limits.arrival_s),
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1" if settings.serving.throughput else "0",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "sunloom.serving.deploy.fast_path.middlewares",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        # Serve's own proxy, for apps without a replica: two instances would share its default port.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        # It parses one log line per request in Python; the middleware counts requests instead.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # On a busy machine a process needs longer than Serve's five seconds to start.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
    }
    if settings.environment in ("development", "test"):
        # On a laptop nobody waits for open connections to drain.
        variables["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "0.5"
        variables["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] = "5"
        # At Serve's 0.1 s the controller and the replicas keep a laptop busy that is idle.
        variables["RAY_SERVE_CONTROL_LOOP_INTERVAL_S"] = "0.3"
        variables["RAY_SERVE_METRICS_EXPORT_INTERVAL_MS"] = "1000"
    if settings.serving.loopback_only:
        variables["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(write_wrapper(folder, settings.serving))
    return variables


def instance_folder(settings: Settings) -> Path:
    """The instance's own folder, readable by its owner only.

    Raises:
        UsageError: Another user owns a folder of this name.
    """
    # Directly in /tmp: Serve adds a node id to the paths of HAProxy's sockets, and the path of a
    # Unix socket has at most 107 characters.
    digest = hashlib.sha256(str(settings.paths.state.absolute()).encode()).hexdigest()[:8]
    folder = Path("/tmp") / f"sl{os.getuid()}-{digest}"
    return private_folder(folder, is_shared_place=True)


@cache
def _service_ports(folder: str) -> tuple[int, ...]:
    """Free ports for an instance's statistics, metrics and fallback; the same within a process."""
    del folder  # only the cache's key
    ports: set[int] = set()
    while len(ports) < 3:
        ports.add(free_port())
    return tuple(sorted(ports))
