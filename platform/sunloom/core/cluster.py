"""Connection to Ray: a private local cluster, or a running one by address.

A private local cluster has its own temporary folder, ports and dashboard, so it neither disturbs
nor finds another cluster on the machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

import sunloom
from sunloom.config import Settings
from sunloom.core.files import make_private, private_folder, private_umask
from sunloom.core.interrupts import keep_signal_handlers, raise_if_interrupted
from sunloom.core.processes import descendants, end_descendants, free_port
from sunloom.core.telemetry import QUIET_ENVIRONMENT, get_logger, silence_libraries
from sunloom.errors import ClusterError

# Left out of a shipped working directory; Ray also honours .gitignore.
EXCLUDES = (".venv", ".git", "outputs", ".sunloom", "**/__pycache__", ".mypy_cache", ".ruff_cache")


@dataclass(frozen=True)
class ClusterInfo:
    """The connected cluster.

    Attributes:
        address: GCS ``host:port``.
        dashboard_url: ``http://host:port`` of dashboard and job server, or None.
        is_private: Whether this process started it.
    """

    address: str
    dashboard_url: str | None
    is_private: bool


# Ray sets it for the driver of a submitted job.
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# Ray does not tell afterwards whether this process started the cluster.
_connected: list[ClusterInfo] = []


def connect(settings: Settings, environment: Mapping[str, str] | None = None) -> ClusterInfo:
    """Connect this process to Ray; a second call returns the same cluster.

    Args:
        settings: ``cluster.address`` empty and no ``RAY_ADDRESS`` starts a private cluster.
        environment: Variables that workers and Serve need from their start.

    Raises:
        ClusterError: Ray does not start or does not answer at the address.
        UsageError: Another user owns the folder for Ray's temporary files.
    """
    import ray

    # Inside tasks, actors and replicas Ray is connected already.
    if ray.is_initialized():
        return _connected[0] if _connected else connected_cluster()
    silence_libraries()
    variables = dict(QUIET_ENVIRONMENT) | dict(environment or {})
    address = settings.cluster.address or os.environ.get("RAY_ADDRESS")
    if settings.cluster.address in (None, "auto") and _JOB in os.environ:
        # What Ray tells a job is one of the clusters that run on its machine, not always its own.
        address = address_of_raylet() or address
    # Only where this process acts on SIGTERM: without Ray's handler it would end uncleanly else.
    acts = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    if not address:
        # Before Ray starts: its workers write to both, and open the second's content to everybody.
        private_folder(settings.paths.state)
        private_folder(ray_folder(settings), is_shared_place=True)
    if (token := token_file()) is not None:
        make_private(token)
    try:
        with keep_signal_handlers() if acts else nullcontext():
            if address:
                _join(address, variables)
            else:
                _start(settings, variables)
    except Exception as error:  # Ray raises bare Exceptions when a process does not come up
        raise ClusterError(
            f"Ray {'does not answer at ' + address if address else 'did not start'}: {error}",
            "Check cluster.address, or leave it empty for a private cluster.",
            "cluster.address",
        ) from error
    _connected[:] = [connected_cluster(is_private=not address)]
    return _connected[0]


def disconnect() -> None:
    """Leave the cluster; a private one ends."""
    import ray

    _connected.clear()
    if ray.is_initialized():
        ray.shutdown()


def is_cluster_private() -> bool:
    """Whether this process is connected to a cluster that it started, which ends with it."""
    return bool(_connected) and _connected[0].is_private


def source_root() -> Path:
    """The project's root: the nearest folder at or above the working directory with ``jobs/``.

    Without one, it is the checkout that this package was imported from.
    """
    cwd = Path.cwd()
    for folder in (cwd, *cwd.parents):
        if (folder / "jobs").is_dir() and (folder / "platform" / "sunloom").is_dir():
            return folder
    return Path(sunloom.__file__).parents[2]


def package_folders() -> list[str]:
    """Source packages that workers need beside the installed libraries."""
    packages = Path(sunloom.__file__).parents[1]
    return [str(path.parent) for path in sorted(packages.glob("sunloom*/__init__.py"))]


def ray_folder(settings: Settings) -> Path:
    """The folder of a private cluster's temporary files, which only its owner may enter."""
    # Ray's unix sockets allow about 107 characters, so the state folder itself may be too deep.
    digest = hashlib.sha256(str(settings.paths.state).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"sunloom-{os.getuid()}-{digest}"


def token_file() -> Path | None:
    """The file of Ray's token, where there is one: whoever reads it may run code on a cluster."""
    default = os.path.expanduser("~/.ray/auth_token")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or default)
    return path if path.is_file() else None


def address_of_raylet() -> str | None:
    """GCS address of the node that this process was started by; None outside of Ray's workers."""
    for parent in psutil.Process().parents():
        try:
            command = parent.cmdline()
        except psutil.Error:
            continue
        if command and Path(command[0]).name == "raylet":
            flag = "--gcs-address="
            return next((word[len(flag) :] for word in command if word.startswith(flag)), None)
    return None


def _start(settings: Settings, variables: Mapping[str, str]) -> None:
    import ray

    # Ports that are fixed in Ray and would collide with another cluster's on this machine.
    ports = {"AUTOSCALER_METRIC_PORT": free_port(), "DASHBOARD_METRIC_PORT": free_port()}
    own = {name: str(port) for name, port in ports.items()}
    # In this process's environment: Ray's own daemons inherit it, while a runtime_env reaches
    # workers only.
    for name, value in {**variables, **own, **_PRIVATE_ENVIRONMENT}.items():
        os.environ.setdefault(name, value)
    # Job entry points look for programs beside the interpreter.
    folder = str(Path(sys.executable).parent)
    parts = os.environ.get("PATH", "").split(os.pathsep)
    if parts[0] != folder:
        os.environ["PATH"] = os.pathsep.join([folder, *parts])
    before = descendants()
    try:
        _init(settings)
    except Exception as error:  # noqa: BLE001 - Ray raises bare Exceptions
        raise_if_interrupted()
        # Ray waits a fixed 30 s for its node, too short on a machine that is busy elsewhere.
        get_logger("cluster").warning("Ray did not start, trying once more: %s", error)
        ray.shutdown()
        end_descendants(keep=before)
        _init(settings)


def _init(settings: Settings) -> None:
    import ray

    config = settings.cluster
    is_debugged = settings.telemetry.log_level == "debug"
    # Jobs on the cluster, which come through the dashboard, have their workers' logs too.
    with private_umask(), _loopback_only(with_monitors=config.dashboard or is_debugged):
        ray.init(
            address="local",
            num_cpus=config.num_cpus,
            object_store_memory=config.object_store_bytes,
            include_dashboard=config.dashboard,
            dashboard_host=config.dashboard_host,
            dashboard_port=config.dashboard_port or free_port(config.dashboard_host),
            namespace="sunloom",
            log_to_driver=is_debugged,
            logging_level="warning",
            # A folder inside: Ray opens its temporary folder to everybody.
            _temp_dir=str(ray_folder(settings) / "r"),
        )


_PRIVATE_ENVIRONMENT = {
    # A busy machine starts Ray's dashboard, agent and servers slowly; that is no failure.
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "180",
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_agent_register_timeout_ms": "120000",
    # Its node is this machine, which nobody takes away with a notice: a process less per training.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # An idle Ray is to leave a laptop's cores alone: its dashboard shows the load of processes
    # twice a minute and tasks after ten seconds, and nobody reads the statistics of its loops.
    "REPORTER_UPDATE_INTERVAL_MS": "30000",
    "METRICS_RECORD_INTERVAL_S": "60",
    "SCAN_EVENT_DIR_INTERVAL_SECONDS": "30",
    "RAY_task_events_report_interval_ms": "10000",
    "RAY_event_stats": "0",
}


@contextmanager
def _loopback_only(with_monitors: bool) -> Iterator[None]:
    """Make a private cluster listen on loopback alone, its job agent on a port of its own.

    Ray binds its gRPC servers to all interfaces unless it believes that no other node can join
    (its name for the switch speaks of Windows and macOS, where that is the default), and
    ``ray.init`` offers no argument for the agent's port: a second head on the machine would
    refuse every job.

    Args:
        with_monitors: Whether workers' logs are collected and Ray's autoscaler runs, a process
            each, which a cluster of one node without a dashboard has no use for.
    """
    from ray._private import parameter, ray_constants

    original, could_join = parameter.RayParams, ray_constants.ENABLE_RAY_CLUSTER

    def own_params(**arguments: Any) -> Any:
        return original(
            dashboard_agent_listen_port=free_port(),
            include_log_monitor=with_monitors,
            no_monitor=not with_monitors,
            **arguments,
        )

    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    parameter.RayParams = own_params
    try:
        yield
    finally:
        parameter.RayParams = original
        ray_constants.ENABLE_RAY_CLUSTER = could_join
        del os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR]


def _join(address: str, variables: Mapping[str, str]) -> None:
    import ray

    runtime_env: dict[str, Any] = {"env_vars": dict(variables), "py_modules": package_folders()}
    job = os.environ.get(_JOB)
    if job is None:
        runtime_env |= {"working_dir": str(source_root()), "excludes": list(EXCLUDES)}
    else:
        # The driver runs in its shipped working directory; Ray refuses what the job names again.
        named = json.loads(job).get("runtime_env", {}).get("env_vars", {})
        runtime_env["env_vars"] = {k: v for k, v in variables.items() if k not in named}
    ray.init(
        address=address,
        namespace="sunloom",
        runtime_env=runtime_env,
        logging_level="warning",
    )


def connected_cluster(is_private: bool = False) -> ClusterInfo:
    """The cluster that this process is connected to.

    Args:
        is_private: Whether this process started it.
    """
    import ray
    from ray._private.worker import get_dashboard_url

    # From a private module: in public only ray.init returns it, which a worker never calls.
    url = get_dashboard_url()
    address = ray.get_runtime_context().gcs_address
    return ClusterInfo(address, f"http://{url}" if url else None, is_private)
