"""``sunloom agents``: agents of a running gateway."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sunloom.cli import output
from sunloom.cli.gateway import GatewayConnection, Key, ServerSentEvent, Url
from sunloom.cli.options import Env, Json, Recipe, Sets, load_recipe, load_settings
from sunloom.errors import NotFoundError, ServingError

if TYPE_CHECKING:
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
    from sunloom.config.agents import AgentsRecipe

    config = load_recipe(AgentsRecipe, recipe, sets, env)
    gateway = GatewayConnection(config, url, key)
    created = _create_agent(gateway, config, agent, engine)
    output.print_result(created, json, line=created["agent_id"])
    if not json:
        # To standard error: a script that captures the output gets the id alone.
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
        _follow_to_end(gateway, agent_id, accepted["task_id"], json)
    else:
        output.print_result(accepted, json, line=accepted["task_id"])


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
    output.print_result(gateway.call("GET", path), json)


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
    stream = gateway.stream_events(f"/agents/{agent_id}/tasks/{task_id}/events", after)
    if json:
        # One document, so the events are printed together once the task has ended.
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
    """Create an agent, give it one task, follow it and print the answer; exit 1 if it failed.

    The agent is deleted in the end; its task stays readable.
    """
    from sunloom.config.agents import AgentsRecipe

    config = load_recipe(AgentsRecipe, recipe, sets, env)
    gateway = GatewayConnection(config, url, key)
    agent_id = _create_agent(gateway, config, agent, engine)["agent_id"]
    try:
        accepted = gateway.call("POST", f"/agents/{agent_id}/task", {"task": text})
        _follow_to_end(gateway, agent_id, accepted["task_id"], json)
    finally:
        # A tenant has a bounded number of agents. Whatever ended the command is what it says.
        with suppress(ServingError, NotFoundError):
            gateway.call("DELETE", f"/agents/{agent_id}")


@app.command("list")
def list_agents(url: Url = None, key: Key = None, env: Env = None, json: Json = False) -> None:
    """List the agents of the key's tenant."""
    gateway = GatewayConnection(load_settings(env=env), url, key)
    listed = gateway.call("GET", "/agents")
    if json:
        output.print_json(listed)
        return
    columns = ("agent_id", "name", "engine", "model", "created_at")
    output.print_table(columns, [[row[name] for name in columns] for row in listed["agents"]])


@app.command()
def delete(
    agent_id: AgentId, url: Url = None, key: Key = None, env: Env = None, json: Json = False
) -> None:
    """Delete an agent; its unfinished tasks are cancelled."""
    gateway = GatewayConnection(load_settings(env=env), url, key)
    deleted = gateway.call("DELETE", f"/agents/{agent_id}")
    cancelled = len(deleted["cancelled_tasks"])
    output.print_result(deleted, json, line=f"{agent_id} is deleted, {cancelled} tasks cancelled")


@app.command()
def approve(
    agent_id: AgentId,
    task_id: TaskId,
    deny: Annotated[bool, typer.Option("--deny", help="Deny the call.")] = False,
    call: Annotated[int | None, typer.Option(help="Number of the call from the event.")] = None,
    note: Annotated[str, typer.Option(help="Reason, which the model reads on a denial.")] = "",
    url: Url = None,
    key: Key = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Approve or deny the tool call that a task waits with."""
    gateway = GatewayConnection(load_settings(env=env), url, key)
    body = {"approved": not deny, "call": call, "note": note}
    task = gateway.call("POST", f"/agents/{agent_id}/tasks/{task_id}/approve", body)
    output.print_result(task, json, line="denied" if deny else "approved")


@app.command()
def export(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the table.")],
    tenant: Annotated[str, typer.Option(help="Whose finished tasks.")] = "default",
    agent: Annotated[str | None, typer.Option(help="Only this agent's.")] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Register finished tasks as a table of conversations that a model learns from."""
    from sunloom.agents.finished_tasks import register_conversations
    from sunloom.agents.store import AgentStore
    from sunloom.core.database import open_database
    from sunloom.core.model_registry import open_registry

    settings = load_settings(sets, env)
    store = AgentStore(open_database(settings))
    version = register_conversations(store, open_registry(settings), name, tenant, agent)
    result = {"table": version.ref, "uri": version.uri, **version.lineage}
    output.print_result(result, json, line=version.ref)


def _create_agent(
    gateway: GatewayConnection, recipe: AgentsRecipe, agent: str | None, engine: str | None
) -> Any:
    body = recipe.spec(agent).model_dump(mode="json")
    if engine:
        body["engine"] = engine
    return gateway.call("POST", "/agents/create", body)


def _follow_to_end(gateway: GatewayConnection, agent_id: str, task_id: str, json: bool) -> None:
    """Follow a task to its end and print its outcome; exit status 1 if it failed."""
    path = f"/agents/{agent_id}/tasks/{task_id}"
    for event in gateway.stream_events(f"{path}/events"):
        # --json prints one document: the task, without its events.
        if not json:
            _print_event(event)
    task = gateway.call("GET", path)
    answer = task["answer"] or output.format_cell(task["error"] or task["status"])
    output.print_result(task, json, line=answer)
    if task["status"] != "succeeded":
        raise typer.Exit(1)


def _print_event(event: ServerSentEvent) -> None:
    name = event.event or "message"
    output.print_note(f"{event.id or '':>4} {name:<16} {output.format_cell(event.data)}")
