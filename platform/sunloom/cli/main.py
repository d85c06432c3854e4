"""``sunloom``: the application, its groups and its exit codes.

Exit status: 0 done, 1 the work failed, 2 wrong usage or configuration, 130 or 143 ended by Ctrl-C
or SIGTERM. Nothing heavy is imported before a command runs; ``--debug`` anywhere shows the
traceback of an error.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from sunloom import __version__
from sunloom.cli import output
from sunloom.cli.agents import app as agents
from sunloom.cli.config import app as config
from sunloom.cli.data import app as data
from sunloom.cli.demo import demo
from sunloom.cli.doctor import doctor
from sunloom.cli.features.app import app as features
from sunloom.cli.job import app as job
from sunloom.cli.keys import app as keys
from sunloom.cli.llm import app as llm
from sunloom.cli.models import app as models
from sunloom.cli.serve import app as serve
from sunloom.cli.tabular import app as tabular
from sunloom.core.files import PRIVATE_UMASK
from sunloom.core.interrupts import Interrupted, interrupt_on_signals
from sunloom.errors import SunloomError

app = typer.Typer(
    name="sunloom",
    help="Features, fine-tuning, agents and serving on Ray, behind one gateway.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command()(doctor)
app.command()(demo)
app.add_typer(config, name="config")
app.add_typer(data, name="data")
app.add_typer(features, name="features")
app.add_typer(tabular, name="tabular")
app.add_typer(llm, name="llm")
app.add_typer(models, name="models")
app.add_typer(job, name="job")
app.add_typer(serve, name="serve")
app.add_typer(agents, name="agents")
app.add_typer(keys, name="keys")


_WRONG_PATH = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


def _show_version(wanted: bool) -> None:
    if wanted:
        output.print_line(f"sunloom {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Features, fine-tuning, agents and serving on Ray, behind one gateway."""


def run(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``sunloom`` script: errors become a message, a hint and a status."""
    # Databases, features and runs of every command, and of every process that it starts.
    os.umask(PRIVATE_UMASK)
    words = list(sys.argv[1:] if arguments is None else arguments)
    # What follows `--` is an argument, such as a prompt, whatever it looks like.
    own = words[: words.index("--")] if "--" in words else words
    debug = "--debug" in own
    if debug:
        # Typer accepts an option of the application only before the command's name.
        words.remove("--debug")
    if "--json" in own:
        # Before the command imports anything that might print.
        output.claim_stdout()
    try:
        with interrupt_on_signals():
            app(words, prog_name="sunloom")
    except Interrupted as interrupt:
        output.print_note(str(interrupt))
        sys.exit(interrupt.exit_status)
    except Exception as error:
        if debug:
            raise
        sys.exit(report(error))


def report(error: BaseException) -> int:
    """Print an error that ends a command; returns the exit status.

    Args:
        error: What was raised. An error that came back from a Ray task is unwrapped.
    """
    # The cause first: the message of Ray's own error is the worker's traceback.
    for candidate in (getattr(error, "cause", None), error):
        if isinstance(candidate, SunloomError):
            output.print_error(candidate.message, candidate.hint)
            return candidate.exit_code
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        output.print_error(
            f"The disk is full: {error}", "Free some space; what was whole still is."
        )
        return 1
    if isinstance(error, _WRONG_PATH) and error.filename is not None:
        output.print_error(f"{error.filename}: {error.strerror}", "Check the path.")
        return 2
    text = str(error).strip() or "no message"
    output.print_error(f"{type(error).__name__}: {text}", "Run it again with --debug for details.")
    return 1
