"""Commands ``sunloom job``: modules of ``jobs/`` on a Ray cluster."""

from __future__ import annotations

# The parameter `json` of the commands is their --json.
import json as jsonlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sunloom.cli import output
from sunloom.cli.options import Config, Env, Json, Sets, load_settings
from sunloom.config.settings import Settings
from sunloom.errors import ConflictError, JobError, NotFoundError

if TYPE_CHECKING:
    from sunloom.core.jobs import JobState

app = typer.Typer(help="Submit and follow jobs on a Ray cluster.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="ID")]
Address = Annotated[
    str | None,
    typer.Option(help="Job server, such as http://127.0.0.1:8265 (or cluster.job_address)."),
]
# Ray sends SIGKILL after RAY_JOB_STOP_WAIT_TIME_S, 3 by default; the rest is for slow machines.
POLL_S, STOP_TIMEOUT_S = 1.0, 15.0


@app.command()
def submit(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A module in jobs/.")],
    config: Config = None,
    wait: Annotated[bool, typer.Option(help="Follow the log until the job ends.")] = True,
    address: Address = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Run jobs/NAME.py on the cluster; the exit status is the job's."""
    from sunloom.core.jobs import submit_job

    settings = _settings(address, env)
    job_id = submit_job(settings, name, recipe=_relative(config), sets=sets or ())
    if not wait:
        _print_status(settings, job_id, json)
        return
    if not json:
        output.print_note(f"job {job_id}; Ctrl-C leaves it running")
    state = _follow(settings, job_id, quiet=json)
    if json:
        _print_result(settings, state)
    if state.status != "SUCCEEDED":
        # The job's 2 says that its configuration is wrong; by a signal it may end with any status.
        raise typer.Exit(2 if state.exit_code == 2 else 1)


@app.command()
def status(job_id: JobId, address: Address = None, env: Env = None, json: Json = False) -> None:
    """Show a job's state; exit 1 if it failed."""
    settings = _settings(address, env)
    if _print_status(settings, job_id, json) == "FAILED":
        raise typer.Exit(1)


@app.command()
def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
    address: Address = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Print a job's log."""
    settings = _settings(address, env)
    describe(settings, job_id)
    if follow and not json:
        _follow(settings, job_id)
        return
    text = _client(settings).get_job_logs(job_id)
    output.print_result({"id": job_id, "lines": text.splitlines()}, json, line=text.rstrip())


@app.command()
def stop(job_id: JobId, address: Address = None, env: Env = None, json: Json = False) -> None:
    """Stop a job: SIGTERM, three seconds later SIGKILL."""
    from sunloom.core.jobs import ENDED

    settings = _settings(address, env)
    if (status := describe(settings, job_id).status) in ENDED:
        raise ConflictError(f"Job {job_id} has ended already: {status}.")
    _client(settings).stop_job(job_id)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while (state := describe(settings, job_id)).status not in ENDED:
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    output.print_result(state, json, line=f"{job_id} {state.status}")


@app.command("list")
def list_jobs(address: Address = None, env: Env = None, json: Json = False) -> None:
    """List the cluster's submitted jobs, newest first."""
    from sunloom.core.jobs import job_state

    states = [job_state(job) for job in _client(_settings(address, env)).list_jobs()]
    # A driver that was connected without a submission is listed too, without an id.
    jobs = sorted((job for job in states if job.id), key=lambda job: -(job.started_s or 0))
    if json:
        output.print_json(jobs)
        return
    columns = ("id", "status", "started", "seconds", "entrypoint")
    output.print_table(columns, [[_cell(job, column) for column in columns] for job in jobs])


def describe(settings: Settings, job_id: str) -> JobState:
    """State of one job.

    Raises:
        NotFoundError: The cluster has no such job; lists the known ones.
    """
    from sunloom.core.jobs import job_state

    client = _client(settings)
    try:
        return job_state(client.get_job_info(job_id))
    except RuntimeError as error:
        # The client raises one type for every failed request; the text tells a missing job.
        if "404" not in str(error) and "does not exist" not in str(error):
            raise
        known = [str(job.submission_id) for job in client.list_jobs() if job.submission_id]
        raise NotFoundError(f"There is no job {job_id!r}.", known=known, name=job_id) from error


def _settings(address: str | None, env: str | None) -> Settings:
    sets = [f"cluster.job_address={address}"] if address else []
    return load_settings(sets, env)


def _client(settings: Settings) -> Any:
    from sunloom.core.jobs import job_client

    return job_client(settings)


def _relative(recipe: Path | None) -> str | None:
    """The recipe's path as the job sees it: relative to the shipped folder."""
    from sunloom.core.cluster import source_root

    if recipe is None:
        return None
    root = source_root().resolve()
    path = recipe.resolve()
    if not path.is_file():
        raise NotFoundError(f"There is no recipe file {recipe}.", "Give a path below conf/.")
    if not path.is_relative_to(root):
        raise NotFoundError(
            f"{recipe} is outside {root}, the folder that is shipped with the job.",
            "Put the recipe below conf/.",
        )
    return str(path.relative_to(root))


def _follow(settings: Settings, job_id: str, quiet: bool = False) -> JobState:
    """Print new lines of the log until the job ends; returns its last state."""
    from sunloom.core.jobs import ENDED

    client, printed = _client(settings), 0
    while True:
        # State before log: the log of a job that has ended is complete when it is read.
        state = describe(settings, job_id)
        if not quiet:
            text = client.get_job_logs(job_id)
            # The job server returns the whole log each time.
            if fresh := text[printed:].rstrip("\n"):
                output.print_line(fresh)
            printed = len(text)
        if state.status in ENDED:
            if state.status != "SUCCEEDED":
                output.print_error(f"job {job_id} {state.status}: {state.message}")
            return state
        time.sleep(POLL_S)


def _print_result(settings: Settings, state: JobState) -> None:
    """Print the state with the result on the log's last line, or with what is wrong with it."""
    from sunloom.core.jobs import job_result

    try:
        result = job_result(_client(settings).get_job_logs(state.id))
    except JobError as error:
        output.print_json(asdict(state) | {"result": None, "problem": str(error)})
    else:
        output.print_json(asdict(state) | {"result": jsonlib.loads(result.to_json())})


def _print_status(settings: Settings, job_id: str, json: bool) -> str:
    state = describe(settings, job_id)
    output.print_result(state, json, line=f"{job_id} {state.status}")
    if state.message and not json:
        output.print_note(state.message)
    return state.status


def _cell(job: JobState, column: str) -> Any:
    if column == "started":
        started = time.localtime(job.started_s) if job.started_s else None
        return time.strftime("%Y-%m-%d %H:%M:%S", started) if started else None
    if column == "seconds":
        return round((job.ended_s or time.time()) - job.started_s, 1) if job.started_s else None
    return getattr(job, column)
