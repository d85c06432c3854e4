"""``sunloom tabular``."""

import typer

app = typer.Typer(
    help="Definitions, point-in-time rows and the online store.", no_args_is_help=True
)


@app.callback()
def g() -> None: ...
