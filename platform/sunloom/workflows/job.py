"""Command line, run record and result line that every entry point in ``jobs/`` shares."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from sunloom.config import Settings, load_config
from sunloom.core.cluster import connect
from sunloom.core.interrupts import Interrupted, interrupt_on_signals
from sunloom.core.model_registry import TrainingResult
from sunloom.core.runs import RunResult, start_run
from sunloom.core.telemetry import configure_logging, get_logger
from sunloom.errors import SunloomError

R = TypeVar("R", bound=Settings)


@dataclass(frozen=True)
class JobOutcome:
    """Result of a job's function.

    Attributes:
        metrics: Computed in the run.
        artifacts: Name to path, URI or ``name@version``.
    """

    metrics: Mapping[str, Any] = field(default_factory=dict)
    artifacts: Mapping[str, Any] = field(default_factory=dict)


def run_job(
    kind: str,
    recipe: type[R],
    function: Callable[[R], JobOutcome | TrainingResult],
    arguments: Sequence[str] | None = None,
    *,
    needs_cluster: bool = True,
) -> None:
    """Parse the command line, connect to Ray, call one library function, print its result and exit.

    The last line of the log is ``{"run_id", "status", "artifacts", "metrics"}``. The exit status
    is 0, 1 when the work failed, 2 for a wrong configuration, 130 after SIGINT, 143 after SIGTERM.

    Args:
        kind: Leading part of the run's id.
        recipe: The recipe class.
        function: Does the work.
        arguments: Command line; the process's own by default.
        needs_cluster: Whether to connect; work in this process alone needs no Ray, which takes
            seconds to start.
    """
    options = _parse(kind, arguments)
    # Before the configuration is loaded: its relative paths follow SUNLOOM_HOME.
    _choose_home()
    try:
        config = load_config(
            recipe, recipe=options.config, env=options.env, sets=options.set
        ).config
    except SunloomError as error:
        _print_result(RunResult(run_id=None, status="failed"), error)
        sys.exit(error.exit_code)
    configure_logging(config)
    sys.exit(_run(kind, config, function, needs_cluster))


def _run(
    kind: str,
    config: R,
    function: Callable[[R], JobOutcome | TrainingResult],
    needs_cluster: bool,
) -> int:
    # Before the work: library functions that the job calls write into this run's folder.
    run = start_run(config, kind, config)
    get_logger("job").info("run %s writes to %s", run.run_id, run.directory)
    try:
        with interrupt_on_signals():
            if needs_cluster:
                # Inside the run: a cluster that cannot be reached is on record too.
                connect(config)
            outcome = function(config)
    except Interrupted as interrupt:
        # Ray stops a job by SIGTERM, and by SIGKILL three seconds later.
        _print_result(run.finish("failed"), interrupt)
        return interrupt.exit_status
    except SunloomError as error:
        _print_result(run.finish("failed"), error)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the record and the last line must say that it failed
        traceback.print_exc()
        _print_result(run.finish("failed"), error)
        return 1
    _print_result(run.finish("succeeded", outcome.metrics, outcome.artifacts))
    return 0


def _print_result(result: RunResult, error: BaseException | None = None) -> None:
    if error is not None:
        print(f"error: {error}", file=sys.stderr, flush=True)
        result = replace(result, error=str(error))
    # Callers parse the last line of the log: nothing is printed after it.
    print(result.to_json(), flush=True)


def _parse(kind: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"jobs ({kind})")
    parser.add_argument("--config", type=Path, help="recipe file")
    parser.add_argument("--env", help="development, test, staging or production")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    return parser.parse_args(arguments)


def _choose_home() -> None:
    """A job's working directory is a copy that Ray deletes: results must not land in it."""
    # Ray's job supervisor sets it for the entry point of a submitted job.
    inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    named = {"SUNLOOM_HOME", "SUNLOOM__PATHS__STATE", "SUNLOOM__PATHS__OUTPUTS"} & set(os.environ)
    if inside_job and not named:
        home = Path.home() / "sunloom"
        os.environ["SUNLOOM_HOME"] = str(home)
        print(f"SUNLOOM_HOME is not set: results go to {home}", flush=True)
