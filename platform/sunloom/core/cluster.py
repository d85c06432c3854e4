"""Connect to Ray, and run jobs on it.

A private local cluster has its own temporary folder, ports and dashboard, so it neither disturbs
nor finds another cluster on the machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sunloom
from sunloom.config import Settings
from sunloom.core.processes import descendants, end_descendants, free_port
from sunloom.core.telemetry import QUIET_ENVIRONMENT, get_logger, silence_libraries
from sunloom.errors import ClusterError, JobError, NotFoundError

# What a job's working directory must not carry; Ray also honours .gitignore.
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


_connected: list[ClusterInfo] = []


def connect(settings: Settings, environment: Mapping[str, str] | None = None) -> ClusterInfo:
    """Connect this process to Ray; a second call returns the same cluster.

    Args:
        settings: ``cluster.address`` empty and no ``RAY_ADDRESS`` starts a private cluster.
        environment: Variables that workers and Serve need from their start.

    Raises:
        ClusterError: Ray does not start or does not answer at the address.
    """
    import ray

    if ray.is_initialized():
        return _connected[0] if _connected else _describe(is_private=False)
    silence_libraries()
    variables = dict(QUIET_ENVIRONMENT) | dict(environment or {})
    address = settings.cluster.address or os.environ.get("RAY_ADDRESS")
    try:
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
    _connected[:] = [_describe(is_private=not address)]
    return _connected[0]


def disconnect() -> None:
    """Leave the cluster; a private one ends."""
    import ray

    _connected.clear()
    if ray.is_initialized():
        ray.shutdown()


def source_root() -> Path:
    """The project's root.

    It is the nearest folder at or above the working directory that holds ``jobs/``, else the
    checkout that this package was imported from.
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


def _start(settings: Settings, variables: Mapping[str, str]) -> None:
    import ray

    for name, value in {**variables, **_own_ports(), **_PATIENCE}.items():
        os.environ.setdefault(name, value)
    _put_interpreter_on_path()
    before = descendants()
    try:
        _init(settings)
    except Exception as error:  # noqa: BLE001 - Ray raises bare Exceptions
        # Ray waits a fixed 30 s for its node, too short on a machine that is busy elsewhere.
        get_logger("cluster").warning("Ray did not start, trying once more: %s", error)
        ray.shutdown()
        end_descendants(keep=before)
        _init(settings)


def _init(settings: Settings) -> None:
    import ray

    config = settings.cluster
    with _loopback_only():
        ray.init(
            address="local",
            num_cpus=config.num_cpus,
            object_store_memory=config.object_store_bytes,
            include_dashboard=config.dashboard,
            dashboard_host=config.dashboard_host,
            dashboard_port=config.dashboard_port or free_port(config.dashboard_host),
            namespace="sunloom",
            log_to_driver=settings.telemetry.log_level == "debug",
            logging_level="warning",
            _temp_dir=str(_temp_dir(settings)),
        )


# A busy machine starts Ray's dashboard, agent and servers slowly; that is no failure.
_PATIENCE = {
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "180",
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_agent_register_timeout_ms": "120000",
}


def _own_ports() -> dict[str, str]:
    """Ports that are fixed in Ray and would collide with another cluster's on this machine."""
    names = ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")
    return {name: str(free_port()) for name in names}


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Make a private cluster listen on loopback alone, its job agent on a port of its own.

    Ray binds its gRPC servers to all interfaces unless it believes that no other node can join
    (its name for the switch speaks of Windows and macOS, where that is the default), and
    ``ray.init`` offers no argument for the agent's port: a second head on the machine would
    refuse every job.
    """
    from ray._private import parameter, ray_constants

    original, could_join = parameter.RayParams, ray_constants.ENABLE_RAY_CLUSTER

    def params(**arguments: Any) -> Any:
        return original(dashboard_agent_listen_port=free_port(), **arguments)

    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    parameter.RayParams = params
    try:
        yield
    finally:
        parameter.RayParams = original
        ray_constants.ENABLE_RAY_CLUSTER = could_join
        del os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR]


def _join(address: str, variables: Mapping[str, str]) -> None:
    import ray

    runtime_env: dict[str, Any] = {"env_vars": dict(variables), "py_modules": package_folders()}
    job = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")
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


def _temp_dir(settings: Settings) -> Path:
    # Ray's unix sockets allow about 107 characters, so the state folder itself may be too deep.
    digest = hashlib.sha256(str(settings.paths.state).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"sunloom-{os.getuid()}-{digest}"


def _put_interpreter_on_path() -> None:
    """DeepSpeed's compiler step and job entry points look for programs beside the interpreter."""
    folder = str(Path(sys.executable).parent)
    parts = os.environ.get("PATH", "").split(os.pathsep)
    if parts[0] != folder:
        os.environ["PATH"] = os.pathsep.join([folder, *parts])


def _describe(is_private: bool) -> ClusterInfo:
    import ray
    from ray._private.worker import get_dashboard_url

    url = get_dashboard_url()
    address = ray.get_runtime_context().gcs_address
    return ClusterInfo(address, f"http://{url}" if url else None, is_private)


def job_server(settings: Settings) -> str:
    """URL of the job server: ``cluster.job_address``, else the connected cluster's dashboard.

    Raises:
        ClusterError: Neither is known.
    """
    if settings.cluster.job_address:
        return settings.cluster.job_address
    import ray

    if ray.is_initialized() and (url := _describe(is_private=False).dashboard_url):
        return url
    address = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS", "")
    if address.startswith("http"):
        return address
    raise ClusterError(
        "No job server is known.",
        "Set cluster.job_address (or RAY_API_SERVER_ADDRESS), such as http://127.0.0.1:8265.",
        "cluster.job_address",
    )


def job_client(settings: Settings) -> Any:
    """A ``ray.job_submission.JobSubmissionClient`` for the job server.

    Raises:
        ClusterError: The server does not answer.
    """
    from ray.job_submission import JobSubmissionClient

    url = job_server(settings)
    try:
        return JobSubmissionClient(url)
    except (ConnectionError, RuntimeError) as error:
        raise ClusterError(
            f"No job server answers at {url}: {error}",
            "Start one with `ray start --head`, or set cluster.job_address.",
        ) from error


def submit_job(
    settings: Settings,
    name: str,
    recipe: str | None = None,
    sets: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Run ``python -m jobs.NAME`` on the cluster.

    Args:
        settings: Where the job server is; database and paths travel as variables.
        name: A module in ``jobs/``.
        recipe: Recipe file, relative to the project's root.
        sets: ``a.b=c`` assignments.
        metadata: Stored with the job.

    Returns:
        The job's id.

    Raises:
        NotFoundError: There is no such job; the known ones are listed.
        ClusterError: The job server does not answer.
    """
    root = source_root()
    known = job_names(root)
    if name not in known:
        raise NotFoundError(f"There is no job {name!r}.", known=known, name=name)
    arguments = ["--config", recipe] if recipe else []
    for assignment in sets:
        arguments += ["--set", assignment]
    entrypoint = shlex.join(["python", "-m", f"jobs.{name}", *arguments])
    job_id: str = job_client(settings).submit_job(
        entrypoint=entrypoint,
        runtime_env={
            "working_dir": str(root),
            "excludes": list(EXCLUDES),
            "env_vars": _job_variables(settings),
        },
        metadata={"sunloom_job": name, **(metadata or {})},
    )
    get_logger("cluster").info("submitted %s as %s", name, job_id)
    return job_id


def job_names(root: Path) -> list[str]:
    """Modules in ``jobs/``."""
    return sorted(
        path.stem for path in (root / "jobs").glob("*.py") if not path.stem.startswith("_")
    )


def job_result(logs: str) -> dict[str, Any]:
    """The JSON object on the last line of a job's log.

    Raises:
        JobError: The job ended before it could print one.
    """
    lines = logs.rstrip().splitlines()
    for line in reversed(lines[-5:]):
        if line.startswith("{"):
            try:
                result: dict[str, Any] = json.loads(line)
            except json.JSONDecodeError:
                continue
            return result
    tail = "\n".join(lines[-15:])
    raise JobError(f"The job printed no result. Its last lines:\n{tail}")


def _job_variables(settings: Settings) -> dict[str, str]:
    variables = dict(QUIET_ENVIRONMENT) | {
        "SUNLOOM_ENV": settings.environment,
        "SUNLOOM__PATHS__STATE": str(settings.paths.state),
        "SUNLOOM__PATHS__OUTPUTS": str(settings.paths.outputs),
    }
    if settings.artifacts.uri:
        variables["SUNLOOM__ARTIFACTS__URI"] = settings.artifacts.uri
    return variables
