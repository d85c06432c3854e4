"""``sunloom keys``: API keys of the gateway."""

from __future__ import annotations

from typing import Annotated

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Sets, load_settings

app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)


@app.command()
def create(
    scopes: Annotated[
        str, typer.Option(help="llm, features, ingest, agents, train, models, admin.")
    ],
    tenant: Annotated[str, typer.Option(help="Tenant that the key belongs to.")] = "default",
    expires: Annotated[str | None, typer.Option(help="Life, such as 30d or 12h.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    token_quota: Annotated[int | None, typer.Option(min=1, help="Model tokens in all.")] = None,
    purpose: Annotated[str, typer.Option(help="Free text to recognise it by.")] = "",
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Create a key and print its secret, once."""
    from sunloom.serving.auth.api_keys import Allowance, create_key

    settings = load_settings(sets, env)
    secret, record = create_key(
        settings,
        [scope.strip() for scope in scopes.split(",") if scope.strip()],
        tenant,
        expires,
        allowance=Allowance.from_settings(settings, requests_per_minute, token_quota),
        purpose=purpose,
    )
    if json:
        output.print_json(record.to_dict() | {"key": secret, "id": record.id})
        return
    output.print_line(secret)
    output.print_note(f"{record.id}: {', '.join(record.scopes)}. The key is not shown again.")


@app.command("list")
def list_all(
    delegated: Annotated[bool, typer.Option(help="Also keys delegated to agents.")] = False,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """List keys without their secrets."""
    from sunloom.serving.auth.api_keys import list_keys

    records = [key.to_dict() for key in list_keys(load_settings(sets, env), delegated=delegated)]
    if json:
        output.print_json(records)
        return
    columns = ("id", "shown", "tenant", "scopes", "expires_at", "revoked_at", "purpose")
    rows = [record | {"scopes": ", ".join(map(str, record["scopes"]))} for record in records]
    output.print_table(columns, [[row[column] for column in columns] for row in rows])


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID")],
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Revoke a key and everything delegated from it."""
    from sunloom.serving.auth.api_keys import revoke_key

    record = revoke_key(load_settings(sets, env), key_id)
    output.print_result(record.to_dict(), json, line=f"{record.id} is revoked")
