"""Trials of a search: their parameters, one training each, and the record that each leaves.

A trial's folder is that of a run, so one that was killed goes on from its newest checkpoint; one
that ended is not trained again: its evaluations are told from its record.
"""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from sunloom.config.llm_tune import Choice, LogUniform, RandInt, SearchRange, TuneConfig
from sunloom.core.files import write_atomic
from sunloom.core.trackers import end_tracked
from sunloom.errors import DivergedError, SunloomError
from sunloom.llm.launch import launch
from sunloom.llm.loop import WORD_FILE, TrainingOutcome, TrainingTask, Word, give_word
from sunloom.llm.probe import DtypeProbe
from sunloom.llm.resuming import EVALUATIONS_FILE

RESULT_FILE = "trial.json"
"""In a trial's folder, once it has ended: its ``TrialResult`` and what its workers returned."""
_POLL_S = 0.1
# Of a space with few points, all may have been drawn.
_MOST_DRAWS = 1000

Parameters = Mapping[str, Any]
TrialState = Literal["finished", "stopped", "diverged", "failed"]
TRIAL_STATES: tuple[TrialState, ...] = get_args(TrialState)


@dataclass(frozen=True)
class TrialResult:
    """What became of a trial.

    Attributes:
        number: From 0, in the order of drawing.
        parameters: Dotted key to value.
        state: ``finished`` did all its steps or stopped itself, ``stopped`` was behind the others.
        steps: Done.
        losses: Step and evaluation loss of each evaluation.
        score: The figure that decides; None where it was not measured.
        seconds: From start to end, of this process.
        error: Why it failed.
    """

    number: int
    parameters: Parameters
    state: TrialState
    steps: int
    losses: tuple[tuple[int, float], ...]
    score: float | None
    seconds: float
    error: str | None = None

    @property
    def eval_loss(self) -> float | None:
        """Loss of the last evaluation."""
        return self.losses[-1][1] if self.losses else None


@dataclass(frozen=True)
class TrialStep:
    """Where a trial is, as Tune is told.

    Attributes:
        step: Done.
        eval_loss: There; infinite where it has none.
        done: Whether the trial has ended.
    """

    step: int
    eval_loss: float
    done: bool


@dataclass(frozen=True)
class TrialTask:
    """A trial to run.

    Attributes:
        number: From 0.
        parameters: Dotted key to value.
        task: For its workers; its folder is the trial's.
        measure: Figure of a trial that did all its steps; None takes the last evaluation loss.
        finish: What the exported folder needs beside weights.
        train: Does the work.
    """

    number: int
    parameters: Parameters
    task: TrainingTask
    measure: Callable[[], float] | None
    finish: Callable[[Path], Any]
    train: Callable[[TrainingTask, str], TrainingOutcome] = launch


def draw_parameters(tune: TuneConfig, seed: int) -> list[dict[str, Any]]:
    """The parameters of each trial, none twice; the first ones do not depend on how many follow."""
    drawn: list[dict[str, Any]] = []
    generator = np.random.default_rng(seed)
    for _ in range(_MOST_DRAWS):
        found = {key: _draw(wanted, generator) for key, wanted in tune.space.items()}
        if found not in drawn:
            drawn.append(found)
        if len(drawn) == tune.trials:
            break
    return drawn


def _draw(wanted: SearchRange, generator: np.random.Generator) -> Any:
    if isinstance(wanted, Choice):
        return wanted.values[int(generator.integers(len(wanted.values)))]
    if isinstance(wanted, RandInt):
        return int(generator.integers(wanted.low, wanted.high + 1))
    if isinstance(wanted, LogUniform):
        return math.exp(generator.uniform(math.log(wanted.low), math.log(wanted.high)))
    return float(generator.uniform(wanted.low, wanted.high))


class TrialRun:
    """One trial in this process: its training goes from evaluation to evaluation, as it is asked.

    Args:
        trial: What is run.
    """

    def __init__(self, trial: TrialTask) -> None:
        self._trial, self._folder = trial, trial.task.directory
        self._started = time.perf_counter()
        self._told = 0
        self._is_stopped = False
        self._result = read_trial(self._folder)
        self._thread: threading.Thread | None = None
        if self._result is None:
            # Of a start before, which knew more.
            (self._folder / WORD_FILE).unlink(missing_ok=True)
            self._thread = threading.Thread(target=self._train, daemon=True)
            self._thread.start()

    def next_evaluation(self) -> TrialStep:
        """Let the training go on, and wait for its next evaluation or its end."""
        if self._told:
            give_word(self._folder, Word(self._told, goes_on=True))
        while True:
            # Before the evaluations: what they have afterwards is all.
            result = self._result
            for step, loss in read_losses(self._folder):
                if step > self._told and (result is None or step < result.steps):
                    self._told = step
                    return TrialStep(step, loss, done=False)
            if result is not None:
                last = result.eval_loss if result.state in ("finished", "stopped") else None
                return TrialStep(result.steps, math.inf if last is None else last, done=True)
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """End the training at the evaluation where it waits; returns when its workers have gone."""
        if self._thread is not None:
            if self._result is None:
                self._is_stopped = True
                give_word(self._folder, Word(self._told, goes_on=False))
            self._thread.join()

    def _train(self) -> None:
        trial, task = self._trial, self._trial.task
        outcome, error, score = None, None, None
        state: TrialState = "failed"
        try:
            outcome = trial.train(task, f"trial {trial.number}")
            trial.finish(self._folder / "export")
            state = "finished"
        except DivergedError as failure:
            state, error = "diverged", failure.message
        except SunloomError as failure:
            error = failure.message
        except Exception as failure:  # noqa: BLE001 - a failed trial is a result, the others go on
            error = f"{type(failure).__name__}: {failure}"
        losses = read_losses(self._folder)
        steps = outcome.first_step - 1 + len(outcome.losses) if outcome else 0
        if outcome is not None and self._is_stopped and steps < task.training.max_steps:
            state = "stopped"
        elif outcome is not None and state == "finished":
            try:
                score = trial.measure() if trial.measure else outcome.eval_loss
            except Exception as failure:  # noqa: BLE001 - as above
                state, error = "failed", f"judging failed: {failure}"
        result = TrialResult(
            number=trial.number,
            parameters=trial.parameters,
            state=state,
            steps=steps,
            losses=tuple(losses),
            score=score,
            seconds=round(time.perf_counter() - self._started, 1),
            error=error,
        )
        record = {"result": asdict(result), "outcome": asdict(outcome) if outcome else None}
        figures = {"eval_loss": result.eval_loss, "score": score, "steps": steps}
        end_tracked(
            self._folder,
            task.tracking,
            "FINISHED" if state in ("finished", "stopped") else "FAILED",
            figures,
            {"trial": state},
        )
        write_atomic(self._folder / RESULT_FILE, json.dumps(record, indent=1))
        if state != "failed":
            # It is not gone on with.
            shutil.rmtree(self._folder / "train", ignore_errors=True)
        self._result = result


def read_trial(folder: Path) -> TrialResult | None:
    """The record of a trial that has ended; None where it has not."""
    path = folder / RESULT_FILE
    if not path.is_file():
        return None
    plain = json.loads(path.read_text())["result"]
    plain["losses"] = tuple(tuple(pair) for pair in plain["losses"])
    return TrialResult(**plain)


def read_outcome(folder: Path) -> TrainingOutcome:
    """What the workers of a trial that has ended returned."""
    plain = json.loads((folder / RESULT_FILE).read_text())["outcome"]
    return TrainingOutcome(**{**plain, "probe": DtypeProbe(**plain["probe"])})


def read_losses(folder: Path) -> list[tuple[int, float]]:
    """Step and loss of each evaluation of a trial, in order."""
    path = folder / EVALUATIONS_FILE
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return sorted((row["step"], row["loss"]) for row in rows)


def forget_failed(folders: Iterable[Path]) -> None:
    """Let failed trials be tried again, from their checkpoints; those that diverged would again."""
    for folder in folders:
        result = read_trial(folder)
        if result is not None and result.state == "failed":
            (folder / RESULT_FILE).unlink()
