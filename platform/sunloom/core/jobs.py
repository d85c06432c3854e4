"""Jobs on a Ray cluster: submitting a module of ``jobs/``, its state and its result."""

from __future__ import annotations

import os
import re
import shlex
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sunloom.config import Settings
from sunloom.config.loading.load import referenced_variables
from sunloom.core.cluster import EXCLUDES, connected_cluster, source_root
from sunloom.core.runs import RunResult
from sunloom.core.telemetry import QUIET_ENVIRONMENT, get_logger
from sunloom.errors import ClusterError, JobError, NotFoundError

# The client lets these override the address that it is given.
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_environment_lock = threading.Lock()
_SECRET = re.compile(
    r"KEY(?!S__)|TOKEN(?!S|IZER)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|COOKIE|WEBHOOK|SLACK"
)
# A job joins Ray and writes to the registry and the artifact store.
_NEEDED = ("RAY_", "SUNLOOM__DATABASE__", "SUNLOOM__ARTIFACTS__")
_STORE_VARIABLES = {"s3": "AWS_", "gs": "GOOGLE_", "gcs": "GOOGLE_", "abfs": "AZURE_"}

ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
"""States that a job does not leave."""


@dataclass(frozen=True)
class JobState:
    """State of a submitted job.

    Attributes:
        id: Given by the job server.
        status: Ray's: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        name: Module of ``jobs/``; None for a job that Sunloom did not submit.
        entrypoint: Command line.
        message: Ray's explanation of the status.
        started_s: Seconds since the epoch.
        ended_s: Seconds since the epoch; None while the job runs.
        exit_code: Of the driver process.
    """

    id: str
    status: str
    name: str | None
    entrypoint: str
    message: str | None
    started_s: float | None
    ended_s: float | None
    exit_code: int | None


def job_state(job: Any) -> JobState:
    """The state in Ray's ``JobDetails``."""
    return JobState(
        id=job.submission_id,
        status=str(getattr(job.status, "value", job.status)),
        name=(job.metadata or {}).get("sunloom_job"),
        entrypoint=job.entrypoint,
        message=job.message,
        # Ray gives milliseconds.
        started_s=job.start_time / 1000 if job.start_time else None,
        ended_s=job.end_time / 1000 if job.end_time else None,
        exit_code=job.driver_exit_code,
    )


def job_server(settings: Settings) -> str:
    """URL of the job server: ``cluster.job_address``, else the connected cluster's dashboard.

    Raises:
        ClusterError: Neither is known.
    """
    if settings.cluster.job_address:
        return settings.cluster.job_address
    import ray

    if ray.is_initialized() and (url := connected_cluster().dashboard_url):
        return url
    # RAY_ADDRESS may hold a GCS address, which is no job server; only an http URL is one.
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
        with _environment_lock:
            overriding = {
                name: os.environ.pop(name) for name in _ADDRESS_VARIABLES if name in os.environ
            }
            try:
                return JobSubmissionClient(url)
            finally:
                os.environ.update(overriding)
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
    withheld: Sequence[str] = (),
) -> str:
    """Run ``python -m jobs.NAME`` on the cluster.

    Args:
        settings: Where the job server is; database and paths travel as variables.
        name: A module in ``jobs/``.
        recipe: Recipe file, relative to the project's root.
        sets: ``a.b=c`` assignments.
        metadata: Stored with the job.
        withheld: Environment variables of the cluster that are empty in the job and its workers.

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
    # Not sys.executable: the driver runs on the cluster, where the interpreter is elsewhere.
    entrypoint = shlex.join(["python", "-m", f"jobs.{name}", *arguments])
    job_id: str = job_client(settings).submit_job(
        entrypoint=entrypoint,
        runtime_env={
            "working_dir": str(root),
            "excludes": list(EXCLUDES),
            "env_vars": _job_variables(settings) | dict.fromkeys(withheld, ""),
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


def job_result(logs: str) -> RunResult:
    """The result on the last line of a job's log.

    Raises:
        JobError: The job ended before it could print one.
    """
    lines = logs.rstrip().splitlines()
    # Ray or a library may print a few lines at exit, after the result.
    for line in reversed(lines[-5:]):
        if line.startswith("{"):
            try:
                return RunResult.from_json(line)
            except ValueError:
                continue
    tail = "\n".join(lines[-15:])
    raise JobError(f"The job printed no result. Its last lines:\n{tail}")


def withheld_secrets(settings: Settings, keep: Sequence[str] = ()) -> list[str]:
    """Variables of this environment with secrets that a job has no use for.

    It keeps those of Ray, the database and the artifact store, and what ``conf/`` refers to,
    without which its configuration could not be loaded.

    Args:
        settings: Tells the artifact store.
        keep: Further variables that it needs.
    """
    store = _STORE_VARIABLES.get((settings.artifacts.uri or "").partition("://")[0])
    needed = (*_NEEDED, "PG", *([store] if store else ()))
    named = {*keep, *_referenced_variables(source_root() / "conf")}
    return sorted(
        name
        for name in os.environ
        if _SECRET.search(name.upper()) and not name.startswith(needed) and name not in named
    )


def _referenced_variables(folder: Path) -> set[str]:
    files = (*folder.glob("base.yaml"), *folder.glob("env/*.yaml"), *folder.glob("llm/*.yaml"))
    return {name for path in files for name in referenced_variables(path.read_text())}


def _job_variables(settings: Settings) -> dict[str, str]:
    # The job runs in a shipped copy of the project; results below that copy would be lost with it.
    variables = dict(QUIET_ENVIRONMENT) | {
        "SUNLOOM_ENV": settings.environment,
        "SUNLOOM__PATHS__STATE": str(settings.paths.state),
        "SUNLOOM__PATHS__OUTPUTS": str(settings.paths.outputs),
    }
    # Passed: what Ray tells the job is the first cluster of the machine that it finds.
    if settings.cluster.address and not settings.cluster.address.startswith(("auto", "ray://")):
        variables["SUNLOOM__CLUSTER__ADDRESS"] = settings.cluster.address
    if settings.artifacts.uri:
        variables["SUNLOOM__ARTIFACTS__URI"] = settings.artifacts.uri
    return variables
