"""A search on Ray Tune with Ray Train inside: the planted best value wins, the others end early."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from safetensors.numpy import load_file
from tiny_llama import build_base

from sunloom.config import Settings, load_config
from sunloom.config.llm import EvaluationConfig, LlmRecipe, TrainingConfig
from sunloom.config.llm_tune import TuneConfig
from sunloom.core.progress import read_progress
from sunloom.llm.loop import Evaluations, TrainingOutcome, TrainingTask
from sunloom.llm.trainer import train_adapter
from sunloom.llm.trials import TrialTask, draw_parameters, read_trial
from sunloom.llm.tuning import search_trials, tune_model
from sunloom.llm.tuning_report import write_report

pytestmark = pytest.mark.integration

KEY = "training.learning_rate"
STEPS, EVERY = 8, 2


def _recipe(settings: Settings, folder: Path, *sets: str) -> LlmRecipe:
    paths = [f"paths.{key}={value}" for key, value in settings.paths.model_dump().items()]
    tree = {
        "model": {"base_model": str(folder / "base"), "torch_dtype": "float32"},
        "data": {"train": [{"path": str(folder / "own.jsonl")}], "held_out_share": 0.3},
        "training": {
            "max_steps": STEPS, "batch_size": 2, "workers": 1, "distributed": {"type": "ddp"},
        },
        "lora": {"r": 4, "alpha": 8},
        "evaluation": {
            "held_out": 2, "eval_steps": EVERY, "eval_sample": 4, "max_new_tokens": 8,
            "min_exact_match": None,
        },
        "output": {"name": "searched"},
    }  # fmt: skip
    chosen = [f"{key}={json.dumps(value)}" for key, value in tree.items()]
    return load_config(LlmRecipe, sets=[*chosen, *paths, *sets], environ={}).config


def test_the_winners_model_is_that_of_a_training_alone(
    ray_local: str, settings: Settings, tmp_path: Path
) -> None:
    build_base(tmp_path / "base")
    rows = [
        {"prompt": f"hello customer {n}", "completion": f"voucher {n % 3} world"} for n in range(40)
    ]
    (tmp_path / "own.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    search = {
        # The seed draws the good one first.
        "space": {KEY: {"type": "choice", "values": ["1e-6", 1e-2]}},
        "trials": 2,
        "asha": {"grace": EVERY, "reduction": 2},
    }
    recipe = _recipe(settings, tmp_path, f"tune={json.dumps(search)}", "seed=2")
    found = tune_model(recipe)
    good, bad = found.trials
    assert (good.parameters[KEY], good.state, good.steps) == (1e-2, "finished", STEPS)
    assert (bad.parameters[KEY], bad.state, bad.steps) == (1e-6, "stopped", EVERY)
    assert [step for step, _ in good.losses] == [2, 4, 6, 8]
    assert (found.best, found.model.promoted, found.metrics["trials"]["stopped"]) == (good, True, 1)
    # Tokens of both were written once.
    assert len(list(found.table.parent.glob("data-*"))) == 1
    assert json.loads(found.table.read_text())["best"] == 0
    assert "data:image/png" in found.report.read_text()
    # Again: nothing is trained, and the version is that of before.
    again = tune_model(recipe)
    assert (again.trials, again.model.reused) == (found.trials, True)
    assert again.model.version.ref == found.model.version.ref
    values = (f"{KEY}=1e-2", "seed=2")
    alone = train_adapter(_recipe(settings, tmp_path, *values, "output.name=alone"))
    runs = [
        settings.paths.outputs / "runs" / result.version.lineage["run"]
        for result in (found.model, alone)
    ]
    steps = [[(row.loss, row.eval_loss) for row in read_progress(run)] for run in runs]
    assert len(steps[0]) == STEPS
    assert steps[0] == steps[1]
    weights = [load_file(run / "export" / "adapter_model.safetensors") for run in runs]
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][key] == weights[1][key]).all() for key in weights[0])
    # What the plain recipe would train is there already.
    same = train_adapter(_recipe(settings, tmp_path, *values))
    assert (same.reused, same.version.ref) == (True, found.model.version.ref)


def test_bad_trials_end_early_and_finished_ones_are_kept(ray_local: str, tmp_path: Path) -> None:
    """Workers that learn nothing, and whose loss is the parameter: what Tune makes of trials."""

    # Inside this function, so that it travels by value.
    def train(task: TrainingTask, title: str) -> TrainingOutcome:
        import time

        from sunloom.errors import DivergedError
        from sunloom.llm.loop import _EvaluationHistory, read_word
        from sunloom.llm.probe import DtypeProbe

        with (task.directory / "starts").open("a") as starts:
            starts.write(f"{title}\n")
        rate = task.training.learning_rate
        history, done = _EvaluationHistory(task.directory, 0), 0
        for step in range(EVERY, STEPS + 1, EVERY):
            if rate > 0.5:
                raise DivergedError("The loss was nan.")
            history.add(step, rate + 1 / step, is_writer=True)
            done = step
            while step < STEPS and read_word(task.directory).step < step:
                time.sleep(0.02)
            if step < STEPS and not read_word(task.directory).goes_on:
                break
        losses, loss = [1.0] * done, history.loss_of(None)
        probe = DtypeProbe("float32", 1.0, 1.0, "cpu")
        return TrainingOutcome(losses, 1, 0, 1.0, "float32", probe, eval_loss=loss)

    space = {KEY: {"type": "choice", "values": [0.1, 0.2, 0.01, 0.3, 0.9]}}
    given = {"space": space, "trials": 3, "asha": {"grace": EVERY, "reduction": 2}}

    def run(tune: TuneConfig) -> list[Any]:
        trials = []
        for number, values in enumerate(draw_parameters(tune, 0)):
            folder = tmp_path / f"trial-{number}"
            folder.mkdir(exist_ok=True)
            evaluations = Evaluations(
                every=EVERY, rows=folder, stopping=None, conversations=(),
                gate=EvaluationConfig(), is_paced=True,
            )  # fmt: skip
            task = TrainingTask(
                model="", base="", data=folder, directory=folder, pad=0, seed=0, lora=None,
                training=TrainingConfig(max_steps=STEPS, learning_rate=values[KEY]),
                evaluations=evaluations,
            )  # fmt: skip
            trials.append(TrialTask(number, values, task, None, str, train))
        search_trials(tune, trials, tmp_path)
        return [read_trial(trial.task.directory) for trial in trials]

    first = run(TuneConfig.model_validate(given))
    more = TuneConfig.model_validate(given | {"trials": 9})
    results = run(more)
    # Of five values each is drawn once, and more trials begin with those that were made.
    assert results[:3] == first
    assert sorted(result.parameters[KEY] for result in results) == [0.01, 0.1, 0.2, 0.3, 0.9]
    starts = [(tmp_path / f"trial-{n}" / "starts").read_text().count("\n") for n in range(5)]
    assert starts == [1] * 5
    # By hand: one after another, a trial ends at 2 or 4 steps where it is behind the median of
    # those before it.
    rungs: dict[int, list[float]] = {2: [], 4: []}
    for result in results:
        rate, expected = result.parameters[KEY], STEPS
        if rate > 0.5:
            assert (result.state, result.steps) == ("diverged", 0)
            assert result.error == "The loss was nan."
            continue
        for step, seen in rungs.items():
            if seen and rate > median(seen):
                expected = step
            seen.append(rate)
            if expected != STEPS:
                break
        assert result.steps == expected, rungs
        assert result.state == ("finished" if expected == STEPS else "stopped")
    [best] = [result for result in results if result.parameters[KEY] == 0.01]
    assert best.score == pytest.approx(0.01 + 1 / STEPS)
    assert sum(result.steps for result in results) < 4 * STEPS
    _, page = write_report(results, best, more, tmp_path)
    assert page.read_text().count("<tr") == 6
