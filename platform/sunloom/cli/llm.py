"""Commands ``sunloom llm``: prepare, plan, train, evaluate, merge, quantize and generate."""

from __future__ import annotations

from collections.abc import Mapping
from json import dumps as dump_json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from sunloom.cli import output
from sunloom.cli.gateway import GatewayConnection, Key, ServerSentEvent, Url
from sunloom.cli.options import (
    Env,
    Json,
    Recipe,
    Sets,
    cluster_on_demand,
    load_recipe,
    load_settings,
)
from sunloom.errors import UsageError

# Of an answer on the terminal.
_MAX_TOKENS = 96
JobId = Annotated[str, typer.Argument(metavar="JOB_ID")]

app = typer.Typer(help="Train, judge, merge, quantise and ask models.", no_args_is_help=True)


@app.command()
def prepare(recipe: Recipe, sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """What a training would learn from: counts, lengths, examples with the trained part green."""
    from sunloom.config.llm import LlmRecipe

    config = load_recipe(LlmRecipe, recipe, sets, env)
    # Tokenizers load here, which takes seconds: a wrong recipe is refused before.
    from sunloom.llm.preparation import prepare as prepare_conversations

    result = prepare_conversations(config)
    if json:
        output.print_json(result)
        return
    for number, passages in enumerate(result.examples, 1):
        text = Text(f"example {number}\n", style="bold")
        for passage in passages:
            colour = "red" if passage.is_unwanted else "green"
            text.append(passage.text, style=colour if passage.is_trained else "dim")
        output.console().print(text, soft_wrap=True)
    if result.files:
        output.print_table(
            ("file", "format", "rows", "train", "held out", "duplicates", "near-duplicates",
             "contaminated", "set aside"),
            [
                (f.path, f.format, f.rows, f.train, f.held_out, f.duplicates, f.near_duplicates,
                 f.contaminated, sum(f.quarantined.values()))
                for f in result.files
            ],
        )  # fmt: skip
    if result.set_aside:
        output.print_mapping(result.set_aside, title="rows set aside")
    figures = output.to_plain(result)
    hidden = ("files", "examples", "set_aside", "tokens_by_file")
    output.print_mapping({name: value for name, value in figures.items() if name not in hidden})


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
        result = train_adapter(config) if config.is_adapter else train_base(config)
    if not result.promoted:
        output.print_note(f"{result.version.ref} is not promoted: {'; '.join(result.failures)}")
    _show({"metrics": result.metrics, "artifacts": result.artifacts}, json)


@app.command()
def tune(recipe: Recipe, sets: Sets = None, env: Env = None, json: Json = False) -> None:
    """Search the recipe's section tune; judge and register the best trial's model."""
    from sunloom.config.llm import LlmRecipe
    from sunloom.llm.tuning import tune_model
    from sunloom.llm.tuning_report import trial_columns, trial_row

    config = load_recipe(LlmRecipe, recipe, sets, env)
    with cluster_on_demand():
        result = tune_model(config)
    if not result.model.promoted:
        reasons = "; ".join(result.model.failures)
        output.print_note(f"{result.model.version.ref} is not promoted: {reasons}")
    if config.tune is not None and not json:
        rows = [trial_row(trial, config.tune) for trial in result.trials]
        output.print_table(trial_columns(config.tune), rows)
    _show({"metrics": result.metrics, "artifacts": result.artifacts}, json)


@app.command()
def evaluate(
    recipe: Recipe,
    model: Annotated[
        str | None, typer.Option(help="name, name@3 or name@alias; the recipe's output by default")
    ] = None,
    compare: Annotated[
        list[str] | None, typer.Option(help="Another model, judged on the same rows; repeatable.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Where the report's page is written.")] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Judge a registered model by what the recipe says, alone or beside others."""
    from sunloom.config.llm import LlmRecipe

    config = load_recipe(LlmRecipe, recipe, sets, env)
    # The model libraries load here: a wrong recipe is refused before.
    from sunloom.llm.model_comparison import evaluate_registered

    evaluation = evaluate_registered(config, model, compare or (), html)
    if json:
        output.print_json(evaluation)
        return
    output.print_table(
        ("figure", "model", "value", "95 %", "difference", "95 %"),
        [
            (name, ref, found.get("value"), _interval(found), gap.get("value"), _interval(gap))
            for name, models in evaluation.figures.items()
            for ref, found in models.items()
            for gap in [found.get("difference", {})]
        ],
    )
    plain = output.to_plain(evaluation)
    output.print_mapping({name: value for name, value in plain.items() if name != "figures"})


def _interval(found: Mapping[str, Any]) -> str | None:
    if found.get("low") is None:
        return None
    return f"{found['low']:.3g} to {found['high']:.3g}"


@app.command()
def publish(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="evaluation.json of a run.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the evaluation.")],
    figure: Annotated[str, typer.Option(help="Whose answers.")] = "exact_match.answers",
    tenant: Annotated[str | None, typer.Option(help="Whose keys may vote.")] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Offer the answers of a report to people, who vote at /evaluations/page?name=NAME."""
    from sunloom.core.database import open_database
    from sunloom.evaluation.report import read_report
    from sunloom.evaluation.votes import Votes

    settings = load_settings(sets, env)
    pairs = Votes(open_database(settings), tenant).publish(name, read_report(report), figure)
    url = f"{settings.serving.url}/evaluations/page?name={name}"
    output.print_result({"evaluation": name, "pairs": pairs, "url": url}, json)


@app.command()
def votes(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the evaluation.")],
    export: Annotated[Path | None, typer.Option(help="JSON lines of all votes.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove pairs and votes.")] = False,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """What people's votes come to: strengths of the models, with intervals."""
    from sunloom.core.database import open_database
    from sunloom.core.files import write_atomic
    from sunloom.evaluation.votes import Votes

    evaluations = Votes(open_database(load_settings(sets, env)), is_admin=True)
    results = evaluations.results(name)
    if export is not None:
        lines = (
            f"{dump_json(output.to_plain(vote), ensure_ascii=False)}\n"
            for vote in evaluations.export(name)
        )
        write_atomic(export, "".join(lines))
    if delete:
        evaluations.remove(name)
    if json:
        output.print_json(results)
        return
    plain = output.to_plain(results)
    rows = [tuple(row.values()) for row in plain.pop("strengths")]
    output.print_table(("model", "strength", "low", "high", "wins", "ties", "losses"), rows)
    output.print_mapping(plain)


@app.command()
def merge(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="name, name@3 or name@alias")],
    name: Annotated[str | None, typer.Option(help="Of the merged model.")] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Merge a registered adapter into its base, and register the model."""
    settings = load_settings(sets, env)
    # Torch loads here, which takes seconds.
    from sunloom.llm.merging import merge_adapter

    version = merge_adapter(settings, adapter, name)
    result = {"model": version.ref, "metrics": version.metrics, "lineage": version.lineage}
    output.print_result(result, json, line=version.ref)


@app.command()
def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="name, name@3 or name@alias")],
    recipe: Annotated[Path, typer.Option(help="Whose held-out conversations judge it.")],
    to: Annotated[str | None, typer.Option(help="int8 or int4 (quantization.to).")] = None,
    group_size: Annotated[int | None, typer.Option(help="Weights that share a scale.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the quantised model.")] = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Write a model in 8 or 4 bits, judge it beside the original, register it."""
    from sunloom.config.llm import LlmRecipe

    options = {"model": model, "to": to, "group_size": group_size, "name": name}
    own = [f"quantization.{key}={value}" for key, value in options.items() if value is not None]
    config = load_recipe(LlmRecipe, recipe, [*(sets or ()), *own], env)
    # Torch loads here, which takes seconds: a wrong recipe is refused before.
    from sunloom.llm.quantization import quantize as quantize_model

    result = quantize_model(config)
    if json:
        output.print_json({"metrics": result.metrics, "artifacts": result.artifacts})
        return
    metrics = result.version.metrics
    names = ("bytes", "perplexity", "exact_match", "answers")
    output.print_table(
        ("", "original", result.version.ref),
        [(key, metrics.get(f"base_{key}"), metrics.get(f"adapter_{key}")) for key in names]
        + [
            (key, figure["start"], figure["trained"])
            for key, figure in metrics["figures"].items()
            if key.startswith("tasks.")
        ],
    )
    if not result.promoted:
        output.print_note(f"{result.version.ref} is not promoted: {'; '.join(result.failures)}")


@app.command()
def generate(
    prompt: Annotated[str | None, typer.Argument(metavar="[PROMPT]", help="For --model.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Model or adapter of the gateway; with --input, any.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Recipe of a batch (generation).")] = None,
    input: Annotated[Path | None, typer.Option(help="Parquet file or folder of prompts.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--output", help="Folder of the batch's answers.")
    ] = None,
    url: Url = None,
    key: Key = None,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Ask a served model; or answer a whole Parquet file with engines of one's own."""
    if prompt is None:
        own = {
            "model": model,
            "input": input,
            "output": folder,
            "sampling.max_tokens": max_tokens,
        }
        named = [f"generation.{name}={value}" for name, value in own.items() if value is not None]
        _generate_batch(recipe, [*(sets or ()), *named], env, json)
        return
    if model is None:
        raise UsageError("Which model is asked?", "--model NAME; GET /v1/models lists them.")
    gateway = GatewayConnection(load_settings(sets, env), url, key)
    body = {"prompt": prompt, "model_name": model, "max_tokens": max_tokens or _MAX_TOKENS}
    answer = gateway.call("POST", "/llm/generate", body)
    # A model that calls a tool may answer without text.
    text = answer["text"] or output.format_cell(answer["tool_calls"])
    output.print_result(answer, json, line=text)


def _generate_batch(recipe: Path | None, sets: list[str], env: str | None, json: bool) -> None:
    from sunloom.config.generation import GenerationRecipe
    from sunloom.llm.generation import generate_batch

    config = load_recipe(GenerationRecipe, recipe, sets, env)
    with cluster_on_demand():
        result = generate_batch(config)
    _show(output.to_plain(result), json)


@app.command()
def watch(
    job_id: JobId,
    after: Annotated[int, typer.Option(help="Only steps after this one.")] = 0,
    url: Url = None,
    key: Key = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Follow a training of the gateway to its end, step by step; exit 1 if it failed."""
    gateway = GatewayConnection(load_settings(env=env), url, key)
    events: list[ServerSentEvent] = []
    for event in gateway.stream_events(f"/llm/training/{job_id}/events", after):
        events.append(event)
        if not json:
            _print_progress(event)
    if json:
        output.print_json(events)
    # An event of the type error ends the stream of a key that was revoked.
    if not events or events[-1].event != "end" or events[-1].data["status"] != "succeeded":
        raise typer.Exit(1)


@app.command()
def stop(
    job_id: JobId, url: Url = None, key: Key = None, env: Env = None, json: Json = False
) -> None:
    """Stop a training of the gateway; its checkpoints are kept."""
    gateway = GatewayConnection(load_settings(env=env), url, key)
    stopped = gateway.call("POST", f"/llm/training/{job_id}/stop")
    output.print_result(stopped, json, line=f"{job_id} {stopped['status']}")


@app.command()
def resume(
    job_id: JobId, url: Url = None, key: Key = None, env: Env = None, json: Json = False
) -> None:
    """Go on with a stopped or failed training of the gateway; prints the new job's id."""
    gateway = GatewayConnection(load_settings(env=env), url, key)
    accepted = gateway.call("POST", f"/llm/training/{job_id}/resume")
    output.print_result(accepted, json, line=accepted["job_id"])


def _print_progress(event: ServerSentEvent) -> None:
    data = event.data
    if event.event != "step":
        text = data.get("message") or data.get("error") or data.get("status")
        output.print_note(f"{event.event}: {text}")
        return
    figures = {
        "loss": data.get("loss"),
        "held out": data.get("eval_loss"),
        "lr": data.get("learning_rate"),
        "norm": data.get("gradient_norm"),
        "tokens/s": data.get("tokens_per_second"),
        "MFU": data.get("mfu"),
        "s left": data.get("eta_s"),
    }
    listed = "  ".join(
        f"{name} {value:.4g}" for name, value in figures.items() if value is not None
    )
    output.print_line(f"step {data['step']}/{data.get('steps', '?')}  {listed}")


def _show(result: dict[str, Any], json: bool) -> None:
    if json:
        output.print_json(result)
        return
    for name, value in result.items():
        if isinstance(value, dict):
            output.print_mapping(value, title=name)
    if plain := {k: v for k, v in result.items() if not isinstance(v, dict)}:
        output.print_mapping(plain)
