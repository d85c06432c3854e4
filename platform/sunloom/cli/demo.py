"""Command ``sunloom demo``: from raw purchases to an agent that answers over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Sets, load_settings


def demo(
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice.")] = None,
    keep: Annotated[bool, typer.Option(help="Leave the gateway up until Ctrl-C.")] = False,
    port: Annotated[int | None, typer.Option(help="Port of the gateway; 0 picks one.")] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Run every room once on real parts and write outputs/demo/summary.json."""
    from sunloom.config.settings import Settings
    from sunloom.workflows.demo.flow import run_demo
    from sunloom.workflows.demo.recipes import relevant_assignments

    chosen = list(sets or ())
    chosen += [f"seed={seed}"] if seed is not None else []
    chosen += [f"serving.port={port}"] if port is not None else []
    # Some assignments are for the demo's recipes; the settings alone would refuse their keys.
    summary = run_demo(
        load_settings(relevant_assignments(Settings, chosen), env), keep=keep, sets=tuple(chosen)
    )
    if json:
        output.print_json(summary)
