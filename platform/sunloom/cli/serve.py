"""``sunloom serve``: the gateway and the apps behind it."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Sets, load_settings
from sunloom.cli.serving_record import LocalStatus, ServingRecord
from sunloom.cli.work import cluster
from sunloom.config.settings import Settings
from sunloom.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from sunloom.serving.deploy.deploy import Deployment

app = typer.Typer(help="Run the gateway and the apps behind it.", no_args_is_help=True)

Port = Annotated[int | None, typer.Option(help="Port of the gateway; 0 picks a free one.")]


@app.command()
def run(port: Port = None, sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """Serve in the foreground until Ctrl-C; everything that was started ends with it."""
    from sunloom.serving.deploy.deploy import shutdown
    from sunloom.serving.deploy.environment import serving_environment

    settings = _settings(port, sets, env)
    with cluster(settings, serving_environment(settings)):
        try:
            url = _deploy(settings, json)
            with ServingRecord.keep(settings, url):
                _wait_for_interrupt()
        except KeyboardInterrupt:
            output.print_note("stopping")
        # Also after a failed start, which may leave apps and HAProxy running.
        finally:
            shutdown(settings)


@app.command()
def deploy(port: Port = None, sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """Serve on a running cluster (cluster.address or RAY_ADDRESS) and return once it is ready."""
    settings = _settings(port, sets, env)
    # A private cluster would end with this command, and the apps with it.
    _require_address(settings)
    _deploy(settings, json)


@app.command()
def status(sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """Show the deployment on the configured cluster, else that of `serve run` on this machine."""
    settings = load_settings(sets, env)
    current: Deployment | LocalStatus | None
    if _address(settings):
        current = _cluster_status(settings)
    else:
        record = ServingRecord.read(settings)
        current = record.status() if record is not None else None
    if current is None:
        raise NotFoundError("Nothing is served.", "Start it with `sunloom serve run`.")
    if json:
        output.print_json(current)
    else:
        output.print_mapping(asdict(current))


@app.command()
def shutdown(sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """Stop the apps that `deploy` or `run` started; the cluster keeps running."""
    settings = load_settings(sets, env)
    if _address(settings):
        from sunloom.core.cluster import connect
        from sunloom.serving.deploy.deploy import shutdown as stop

        connect(settings)
        stop(settings)
        stopped = {"stopped": str(_address(settings))}
    else:
        record = ServingRecord.read(settings)
        if record is None:
            raise NotFoundError("Nothing is served.", "Start it with `sunloom serve run`.")
        record.end()
        stopped = {"stopped": record.url}
    if json:
        output.print_json(stopped)
    else:
        output.print_line(f"stopped {stopped['stopped']}")


def _settings(port: int | None, sets: list[str] | None, env: str | None) -> Settings:
    extra = [f"serving.port={port}"] if port is not None else []
    return load_settings([*(sets or ()), *extra], env)


def _deploy(settings: Settings, json: bool) -> str:
    from sunloom.serving.auth.api_keys import ensure_first_key
    from sunloom.serving.deploy.deploy import deploy as start

    first = ensure_first_key(settings)
    output.print_note("starting: about two minutes where a language model is served")
    deployment = start(settings)
    secret = first[0] if first else None
    if json:
        output.print_json(asdict(deployment) | {"key": secret})
        return deployment.url
    output.print_mapping({"gateway": deployment.url, "documentation": f"{deployment.url}/docs"})
    output.print_table(("app", "state"), deployment.apps.items())
    if secret:
        output.print_line(f"first key, shown once: {secret}")
    return deployment.url


def _wait_for_interrupt() -> None:
    output.print_note("Ctrl-C stops it")
    while True:
        # Signals end the sleep: their handler raises KeyboardInterrupt.
        time.sleep(3600)


def _address(settings: Settings) -> str | None:
    # Ray itself reads the variable when it connects.
    return settings.cluster.address or os.environ.get("RAY_ADDRESS")


def _require_address(settings: Settings) -> None:
    if not _address(settings):
        raise UsageError(
            "`serve deploy` needs a running cluster.",
            "Set cluster.address (--set cluster.address=auto), or use `sunloom serve run`.",
            "cluster.address",
        )


def _cluster_status(settings: Settings) -> Deployment | None:
    from sunloom.core.cluster import connect
    from sunloom.serving.deploy.deploy import status as cluster_status

    connect(settings)
    return cluster_status(settings)
