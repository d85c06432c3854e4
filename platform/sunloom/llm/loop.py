"""The work of one Ray Train worker: set up, step, checkpoint, report, export."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sunloom.config.llm import EvaluationConfig, LoraSettings, ModelConfig, TrainingConfig
from sunloom.core.progress import StepProgress, Tracker, open_trackers
from sunloom.llm.checkpoints import WholeCheckpoint, newest_whole, seal
from sunloom.llm.conversations import Conversation
from sunloom.llm.distributed import Parallel, build_parallel
from sunloom.llm.encoding import Encoded, batches, collate, load_encoded
from sunloom.llm.evaluation import exact_match, greedy, is_clearly_above
from sunloom.llm.models import add_lora, load_model, load_tokenizer
from sunloom.llm.optimization import CausalLoss, learning_rate
from sunloom.llm.probe import DtypeProbe, probe_dtype


@dataclass(frozen=True)
class EarlyStop:
    """What ends a run before its last step.

    Attributes:
        every: Steps between evaluations.
        conversations: Judged at each.
        gate: Bars, and the longest turn.
    """

    every: int
    conversations: tuple[Conversation, ...]
    gate: EvaluationConfig


@dataclass(frozen=True)
class TrainingTask:
    """Input of every worker, as plain values.

    Attributes:
        model: Folder or hub id of the starting weights.
        base: Name of the base that an exported adapter carries.
        data: File of encoded conversations.
        directory: The run's folder, shared by all workers.
        pad: Token id that fills short rows.
        seed: Seed of adapter weights and of the order of batches.
        training: The run.
        lora: The adapter, if one is trained.
        early_stop: What may end the run before its last step.
        options: How the model is loaded: its revision on the hub, and whether its code may run.
    """

    model: str
    base: str
    data: Path
    directory: Path
    pad: int
    seed: int
    training: TrainingConfig
    lora: LoraSettings | None
    early_stop: EarlyStop | None = None
    options: ModelConfig = field(default_factory=ModelConfig)


@dataclass(frozen=True)
class TrainingOutcome:
    """Result of one worker's start.

    Attributes:
        losses: Of the steps of this start.
        first_step: 1, or the step after the checkpoint that the run resumed from.
        tokens: Seen in this start, over all workers.
        seconds: Of the loop.
        dtype: Number format of the matrix products.
        probe: What this worker's machine measured.
        diverged: Loss of the next step where it was not finite, which stopped training.
    """

    losses: list[float]
    first_step: int
    tokens: int
    seconds: float
    dtype: str
    probe: DtypeProbe
    diverged: float | None = None


def run_worker(config: Mapping[str, TrainingTask]) -> TrainingOutcome:
    """Train, and export on the first worker; Ray Train calls this on every worker.

    Args:
        config: The task under ``task``.
    """
    task = config["task"]
    torch.set_num_threads(task.training.cpus_per_worker)
    dtype = agree_on_dtype(task.options.torch_dtype)
    model = load_model(task.model, task.options)
    if task.lora is not None:
        model = add_lora(model, task.lora, task.seed, task.base)
    module = CausalLoss(model, getattr(torch, dtype)).to(_device())
    module.train()
    parallel = build_parallel(module, task.training)
    checkpoint = find_checkpoint(task)
    if checkpoint is not None:
        parallel.load(checkpoint.path)
    steps_done = checkpoint.step if checkpoint is not None else 0
    # One writer: every worker knows the loss over all workers.
    trackers = task.training.trackers if dist.get_rank() == 0 else ()
    with open_trackers(trackers, task.directory, steps_done) as opened:
        loop = _TrainingLoop(task, model, parallel, steps_done=steps_done, trackers=opened)
        outcome = loop.run(dtype)
    if outcome.diverged is None:
        _export(parallel, model, task)
    return outcome


def agree_on_dtype(configured: str) -> str:
    """The configured format, or bfloat16 when every worker's probe chose it."""
    if configured != "auto":
        return configured
    # Steps are synchronous: one worker that is slow in bfloat16 would slow down all of them.
    votes = torch.tensor([float(probe_dtype().dtype == "bfloat16")], device=_device())
    dist.all_reduce(votes, op=dist.ReduceOp.MIN)
    return "bfloat16" if votes.item() > 0 else "float32"


class _TrainingLoop:
    """The steps and their counters."""

    def __init__(
        self,
        task: TrainingTask,
        model: Any,
        parallel: Parallel,
        *,
        steps_done: int,
        trackers: Sequence[Tracker],
    ) -> None:
        self._task, self._model, self._parallel = task, model, parallel
        self._steps_done, self._trackers = steps_done, trackers
        self._rows = load_encoded(task.data)
        self._rank, self._workers = dist.get_rank(), dist.get_world_size()
        self._losses: list[float] = []
        self._tokens = 0

    def run(self, dtype: str) -> TrainingOutcome:
        config = self._task.training
        started = time.perf_counter()
        diverged = None
        # Planned from step 0 on: a resumed run continues with the batches that are left.
        plan = plan_batches([len(row.ids) for row in self._rows], config, self._task.seed)
        for step in range(self._steps_done, config.max_steps):
            loss = self._step([self._rows[i] for i in plan[step]], step)
            if not math.isfinite(loss):
                diverged = loss
                break
            self._track(step + 1, loss, time.perf_counter() - started)
            is_last = step + 1 == config.max_steps or self._passes_gate(step + 1)
            if is_last or (step + 1) % config.checkpoint_every == 0:
                self._checkpoint(step + 1, loss)
            if is_last:
                break
        return TrainingOutcome(
            losses=self._losses,
            first_step=self._steps_done + 1,
            tokens=self._tokens,
            seconds=time.perf_counter() - started,
            dtype=dtype,
            probe=probe_dtype(),
            diverged=diverged,
        )

    def _step(self, rows: Sequence[Encoded], step: int) -> float:
        """One update; the loss is the mean over the labelled tokens of all workers."""
        # The first token of a row has no token before it that could predict it.
        labelled = sum(int(row.mask[1:].sum()) for row in rows)
        # Strided: a batch is sorted by length, so the workers' shares hold about as many tokens.
        share = rows[self._rank :: self._workers]
        total = torch.zeros((), device=_device())
        parts = split_evenly(share, self._task.training.gradient_accumulation_steps)
        for number, part in enumerate(parts, 1):
            # Where there are too few rows, a worker goes along with one that has no loss.
            ids, labels = collate(part or [rows[0].without_loss()], self._task.pad)
            total += self._parallel.add_gradient(
                torch.from_numpy(ids).to(total.device),
                torch.from_numpy(labels).to(total.device),
                # Gradients are averaged over the workers: times their number makes that a sum.
                scale=self._workers / labelled,
                is_last=number == len(parts),
            )
        dist.all_reduce(total)
        loss = float(total.item()) / labelled
        self._tokens += sum(len(row.ids) for row in rows)
        # Every worker sees the same sum, so all stop at the same step and none waits for another.
        if math.isfinite(loss):
            self._parallel.step(learning_rate(step, self._task.training))
            self._losses.append(loss)
        return loss

    def _passes_gate(self, step: int) -> bool:
        """Whether this is a step to judge at, and the gate's bars are cleared; on every worker."""
        stop = self._task.early_stop
        if stop is None or step % stop.every:
            return False
        share = stop.conversations[self._rank :: self._workers]
        tokenizer = load_tokenizer(self._task.model, self._task.options)
        self._model.eval()
        generate = greedy(self._model, tokenizer, stop.gate.max_new_tokens)
        scores = exact_match(generate, tokenizer, share)
        self._model.train()
        calls = [example.right for example in scores.examples if example.kind == "call"]
        # A worker without a conversation has no share of whole ones.
        whole_here = (scores.whole or 0.0) * len(share)
        counts = torch.tensor([sum(calls), len(calls), whole_here, len(share)]).to(_device())
        # All stop at the same step, or the ones that go on would wait for the others.
        dist.all_reduce(counts)
        right, judged, whole, conversations = counts.tolist()
        bar = stop.gate.min_exact_match
        # Without a tool call to judge, nothing shows that the bar is reached.
        passes = bar is None or (judged > 0 and is_clearly_above(right, judged, bar))
        return passes and is_clearly_above(whole, conversations, stop.gate.min_whole)

    def _track(self, step: int, loss: float, seconds: float) -> None:
        steps = self._task.training.max_steps
        progress = StepProgress(
            step=step,
            steps=steps,
            loss=round(loss, 6),
            # The schedule counts the steps before this one.
            learning_rate=learning_rate(step - 1, self._task.training),
            tokens_per_second=round(self._tokens / seconds, 1),
            seconds=round(seconds, 2),
            # From the pace of this start alone: steps before a resume took another process's time.
            eta_s=round(seconds / (step - self._steps_done) * (steps - step), 1),
        )
        for tracker in self._trackers:
            tracker.log(progress)

    def _checkpoint(self, step: int, loss: float) -> None:
        from ray import train

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            # Every worker reports its own files; Ray merges them into one checkpoint.
            self._parallel.save(folder, step)
            seal(folder, rank=self._rank, world_size=self._workers, step=step)
            checkpoint = train.Checkpoint.from_directory(folder)
            train.report({"step": step, "loss": loss}, checkpoint=checkpoint)


def plan_batches(lengths: Sequence[int], config: TrainingConfig, seed: int) -> list[list[int]]:
    """Rows of every step, the same on every worker and after every restart."""
    plan: list[list[int]] = []
    epoch = 0
    # A batch of more rows than there are would leave every epoch empty.
    size = min(config.conversations_a_step, len(lengths))
    while len(plan) < config.max_steps:
        plan += batches(lengths, size, seed + epoch)
        epoch += 1
    return plan[: config.max_steps]


def split_evenly(rows: Sequence[Encoded], parts: int) -> list[Sequence[Encoded]]:
    """``parts`` runs of rows whose numbers differ by at most one, the larger ones first."""
    small, larger = divmod(len(rows), parts)
    ends = [small * n + min(n, larger) for n in range(parts + 1)]
    return [rows[start:end] for start, end in pairwise(ends)]


def find_checkpoint(task: TrainingTask) -> WholeCheckpoint | None:
    """The newest whole checkpoint of this run, else of the run to resume."""
    earlier = task.training.resume_from
    # This run first: after a failure it is further on than the run that it resumed from.
    newest = newest_whole(task.directory / "train")
    return newest or (newest_whole(earlier / "train") if earlier else None)


def _export(parallel: Parallel, model: Any, task: TrainingTask) -> None:
    """Write the model, or the adapter alone, as a Hugging Face folder with safetensors."""
    # Gathering sharded parameters is collective: every worker calls it, one gets the result.
    state = parallel.full_state()
    if dist.get_rank() == 0:
        # Names inside the language model, without those of the modules that wrap it.
        weights = {
            name.removeprefix("module.").removeprefix("model."): value
            for name, value in state.items()
        }
        # safetensors refuses two names of one tensor; a tied weight is stored under one.
        tied = dict(getattr(model, "_tied_weights_keys", None) or {})
        stored = {n: v for n, v in weights.items() if not (n in tied and tied[n] in weights)}
        folder = task.directory / "export"
        model.save_pretrained(str(folder), state_dict=stored)
        # PEFT adds a model card that says nothing of this model.
        (folder / "README.md").unlink(missing_ok=True)
    dist.barrier()


def _device() -> torch.device:
    from ray.train.torch import get_device

    device = get_device()
    return device[0] if isinstance(device, list) else device
