"""Environment variables of Ray Serve, for each instance on a machine."""

from __future__ import annotations

import hashlib
import os
import secrets
from functools import cache
from pathlib import Path

from sunloom.config import Settings
from sunloom.config.serving import ServingConfig
from sunloom.core.files import private_folder
from sunloom.core.processes import free_port
from sunloom.core.telemetry import get_logger
from sunloom.errors import ServingError
from sunloom.serving.auth.failed_attempts import PROXY_TOKEN
from sunloom.serving.deploy.haproxy import (
    ARRIVAL_S,
    CALLBACK,
    CONNECTIONS,
    INSTANCE,
    LOOPBACK_ONLY,
    haproxy_binary,
)

FAST_PATH = "sunloom.serving.deploy.fast_path.middlewares"
"""What ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`` names."""
_CALLBACKS = (
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH",
    "RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH",
)


def serving_environment(settings: Settings) -> dict[str, str]:
    """Variables that make Serve run behind HAProxy, apart from any other instance.

    Several Serve instances on one machine would share HAProxy's folder and three service
    ports; here each state folder has its own.

    Args:
        settings: The state folder names the instance.

    Raises:
        DependencyError: No HAProxy is installed.
    """
    haproxy_binary()
    folder = instance_folder(settings)
    statistics, metrics, fallback = _service_ports(str(folder))
    variables = {
        INSTANCE: str(folder),
        PROXY_TOKEN: _proxy_token(),
        **closing_variables(settings.serving),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        # Serve's own proxy, for apps without a replica: two instances would share its default port.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
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
        variables["RAY_SERVE_METRICS_EXPORT_INTERVAL_MS"] = "10000"
    return variables


def closing_variables(serving: ServingConfig) -> dict[str, str]:
    """Variables without which Serve's ports are open: on a cluster of its own, each node's.

    ``deploy/rayservice.yaml`` and ``cluster.yaml`` set them where Serve is started without
    ``sunloom serve``.
    """
    return {
        ARRIVAL_S: str(serving.limits.arrival_s),
        CONNECTIONS: str(serving.connections_per_source),
        LOOPBACK_ONLY: "1" if serving.loopback_only else "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1" if serving.throughput else "0",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": FAST_PATH,
        "RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH": CALLBACK,
        # It parses one log line per request in Python; the middleware counts requests instead.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # No peer is believed what a client names as its address.
        "FORWARDED_ALLOW_IPS": "",
    }


def check_closed(settings: Settings) -> None:
    """Refuse to build an app for a Serve that somebody started with open ports.

    Raises:
        ServingError: Serve was started without the variables, outside development and tests.
    """
    wanted = closing_variables(settings.serving)
    names = [name for name in _CALLBACKS if os.environ.get(name) != wanted[name]]
    if not names:
        return
    error = ServingError(
        f"Serve was started without {' and '.join(names)}: its ports would answer everyone.",
        "Set the variables of deploy/rayservice.yaml for each node before Ray starts, or deploy "
        "with `sunloom serve deploy`.",
    )
    if settings.environment not in ("development", "test"):
        raise error
    get_logger("serving").warning("%s", error)


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


@cache
def _proxy_token() -> str:
    """The token of this process's deployment; one that the nodes have already is kept."""
    return os.environ.get(PROXY_TOKEN) or secrets.token_hex(8)
