"""Trainings that are killed: the same command goes on, and ends where the unbroken run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import patience
from safetensors.numpy import load_file

from sunloom.config import load_config
from sunloom.config.llm import LlmRecipe
from sunloom.core.progress import read_progress
from sunloom.llm.checkpoints import seal
from sunloom.llm.conversations import GenericConversations
from sunloom.llm.resuming import RunIdentity, claim_run, continue_unfinished
from sunloom.llm.trainer import train_adapter

pytestmark = pytest.mark.integration

STEPS = 30
_COMMAND = "import sys; from sunloom.cli.main import run; run(sys.argv[1:])"
RECIPE = {
    "data": {"train": [{"path": "own.jsonl"}], "max_length": 256, "held_out_share": 0.3},
    "training": {
        "max_steps": STEPS,
        "batch_size": 2,
        "workers": 1,
        "checkpoint_every": 4,
        "distributed": {"type": "ddp"},
        "neftune_alpha": 5,
        "early_stopping": {"metric": "loss", "patience": 30},
    },
    "lora": {"r": 4, "alpha": 8, "dropout": 0.2},
    "model": {"base_model": "tool-base", "torch_dtype": "float32"},
    "evaluation": {
        "held_out": 2, "eval_steps": 3, "eval_sample": 6, "max_new_tokens": 8,
        "min_exact_match": None,
    },
    "output": {"name": "own"},
}  # fmt: skip


def _paths(folder: Path) -> list[str]:
    return [f"paths.{name}={folder / name}" for name in ("state", "outputs")]


def _start_training(folder: Path) -> subprocess.Popen[str]:
    """``sunloom llm train`` as a user starts it, with a Ray of its own."""
    paths = [f"--set={assignment}" for assignment in _paths(folder)]
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, "llm", "train", "recipe.yaml", "--json", *paths],
        cwd=folder,
        env={**os.environ, "SUNLOOM__CLUSTER__DASHBOARD": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _prepare(folder: Path) -> Path:
    folder.mkdir()
    rows = [{"messages": c.messages, "tools": c.tools} for c in GenericConversations().train(60, 0)]
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "recipe.yaml").write_text(json.dumps(RECIPE))
    return folder


def _run_folders(folder: Path) -> list[Path]:
    return sorted((folder / "outputs" / "runs").glob("llm-adapter-*"))


def _finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=patience(240))
    assert process.returncode == 0, err
    return json.loads(out)


def test_a_killed_training_goes_on_and_ends_with_the_unbroken_ones_weights(
    ray_local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken, broken = _prepare(tmp_path / "unbroken"), _prepare(tmp_path / "broken")
    process = _start_training(broken)
    deadline = time.monotonic() + patience(120)
    steps: list[int] = []
    while time.monotonic() < deadline and not (steps and steps[-1] >= 13):
        steps = [row.step for f in _run_folders(broken) for row in read_progress(f)]
        time.sleep(0.02)
    # The whole session at once: no handler runs.
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert 13 <= steps[-1] < STEPS
    done = _finish(_start_training(broken))
    monkeypatch.chdir(unbroken)
    recipe = load_config(LlmRecipe, recipe=Path("recipe.yaml"), sets=_paths(unbroken)).config
    whole = train_adapter(recipe)

    first, second = _run_folders(broken)
    (reference,) = _run_folders(unbroken)
    rows, expected = (read_progress(folder) for folder in (second, reference))
    # No step is missing and none is counted twice.
    assert [row.step for row in rows] == [row.step for row in expected] == [*range(1, STEPS + 1)]
    assert [row.loss for row in rows] == [row.loss for row in expected]
    assert [row.eval_loss for row in rows] == [row.eval_loss for row in expected]
    weights, unbroken_weights = (
        load_file(folder / "export" / "adapter_model.safetensors") for folder in (second, reference)
    )
    assert weights.keys() == unbroken_weights.keys()
    assert all(np.array_equal(weights[key], unbroken_weights[key]) for key in weights)
    for name in ("best_step", "eval_loss", "adapter_loss", "base_loss", "steps"):
        assert done["metrics"][name] == whole.metrics[name]
    assert not (second / "identity.json").exists()
    assert (first / "identity.json").exists()


def test_only_ones_own_run_that_nobody_trains_is_gone_on_from(tmp_path: Path) -> None:
    recipe = load_config(LlmRecipe, sets=["training.method=full"]).config
    mine = RunIdentity("a", "b", "shop")
    first, second = tmp_path / "runs" / "first", tmp_path / "runs" / "second"
    checkpoint = first / "train" / "checkpoint_1"
    checkpoint.mkdir(parents=True)
    second.mkdir()
    (checkpoint / "weights").write_text("w")
    seal(checkpoint, rank=0, world_size=1, step=3)
    with claim_run(first, mine):
        assert continue_unfinished(recipe, second, mine) is recipe
    # Finished ones say no more what they trained.
    assert not list((tmp_path / "runs").glob("*/identity.json"))
    with pytest.raises(InterruptedError), claim_run(first, mine):
        raise InterruptedError
    assert continue_unfinished(recipe, second, mine).training.resume_from == first
    for other in (replace(mine, tenant="rival"), replace(mine, data="c")):
        assert continue_unfinished(recipe, second, other) is recipe
    anew = load_config(LlmRecipe, sets=["training.method=full", "output.reuse=false"]).config
    assert continue_unfinished(anew, second, mine) is anew
