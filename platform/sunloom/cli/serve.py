"""``sunloom serve``: the gateway and the apps behind it.

A record in the state folder lets `serve status` and `serve shutdown` find what `serve run` started
on this machine.
"""

from __future__ import annotations

# The parameter `json` of the commands is their --json.
import json as jsonlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Sets, cluster, load_settings
from sunloom.config.settings import Settings
from sunloom.core.interrupts import ignore_interrupts, wait_for_interrupt
from sunloom.errors import ConflictError, UsageError

if TYPE_CHECKING:
    from sunloom.serving.deploy.deploy import Deployment

app = typer.Typer(help="Run the gateway and the apps behind it.", no_args_is_help=True)

# A language model's engine and HAProxy take seconds to end.
END_TIMEOUT_S = 60.0
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
                output.print_note("Ctrl-C stops it")
                wait_for_interrupt()
            output.print_note("stopping")
        # Also after a failed start, which may leave apps and HAProxy running.
        finally:
            with ignore_interrupts():
                shutdown(settings)


@app.command()
def deploy(port: Port = None, sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """Serve on a running cluster (cluster.address or RAY_ADDRESS) and return once it is ready."""
    settings = _settings(port, sets, env)
    # A private cluster would end with this command, and the apps with it.
    if not _address(settings):
        raise UsageError(
            "`serve deploy` needs a running cluster.",
            "Set cluster.address (--set cluster.address=auto), or use `sunloom serve run`.",
            "cluster.address",
        )
    _deploy(settings, json)


@app.command()
def status(sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """Show the deployment on the configured cluster, else that of `serve run` on this machine."""
    settings = load_settings(sets, env)
    current: Deployment | LocalStatus | None
    if _address(settings):
        from sunloom.core.cluster import connect
        from sunloom.serving.deploy.deploy import status as cluster_status

        connect(settings)
        current = cluster_status(settings)
    else:
        record = ServingRecord.read(settings)
        current = record.status() if record is not None else None
    if current is None:
        raise ConflictError("Nothing is served.", "Start it with `sunloom serve run`.")
    output.print_result(current, json)


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
            raise ConflictError("Nothing is served.", "Start it with `sunloom serve run`.")
        record.end()
        stopped = {"stopped": record.url}
    output.print_result(stopped, json, line=f"stopped {stopped['stopped']}")


def _settings(port: int | None, sets: list[str] | None, env: str | None) -> Settings:
    extra = [f"serving.port={port}"] if port is not None else []
    return load_settings([*(sets or ()), *extra], env)


def _deploy(settings: Settings, json: bool) -> str:
    from sunloom.serving.auth.api_keys import ensure_first_key, has_valid_key
    from sunloom.serving.deploy.deploy import deploy as start

    output.print_note("starting: about two minutes where a language model is served")
    deployment = start(settings)
    # Only now: a start that fails would end before the key is shown, and the next one, which finds
    # a valid key, would create none.
    first = ensure_first_key(settings)
    secret = first[0] if first else None
    if json:
        output.print_json(asdict(deployment) | {"key": secret})
        return deployment.url
    output.print_mapping({"gateway": deployment.url, "documentation": f"{deployment.url}/docs"})
    output.print_table(("app", "state"), deployment.apps.items())
    if secret:
        output.print_line(f"first key, shown once: {secret}")
    elif not has_valid_key(settings):
        output.print_note("no key yet: sunloom keys create --scopes llm,features,agents,models")
    return deployment.url


def _address(settings: Settings) -> str | None:
    # Ray itself reads the variable when it connects.
    return settings.cluster.address or os.environ.get("RAY_ADDRESS")


@dataclass(frozen=True)
class LocalStatus:
    """Status of a serving process on this machine.

    Attributes:
        url: URL of the gateway.
        pid: The process in the foreground.
        ready: Whether ``/readyz`` reports ready.
    """

    url: str
    pid: int
    ready: bool


@dataclass(frozen=True)
class ServingRecord:
    """The serving process of a state folder.

    Attributes:
        url: URL of the gateway.
        pid: The process in the foreground.
        born_s: Start time of that process, seconds since the epoch; a reused pid has another.
    """

    url: str
    pid: int
    born_s: float

    @classmethod
    @contextmanager
    def keep(cls, settings: Settings, url: str) -> Iterator[None]:
        """Record this process while the block runs."""
        import psutil

        from sunloom.core.files import write_atomic

        process = psutil.Process()
        record = cls(url, process.pid, process.create_time())
        write_atomic(_path(settings), jsonlib.dumps(asdict(record)))
        try:
            yield
        finally:
            _path(settings).unlink(missing_ok=True)

    @classmethod
    def read(cls, settings: Settings) -> ServingRecord | None:
        """The record, if its process is alive."""
        try:
            record = cls(**jsonlib.loads(_path(settings).read_text()))
        # TypeError: a record with other fields, written by another version.
        except (OSError, ValueError, TypeError):
            return None
        return record if record.is_alive() else None

    def is_alive(self) -> bool:
        """Whether the recorded process still runs."""
        import psutil

        try:
            # Derived from the boot time, which adjustments of the clock shift a little.
            return bool(abs(psutil.Process(self.pid).create_time() - self.born_s) < 1.0)
        except psutil.NoSuchProcess:
            return False

    def status(self) -> LocalStatus:
        """The process, and whether its gateway reports ready."""
        import httpx

        try:
            is_ready = bool(httpx.get(f"{self.url}/readyz", timeout=10).is_success)
        except httpx.HTTPError:
            is_ready = False
        return LocalStatus(self.url, self.pid, is_ready)

    def end(self) -> None:
        """Stop the process and wait until it has ended."""
        import psutil

        # It may end by itself at any moment.
        with suppress(psutil.NoSuchProcess):
            if self.is_alive():
                process = psutil.Process(self.pid)
                # SIGTERM runs the clean-up of `serve run`; SIGKILL would leave HAProxy running.
                process.send_signal(signal.SIGTERM)
                process.wait(END_TIMEOUT_S)


def _path(settings: Settings) -> Path:
    return settings.paths.state / "serve.json"
