"""``sunloom serve``: the gateway and the apps behind it."""

from __future__ import annotations

from typing import Annotated

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Sets, load_settings
from sunloom.config.settings import Settings

app = typer.Typer(help="Run the gateway and the apps behind it.", no_args_is_help=True)

Port = Annotated[int | None, typer.Option(help="Port of the gateway; 0 picks a free one.")]


def _settings(port: int | None, sets: list[str] | None, env: str | None) -> Settings:
    extra = [f"serving.port={port}"] if port is not None else []
    return load_settings([*(sets or ()), *extra], env)


@app.command()
def run(port: Port = None, sets: Sets = None, env: Env = None) -> None:
    """Serve in the foreground until Ctrl-C; everything started ends with it."""
    raise NotImplementedError
