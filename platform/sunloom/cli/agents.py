"""``sunloom agents``: agents behind a running gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sunloom.cli import output
from sunloom.cli.gateway import GatewayConnection, Key, Url
from sunloom.cli.options import Env, Json, Recipe, Sets, load_recipe, load_settings
from sunloom.config.agents import AgentsRecipe

app = typer.Typer(help="Create agents, give them tasks, follow them.", no_args_is_help=True)

AgentId = Annotated[str, typer.Argument(metavar="AGENT_ID")]
TaskId = Annotated[str, typer.Argument(metavar="TASK_ID")]
Name = Annotated[str | None, typer.Option("--agent", help="Agent of the recipe; the first one.")]
Engine = Annotated[str | None, typer.Option(help="crewai or semantic_kernel; the recipe's.")]
Text = Annotated[str, typer.Argument(metavar="TEXT", help="The task in words.")]


@app.command()
def create(
    recipe: Recipe,
    agent: Name = None,
    engine: Engine = None,
    url: Url = None,
    key: Key = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Create an agent from a recipe; prints its id."""
    gateway, created = _create(recipe, agent, engine, url, key, sets, env)
    if json:
        output.print_json(created)
    else:
        output.print_line(created["agent_id"])
        output.print_note(f"created at {gateway.url}")


@app.command()
def task(
    agent_id: AgentId,
    text: Text,
    wait: Annotated[bool, typer.Option(help="Follow the task to its end.")] = False,
    url: Url = None,
    key: Key = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Give an agent a task; prints the task's id."""
    gateway = GatewayConnection(load_settings(env=env), url, key)
    accepted = gateway.call("POST", f"/agents/{agent_id}/task", {"task": text})
    if wait:
        _finish(gateway, agent_id, accepted["task_id"], json)
    elif json:
        output.print_json(accepted)
    else:
        output.print_line(accepted["task_id"])


@app.command()
def status(
    agent_id: AgentId,
    task_id: Annotated[str | None, typer.Argument(metavar="[TASK_ID]")] = None,
    url: Url = None,
    key: Key = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Show an agent, or one of its tasks."""
    gateway = GatewayConnection(load_settings(env=env), url, key)
    path = f"/agents/{agent_id}/tasks/{task_id}" if task_id else f"/agents/{agent_id}/status"
    found = gateway.call("GET", path)
    if json:
        output.print_json(found)
    else:
        output.print_mapping(found)


@app.command()
def events(
    agent_id: AgentId,
    task_id: TaskId,
    after: Annotated[int, typer.Option(help="Only events after this id.")] = 0,
    url: Url = None,
    key: Key = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Follow a task's events to its end."""
    gateway = GatewayConnection(load_settings(env=env), url, key)
    stream = gateway.events(f"/agents/{agent_id}/tasks/{task_id}/events", after)
    if json:
        output.print_json(list(stream))
        return
    for event in stream:
        _print_event(event)


@app.command()
def run(
    recipe: Recipe,
    text: Text,
    agent: Name = None,
    engine: Engine = None,
    url: Url = None,
    key: Key = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Create an agent, give it one task, follow it and print the answer; exit 1 if it failed."""
    gateway, created = _create(recipe, agent, engine, url, key, sets, env)
    agent_id = created["agent_id"]
    accepted = gateway.call("POST", f"/agents/{agent_id}/task", {"task": text})
    _finish(gateway, agent_id, accepted["task_id"], json)


def _create(
    recipe: Path,
    agent: str | None,
    engine: str | None,
    url: str | None,
    key: str | None,
    sets: list[str] | None,
    env: str | None,
) -> tuple[GatewayConnection, dict[str, Any]]:
    config = load_recipe(AgentsRecipe, recipe, sets, env)
    body = config.spec(agent).model_dump(mode="json")
    if engine:
        body["engine"] = engine
    gateway = GatewayConnection(config, url, key)
    return gateway, gateway.call("POST", "/agents/create", body)


def _finish(gateway: GatewayConnection, agent_id: str, task_id: str, json: bool) -> None:
    """Follow a task to its end, print its outcome, and exit by it."""
    path = f"/agents/{agent_id}/tasks/{task_id}"
    for event in gateway.events(f"{path}/events"):
        if not json:
            _print_event(event)
    found = gateway.call("GET", path)
    if json:
        output.print_json(found)
    else:
        output.print_line(found["answer"] or output.shown(found["error"] or found["status"]))
    if found["status"] != "succeeded":
        raise typer.Exit(1)


def _print_event(event: dict[str, Any]) -> None:
    number, name = event.get("id", ""), event.get("event", "message")
    output.print_note(f"{number:>4} {name:<16} {output.shown(event['data'])}")
