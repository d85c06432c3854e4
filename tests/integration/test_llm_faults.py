"""Trainings that are killed, in whole or in part: they end where the unbroken run ends."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import patience
from ray_nodes import RayNodes, ray_nodes
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
        "batch_size": 1,
        "workers": 2,
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


def _start_training(
    folder: Path, *sets: str, environ: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """``sunloom llm train`` as a user starts it."""
    words = [f"--set={assignment}" for assignment in (*_paths(folder), *sets)]
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, "llm", "train", "recipe.yaml", "--json", *words],
        cwd=folder,
        env={**(environ or os.environ), "SUNLOOM__CLUSTER__DASHBOARD": "false"},
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


def _wait_until(is_true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + patience(120)
    while not is_true():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"it did not come to that: {process.communicate()[1]}")
        time.sleep(0.05)


def _wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> int:
    """The last step that is recorded, as soon as it is this one or a later one."""
    _wait_until(lambda: _last_step(folder) >= step, process)
    return _last_step(folder)


def _last_step(folder: Path) -> int:
    return max((row.step for run in _run_folders(folder) for row in read_progress(run)), default=0)


def _finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=patience(240))
    assert process.returncode == 0, err
    return json.loads(out)


@dataclass(frozen=True)
class Finished:
    """A run that nothing has hit: its folder, and what the registry says of it."""

    run: Path
    metrics: dict[str, Any]


@pytest.fixture(scope="module")
def unbroken(ray_local: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = _prepare(tmp_path_factory.mktemp("faults") / "unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        recipe = load_config(LlmRecipe, recipe=Path("recipe.yaml"), sets=_paths(folder)).config
        metrics = train_adapter(recipe).version.metrics
    (run,) = _run_folders(folder)
    return Finished(run, metrics)


# Notes who trained a step, and takes time for one that a worker trains alone.
_SLOW_ALONE = """
import time
import torch.distributed as dist

class SlowAlone:
    def __init__(self, directory, steps_done):
        self._path = directory / "workers.txt"

    def log(self, progress):
        workers = dist.get_world_size()
        with self._path.open("a") as file:
            file.write(f"{progress.step} {workers}\\n")
        time.sleep(2.0 if workers == 1 else 0.0)

    def close(self):
        pass
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    modules = tmp_path_factory.mktemp("modules")
    (modules / "slow_alone.py").write_text(_SLOW_ALONE)
    plugin = modules / "slow_alone-0.dist-info"
    plugin.mkdir()
    (plugin / "METADATA").write_text("Name: slow-alone\nVersion: 0\n")
    entry = "[sunloom.trackers]\nslow_alone = slow_alone:SlowAlone\n"
    (plugin / "entry_points.txt").write_text(entry)
    with ray_nodes(2, modules) as started:
        yield started


def _assert_same_run(run: Path, done: dict[str, Any], expected: Finished) -> None:
    """Losses of all steps and the final weights, bit for bit."""
    rows, others = read_progress(run), read_progress(expected.run)
    # No step is missing and none is counted twice.
    assert [row.step for row in rows] == [row.step for row in others] == [*range(1, STEPS + 1)]
    assert [row.loss for row in rows] == [row.loss for row in others]
    assert [row.eval_loss for row in rows] == [row.eval_loss for row in others]
    weights, unbroken_weights = (
        load_file(folder / "export" / "adapter_model.safetensors") for folder in (run, expected.run)
    )
    assert weights.keys() == unbroken_weights.keys()
    assert all(np.array_equal(weights[key], unbroken_weights[key]) for key in weights)
    for name in ("best_step", "eval_loss", "adapter_loss", "base_loss", "steps"):
        assert done["metrics"][name] == expected.metrics[name]
    assert not (run / "identity.json").exists()


@pytest.mark.faults(kills=1, share=0.01)
def test_the_same_command_after_a_kill_ends_with_the_unbroken_runs_weights(
    unbroken: Finished, tmp_path: Path, fault_seed: int
) -> None:
    least = random.Random(fault_seed).randint(5, 16)
    broken = _prepare(tmp_path / "broken")
    process = _start_training(broken, "cluster.num_cpus=4")
    step = _wait_for_step(broken, least, process)
    # The whole session at once, with the Ray of its own: no handler runs.
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert step < STEPS
    done = _finish(_start_training(broken, "cluster.num_cpus=4"))
    first, second = _run_folders(broken)
    _assert_same_run(second, done, unbroken)
    assert (first / "identity.json").exists()


@pytest.mark.faults(kills=2, share=0.02)
def test_a_training_outlives_a_node_and_a_worker_that_are_killed(
    unbroken: Finished, nodes: RayNodes, tmp_path: Path, fault_seed: int
) -> None:
    broken, chosen = _prepare(tmp_path / "broken"), random.Random(fault_seed)
    sets = [f"cluster.address={nodes.address}", "training.max_failures=2"]
    sets += ["training.min_workers=1", "training.resize_interval_s=1"]
    sets += ["training.trackers=[file, slow_alone]"]
    process = _start_training(broken, *sets, environ=nodes.environ)
    # Past the first checkpoint, whose steps are not made again.
    _wait_for_step(broken, chosen.randint(5, 9), process)
    nodes.kill(chosen.choice(nodes.nodes[1:]))
    (run,) = _run_folders(broken)
    trained = run / "workers.txt"
    # It goes on by itself with the worker that is left, and with two when there is room again.
    _wait_until(lambda: trained.read_text().endswith(" 1\n"), process)
    nodes.add()
    _wait_until(lambda: trained.read_text().endswith(" 2\n"), process)
    chosen.choice(nodes.workers()).kill()
    done = _finish(process)
    workers = [line.split()[1] for line in trained.read_text().splitlines()]
    assert [count for count, _ in groupby(workers)] == ["2", "1", "2"]
    # A step's parts are the recipe's, and two of them have one sum in either order.
    _assert_same_run(run, done, unbroken)


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
