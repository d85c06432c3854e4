"""Deployment of the apps on a cluster: start, status, shutdown."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from sunloom.config import Settings
from sunloom.core.cluster import connect, is_cluster_private
from sunloom.core.interrupts import is_interrupted
from sunloom.core.processes import (
    end_processes,
    free_port,
    is_alive,
    is_port_free,
    process_name,
)
from sunloom.core.telemetry import get_logger
from sunloom.errors import ServingError
from sunloom.serving.app_table import APPS
from sunloom.serving.apps.llm.model_resolver import BaseLanguageModel, find_bases
from sunloom.serving.deploy.applications import build_application, build_llm_application
from sunloom.serving.deploy.environment import instance_folder, serving_environment
from sunloom.serving.deploy.haproxy import INSTANCE

if TYPE_CHECKING:
    from ray.serve import RunTarget

# Between SIGTERM and SIGKILL of a process that an earlier deployment left behind.
_GRACE_S = 3.0
# A language model's engine, replicas with open requests and HAProxy take seconds to end.
SHUTDOWN_TIMEOUT_S = 45.0
_STATUS_PERIOD_S = 3.0
_logger = get_logger("serving")


@dataclass(frozen=True)
class Deployment:
    """A running gateway with its apps.

    Attributes:
        url: URL of the gateway.
        apps: State of each app: RUNNING, DEPLOYING, UNHEALTHY, …
        model: Reference of the base model; None without one.
    """

    url: str
    apps: dict[str, str]
    model: str | None = None


def deploy(settings: Settings, *, wait: bool = True) -> Deployment:
    """Start the gateway and every enabled app; connects to Ray first if necessary.

    Args:
        settings: Ports, models and replicas.
        wait: Return once ``/readyz`` reports ready; else at once.

    Raises:
        ServingError: An app does not start, or is not ready in time.
    """
    from ray import serve

    environment = serving_environment(settings)
    cluster = connect(settings, environment)
    settings = with_port(settings)
    if cluster.dashboard_url is not None and not settings.cluster.job_address:
        # For the training routes: the gateway's replica cannot find the dashboard by itself, and
        # a job whose address Ray looks for would find any cluster of the machine.
        address = {"job_address": cluster.dashboard_url, "address": cluster.address}
        with_address = settings.cluster.model_copy(update=address)
        settings = settings.model_copy(update={"cluster": with_address})
    bases = find_bases(settings) if settings.serving.llm.enabled else []
    targets = _build_targets(settings, bases)
    _start_serve(settings, environment)
    # The apps start in parallel; `wait_ready` waits for all of them and reports which one failed.
    try:
        serve.run_many(
            targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
        )
    except TimeoutError as error:
        # Raised after the apps were deployed: for the proxies Serve waits a fixed 60 s here too.
        _logger.warning("Serve's proxies take long to start: %s", error)
    url = settings.serving.url
    _logger.info("deploying %s at %s", ", ".join(target.name for target in targets), url)
    if wait:
        wait_ready(url, settings.serving.ready_timeout_s)
    return Deployment(url, _states(), bases[0].ref if bases else None)


def with_port(settings: Settings) -> Settings:
    """The settings with a port that is free, or the one that Serve already listens on.

    Raises:
        ServingError: The configured port is in use by something else.
    """
    serving = settings.serving
    # Serve keeps the port of its first start until its controller ends.
    port = _http_port() or serving.port or free_port(serving.host)
    if port == serving.port and _http_port() is None and not is_port_free(port, serving.host):
        raise ServingError(
            f"Port {port} on {serving.host} is in use.",
            "Stop the process that listens there, or start with --set serving.port=0.",
            "serving.port",
        )
    serving = serving.model_copy(update={"port": port})
    return settings.model_copy(update={"serving": serving})


def wait_ready(url: str, timeout_s: float) -> None:
    """Wait until ``/readyz`` reports ready.

    Raises:
        ServingError: It does not in time, or an app failed to start; the message names it.
    """
    import httpx
    from ray import serve

    deadline = time.monotonic() + timeout_s
    last, next_check = "no response", 0.0
    while time.monotonic() < deadline:
        try:
            response = httpx.get(f"{url}/readyz", timeout=30)
            if response.status_code == 200:
                return
            last = response.text[:500]
        except httpx.TransportError as error:
            last = type(error).__name__
        # Seldom: to describe all apps keeps the controller, which starts them, from its work.
        if time.monotonic() >= next_check:
            for name, app in serve.status().applications.items():
                if _state_of(app) == "DEPLOY_FAILED":
                    # The end of the message: a traceback names its cause last.
                    raise ServingError(f"The app {name} did not start: {app.message[-1500:]}")
            next_check = time.monotonic() + _STATUS_PERIOD_S
        time.sleep(0.5)
    raise ServingError(f"The gateway at {url} is not ready after {timeout_s:g} s: {last}")


def status(settings: Settings) -> Deployment | None:
    """The deployment on the connected cluster; None when Serve does not run there."""
    states = _states()
    if not states:
        return None
    port = _http_port() or settings.serving.port
    return Deployment(settings.serving.model_copy(update={"port": port}).url, states)


def shutdown(settings: Settings) -> None:
    """Stop all apps and end processes that they left behind; Ray keeps running.

    After an interrupt a private Ray, which then ends too, takes its apps with it: to wait for open
    requests would take longer than whoever interrupts waits.
    """
    if is_interrupted() and is_cluster_private():
        return
    _stop_controller(SHUTDOWN_TIMEOUT_S)
    ended = _end_orphans(instance_folder(settings))
    if ended:
        _logger.info("ended %s", ", ".join(ended))


def _stop_controller(timeout_s: float) -> None:
    """Let Serve's controller stop the apps and then itself; end it where it does not in time."""
    import ray
    from ray.serve.context import _disconnect

    if (controller := _controller()) is None:
        return
    # Not `serve.shutdown()`: its call lasts until the controller kills itself, and as the
    # controller is one that restarts, Ray reports on the terminal that it will retry the call. It
    # also takes a controller that is slow to respond for dead, and then stops nothing.
    try:
        ray.get(controller.graceful_shutdown.remote(wait=False), timeout=timeout_s)
        deadline = time.monotonic() + timeout_s
        while _controller() is not None and time.monotonic() < deadline:
            time.sleep(0.2)
    except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError) as error:
        _logger.debug("Serve's controller does not respond: %s", type(error).__name__)
    if _controller() is not None:
        ray.kill(controller, no_restart=True)
    # This process caches a client of the controller that has ended.
    _disconnect()


def _controller() -> Any:
    """Serve's controller on the connected cluster; None where Serve does not run."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    if not ray.is_initialized():
        return None
    try:
        return ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return None


def _build_targets(settings: Settings, bases: Sequence[BaseLanguageModel]) -> list[RunTarget]:
    """The enabled apps' Serve applications in the order of deployment."""
    from ray.serve import RunTarget

    targets = []
    for name, app in APPS.items():
        if name == "llm" and bases:
            application = build_llm_application(settings, bases)
        elif name != "llm" and getattr(settings.serving, name).enabled:
            application = build_application(name, settings)
        else:
            continue
        targets.append(RunTarget(target=application, name=name, route_prefix=app.prefix))
    return targets


def _start_serve(settings: Settings, environment: dict[str, str]) -> None:
    from ray import serve
    from ray.exceptions import RayActorError

    if not _states():
        _end_orphans(instance_folder(settings))
    try:
        serve.start(
            # One gateway: the other nodes open no port.
            proxy_location="HeadOnly",
            http_options={"host": settings.serving.host, "port": settings.serving.port},
            logging_config={"enable_access_log": False, "log_level": "WARNING"},
            # Ray may have been started before, without these variables.
            controller_options={"runtime_env": {"env_vars": environment}},
        )
    except (TimeoutError, RayActorError) as error:
        # Serve waits a fixed 60 s, too short on a busy machine; the controller goes on, and
        # `wait_ready` waits as long as the settings say.
        _logger.warning("Serve's proxies take long to start: %s", type(error).__name__)


def _states() -> dict[str, str]:
    import ray

    if not ray.is_initialized():
        return {}
    from ray import serve

    return {name: _state_of(app) for name, app in serve.status().applications.items()}


def _state_of(app: Any) -> str:
    return str(getattr(app.status, "value", app.status))


def _http_port() -> int | None:
    """The port of a Serve that runs on the connected cluster."""
    if _controller() is None:
        return None
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    return int(client.http_config.port) if client is not None else None


def _end_orphans(folder: Path) -> list[str]:
    """End HAProxy and vLLM processes of one instance whose Ray has ended; returns their names.

    HAProxy has the instance's folder on its command line, and every process of the instance has it
    in its environment.
    """
    orphans = [process for process in psutil.process_iter() if _is_orphan(process, folder)]
    names = [f"{process_name(process)} ({process.pid})" for process in orphans]
    end_processes(orphans, _GRACE_S)
    return names


def _is_orphan(process: psutil.Process, folder: Path) -> bool:
    try:
        # This process is of the instance, too.
        if process.pid == os.getpid() or not is_alive(process):
            return False
        command = process.cmdline()
        if any(part.startswith(f"{folder}/") for part in command) and "-db" in command:
            return True
        # vLLM renames its processes, so only the environment tells which instance they are of.
        title = " ".join(command)
        return "VLLM::" in title and process.environ().get(INSTANCE) == str(folder)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
