"""Command ``sunloom demo``: from raw purchases to an agent that answers over HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Sets, load_settings
from sunloom.errors import UsageError


def demo(
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice.")] = None,
    model: Annotated[
        Literal["small", "smollm2"],
        typer.Option(help="Base model of the agent: 2.3 million parameters, or 135 million."),
    ] = "small",
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Train the small base model here.")
    ] = False,
    keep: Annotated[bool, typer.Option(help="Leave the gateway up until Ctrl-C.")] = False,
    port: Annotated[int | None, typer.Option(help="Port of the gateway; 0 picks one.")] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Run every room once on real parts and write outputs/demo/summary.json."""
    from sunloom.config.settings import Settings
    from sunloom.workflows.demo.flow import run_demo
    from sunloom.workflows.demo.recipes import MODELS, relevant_assignments

    if from_scratch and model != "small":
        raise UsageError("Only the small model is built from scratch.", param="from-scratch")
    # First: an assignment of the user's for the same key comes later and wins.
    chosen = [f"serving.llm.model={MODELS[model].base}", *(sets or ())]
    chosen += [f"seed={seed}"] if seed is not None else []
    chosen += [f"serving.port={port}"] if port is not None else []
    # Some assignments are for the demo's recipes; the settings alone would refuse their keys.
    summary = run_demo(
        load_settings(relevant_assignments(Settings, chosen), env),
        model=model,
        from_scratch=from_scratch,
        keep=keep,
        sets=tuple(chosen),
    )
    if json:
        output.print_json(summary)
