"""Commands ``sunloom llm``: plan, train, evaluate and query language models."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sunloom.cli import output
from sunloom.cli.gateway import GatewayConnection, Key, Url
from sunloom.cli.options import (
    Env,
    Json,
    Recipe,
    Sets,
    cluster_on_demand,
    load_recipe,
    load_settings,
)

app = typer.Typer(help="Plan, train, judge and ask language models.", no_args_is_help=True)


@app.command()
def plan(recipe: Recipe, sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """Memory per worker, steps, tokens and time of a training, without training."""
    from sunloom.config.llm import LlmRecipe

    config = load_recipe(LlmRecipe, recipe, sets, env)
    # Torch loads here, which takes seconds: a wrong recipe is refused before.
    from sunloom.llm.planning import plan_training

    result = plan_training(config)
    _show(output.to_plain(result), json)


@app.command()
def train(recipe: Recipe, sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """Train what the recipe says, judge it, register it."""
    from sunloom.config.llm import LlmRecipe
    from sunloom.llm.trainer import train_adapter, train_base

    config = load_recipe(LlmRecipe, recipe, sets, env)
    with cluster_on_demand():
        result = train_base(config) if config.lora is None else train_adapter(config)
    if not result.promoted:
        output.print_note(f"{result.version.ref} is not promoted: below the recipe's bar")
    _show({"metrics": result.metrics, "artifacts": result.artifacts}, json)


@app.command()
def evaluate(recipe: Recipe, sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """Judge the recipe's registered model on its held-out questions."""
    from sunloom.config.llm import LlmRecipe
    from sunloom.llm.evaluation import evaluate_registered

    _show(output.to_plain(evaluate_registered(load_recipe(LlmRecipe, recipe, sets, env))), json)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT")],
    model: Annotated[str, typer.Option(help="Model or adapter of the gateway.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 96,
    url: Url = None,
    key: Key = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Ask a served model."""
    gateway = GatewayConnection(load_settings(env=env), url, key)
    body = {"prompt": prompt, "model_name": model, "max_tokens": max_tokens}
    answer = gateway.call("POST", "/llm/generate", body)
    # A model that calls a tool may answer without text.
    text = answer["text"] or output.format_cell(answer["tool_calls"])
    output.print_result(answer, json, line=text)


def _show(result: dict[str, Any], json: bool) -> None:
    if json:
        output.print_json(result)
        return
    for name, value in result.items():
        if isinstance(value, dict):
            output.print_mapping(value, title=name)
    output.print_mapping({k: v for k, v in result.items() if not isinstance(v, dict)})
