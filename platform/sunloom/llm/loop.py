"""The work of one Ray Train worker: set up, step, checkpoint, report, export."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from sunloom.config.llm import (
    Ddp,
    EarlyStopping,
    EvaluationConfig,
    Grpo,
    LoraSettings,
    ModelConfig,
    TrainingConfig,
)
from sunloom.config.tracking import TrackingConfig
from sunloom.core.files import write_atomic
from sunloom.core.progress import StepProgress, Tracker
from sunloom.core.trackers import TrackedRun, open_trackers
from sunloom.llm.checkpoints import CheckpointWriter, WholeCheckpoint, newest_whole
from sunloom.llm.conversations import Conversation
from sunloom.llm.distributed import Parallel, build_parallel
from sunloom.llm.encoding import Encoded, batches
from sunloom.llm.evaluation import exact_match, greedy, is_clearly_above
from sunloom.llm.feedback_rows import FeedbackRows, collate_sequences, load_start, score_rows
from sunloom.llm.fused_lora import fuse_lora
from sunloom.llm.grpo_loss import GrpoLoss
from sunloom.llm.models import add_lora, continue_lora, load_model, load_tokenizer
from sunloom.llm.objectives import OBJECTIVES
from sunloom.llm.optimization import CausalLoss, LossModule, learning_rate
from sunloom.llm.preference_loss import PreferenceLoss
from sunloom.llm.probe import DtypeProbe, probe_dtype
from sunloom.llm.resuming import EVALUATIONS_FILE, PROMPTS
from sunloom.llm.rollouts import EngineMismatchError, RolloutSource, RolloutTask
from sunloom.llm.token_store import TokenRows
from sunloom.llm.utilization import ModelOperations, count_operations, find_peak

_EVALUATED_AT_ONCE = 8
# Without a limit the hand-written loop of `benchmarks/llm/train.py` was 6 to 10 % slower.
_CPU_PASS_TOKENS = 1024
WORD_FILE = "word.json"
"""In a paced run's folder: the last word that it was given."""
_WORD_POLL_S = 0.05


@dataclass(frozen=True)
class Evaluations:
    """Evaluations during a run, and what each may end.

    Attributes:
        every: Steps between them.
        rows: Folder of tokenised held-out conversations, for the loss.
        stopping: When the run ends sooner.
        conversations: The same, judged by exact match where that is what ends the run.
        gate: Bars, and the longest turn.
        is_paced: Whether each evaluation waits for ``give_word``: a search stops runs.
    """

    every: int
    rows: Path
    stopping: EarlyStopping | None
    conversations: tuple[Conversation, ...]
    gate: EvaluationConfig
    is_paced: bool = False


@dataclass(frozen=True)
class TrainingTask:
    """Input of every worker, as plain values.

    Attributes:
        model: Folder or hub id of the starting weights.
        base: Name of the base that an exported adapter carries.
        data: Folder of tokenised conversations.
        directory: The run's folder, shared by all workers.
        pad: Token id that fills short rows.
        seed: Seed of adapter weights and of the order of batches.
        training: The run.
        lora: The adapter, if one is trained.
        evaluations: What is measured between the steps, and may end the run before its last.
        options: How the model is loaded: its revision on the hub, and whether its code may run.
        adapter: Folder of the adapter that is trained on; a new one where there is none.
        tracking: Where trackers send the progress.
        max_length: Longest prompt with completion in tokens, where completions are drawn.
    """

    model: str
    base: str
    data: Path
    directory: Path
    pad: int
    seed: int
    training: TrainingConfig
    lora: LoraSettings | None
    evaluations: Evaluations | None = None
    options: ModelConfig = field(default_factory=ModelConfig)
    adapter: Path | None = None
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    max_length: int = 0


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
        diverged: What was not finite in the next step, which stopped training.
        eval_loss: Loss on held-out conversations of the exported weights, where it was measured
            last.
        best_step: Step of the exported weights, where they are not the last.
        stall_s: Seconds of the loop that the first worker waited for checkpoints, but for the last.
        peak_bytes: Most memory that this worker has had: of the device, or of the process on CPU.
        mismatch: Why the engine that draws completions is not the model that is trained, which
            stopped training.
    """

    losses: list[float]
    first_step: int
    tokens: int
    seconds: float
    dtype: str
    probe: DtypeProbe
    diverged: str | None = None
    eval_loss: float | None = None
    best_step: int | None = None
    stall_s: float = 0.0
    peak_bytes: int = 0
    mismatch: str | None = None


def run_worker(config: Mapping[str, TrainingTask]) -> TrainingOutcome:
    """Train, and export on the first worker; Ray Train calls this on every worker.

    Args:
        config: The task under ``task``.
    """
    task = config["task"]
    torch.set_num_threads(task.training.cpus_per_worker)
    dtype = agree_on_dtype(task.options.torch_dtype)
    is_quantised = task.training.method == "qlora"
    has_head = OBJECTIVES[type(task.training.objective)].has_head
    model = load_model(
        task.model,
        task.options,
        compute_dtype_4bit=dtype if is_quantised else None,
        head_seed=task.seed if has_head else None,
    )
    if task.lora is not None and task.adapter is not None:
        model = continue_lora(model, task.adapter, task.lora, task.base)
    elif task.lora is not None:
        model = add_lora(model, task.lora, task.seed, task.base)
    # Before it is spread: of sharded weights a worker has a part.
    operations = count_operations(model)
    if isinstance(task.training.distributed, Ddp):
        # Sharded weights come and go around the forward pass of a layer.
        fuse_lora(model)
    module = build_loss(model, getattr(torch, dtype), task.training).to(_device())
    module.train()
    ratio = task.lora.loraplus_ratio if task.lora is not None else None
    parallel = build_parallel(module, task.training, ratio)
    # Before a checkpoint's weights: what training starts from is the reference.
    rows = open_rows(task.data, module, parallel, task.pad)
    held_out = (
        open_rows(task.evaluations.rows, module, parallel, task.pad) if task.evaluations else ()
    )
    rollouts = None
    if isinstance(module, GrpoLoss):
        rollouts = _open_rollouts(task, module, rows, dtype)
    checkpoint = find_checkpoint(task)
    if checkpoint is not None:
        parallel.load(checkpoint.path)
    steps_done = checkpoint.step if checkpoint is not None else 0
    if rollouts is not None:
        rollouts.resume(steps_done)
    # One writer: every worker knows the loss over all workers.
    trackers = task.training.trackers if dist.get_rank() == 0 else ()
    with open_trackers(trackers, TrackedRun(task.directory, steps_done, task.tracking)) as opened:
        loop = _TrainingLoop(
            task,
            module,
            parallel,
            rows,
            held_out,
            steps_done=steps_done,
            trackers=opened,
            operations=operations,
            rollouts=rollouts,
        )
        outcome = loop.run(dtype)
    # The weights of the lowest evaluation loss have been exported when they were there.
    is_sound = outcome.diverged is None and outcome.mismatch is None
    if is_sound and outcome.best_step is None:
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


def build_loss(model: Any, dtype: torch.dtype, training: TrainingConfig) -> LossModule:
    """The module that computes an objective's loss.

    Args:
        model: A causal language model, with or without an adapter.
        dtype: Number format of the matrix products.
        training: The objective, and what is only done in training.
    """
    if isinstance(training.objective, Grpo):
        return GrpoLoss(model, dtype, training.objective)
    noise = training.neftune_alpha
    if OBJECTIVES[type(training.objective)].loss is not None:
        return PreferenceLoss(model, dtype, training.objective, neftune_alpha=noise)
    smoothing, is_packed = training.label_smoothing, training.packing
    return CausalLoss(
        model, dtype, label_smoothing=smoothing, neftune_alpha=noise, is_packed=is_packed
    )


def open_rows(folder: Path, module: LossModule, parallel: Parallel, pad: int) -> Sequence[Encoded]:
    """Rows of a store, with their scores before training where the objective compares with these.

    Call on every worker, before the weights change.
    """
    rows = TokenRows(folder)
    if not isinstance(module, PreferenceLoss) or not module.kind.needs_reference:
        return rows
    lengths = rows.lengths.tolist()
    compared = FeedbackRows(rows, longest_other=max(lengths) if module.kind.needs_kl else None)
    score = partial(score_rows, parallel.judge, compared, lengths, pad=pad, device=_device())
    return compared.with_start(load_start(folder, score, _device()))


def _open_rollouts(
    task: TrainingTask, module: GrpoLoss, prompts: Sequence[Encoded], dtype: str
) -> RolloutSource:
    plan = plan_batches([len(row.ids) for row in prompts], task.training, task.seed)
    drawn = RolloutTask(
        model=task.model,
        options=task.options,
        directory=task.directory,
        # Beside the tokens, which the trials of a search share.
        rows=task.data.parent / PROMPTS,
        training=task.training,
        lora=task.lora,
        pad=task.pad,
        seed=task.seed,
        max_length=task.max_length,
        dtype=dtype,
    )
    count = task.training.max_steps // module.objective.num_iterations
    return RolloutSource(drawn, module, prompts, plan[:count])


class _TrainingLoop:
    """The steps and their counters."""

    def __init__(
        self,
        task: TrainingTask,
        module: LossModule,
        parallel: Parallel,
        rows: Sequence[Encoded],
        held_out: Sequence[Encoded],
        *,
        steps_done: int,
        trackers: Sequence[Tracker],
        operations: ModelOperations,
        rollouts: RolloutSource | None,
    ) -> None:
        self._rollouts = rollouts
        self._task, self._module, self._parallel = task, module, parallel
        self._model: Any = module.model
        self._steps_done, self._trackers = steps_done, trackers
        self._rows, self._held_out = rows, held_out
        self._rank, self._workers = dist.get_rank(), dist.get_world_size()
        self._losses: list[float] = []
        self._tokens = self._operations = 0
        self._count_operations = operations.of_rows
        self._peak: float | None = None
        self._figures: dict[str, float] = {}
        self._history = _EvaluationHistory(task.directory, steps_done)
        self._checkpoints = CheckpointWriter(self._rank, self._workers)
        self._pass_tokens = limit_passes(task.training)

    def run(self, dtype: str) -> TrainingOutcome:
        config = self._task.training
        self._peak = config.peak_flops or find_peak(probe_dtype().device, dtype)
        started = time.perf_counter()
        diverged = mismatch = None
        # Planned from step 0 on: a resumed run continues with the batches that are left.
        lengths = TokenRows(self._task.data).lengths.tolist()
        plan = plan_batches(lengths, config, self._task.seed)
        for step in range(self._steps_done, config.max_steps):
            try:
                rows = self._rows_of(step, plan)
            except EngineMismatchError as error:
                mismatch = str(error)
                break
            loss, norm = self._step(rows, step)
            if not math.isfinite(norm):
                what, value = ("gradient's norm", norm) if math.isfinite(loss) else ("loss", loss)
                diverged = f"{what} was {value}"
                # With such a gradient the weights are spoilt, too: no checkpoint may have them.
                break
            is_over = self._evaluate(step + 1)
            self._track(step + 1, loss, norm, time.perf_counter() - started)
            is_last = step + 1 == config.max_steps or is_over
            if is_last or (step + 1) % config.checkpoint_every == 0:
                if self._rollouts is not None:
                    self._rollouts.settle()
                self._checkpoints.write(self._parallel.save, step + 1, loss)
            if is_last:
                break
        self._checkpoints.wait()
        if self._rollouts is not None and mismatch is None:
            try:
                self._rollouts.close()
            except EngineMismatchError as error:
                mismatch = str(error)
        return TrainingOutcome(
            losses=self._losses,
            first_step=self._steps_done + 1,
            tokens=self._tokens,
            seconds=time.perf_counter() - started,
            dtype=dtype,
            probe=probe_dtype(),
            diverged=diverged,
            eval_loss=self._history.loss_of(self._best_step),
            best_step=self._best_step,
            stall_s=self._checkpoints.stall_s,
            peak_bytes=_peak_bytes(),
            mismatch=mismatch,
        )

    @property
    def _best_step(self) -> int | None:
        """Step whose weights are exported already, where the evaluation loss decides."""
        evaluations = self._task.evaluations
        stopping = evaluations.stopping if evaluations else None
        if stopping is None or stopping.metric != "loss":
            return None
        return self._history.best(stopping.min_delta)

    def _rows_of(self, step: int, plan: Sequence[Sequence[int]]) -> Sequence[Encoded]:
        if self._rollouts is not None:
            return self._rollouts.rows_of(step)
        return [self._rows[index] for index in plan[step]]

    def _step(self, rows: Sequence[Encoded], step: int) -> tuple[float, float]:
        """One update: mean loss over the rows of all workers, and gradient's norm."""
        counts = self._module.counts(rows)
        passes = [
            # Where there are too few rows, a worker goes along with one that has no loss.
            one._replace(rows=one.rows or [rows[0].without_loss()])
            for one in plan_passes(
                self._module.rows_with_gradient(rows),
                self._task.training,
                rank=self._rank,
                workers=self._workers,
                limit=self._pass_tokens,
            )
        ]
        shift = self._mean_shift([one.rows for one in passes], len(rows))
        if self._rollouts is not None:
            passes = [one._replace(rows=self._rollouts.complete(one.rows)) for one in passes]
        sums = torch.zeros((), device=_device())
        for done, one in enumerate(passes, 1):
            # Dropout and noise are those of the step: a resumed run needs no state of a generator.
            torch.manual_seed(_seed_of(self._task.seed, step, *one.place))
            sums = sums + self._parallel.add_gradient(
                *self._collate(one.rows),
                *shift,
                # Gradients are averaged over the workers: times their number makes that a sum.
                scales=[self._workers / count for count in counts],
                is_last=done == len(passes),
            )
        dist.all_reduce(sums)
        terms, rewards = split_sums(sums.tolist(), counts)
        loss = sum(terms)
        self._figures = self._module.figures(rewards, rows) if rewards else {}
        if self._rollouts is not None:
            self._figures |= self._rollouts.figures
        lengths = [len(row.ids) for row in rows]
        self._tokens += sum(lengths)
        self._operations += self._count_operations(lengths)
        norm = math.nan
        # Every worker sees the same sum, so all stop at the same step and none waits for another.
        if math.isfinite(loss):
            norm = self._parallel.step(learning_rate(step, self._task.training))
        if math.isfinite(norm):
            self._losses.append(loss)
        return loss, norm

    def _collate(self, rows: Sequence[Encoded]) -> list[torch.Tensor]:
        return [part.to(_device()) for part in self._module.collate(rows, self._task.pad)]

    def _mean_shift(
        self, parts: Sequence[Sequence[Encoded]], rows: int
    ) -> tuple[torch.Tensor, ...]:
        """How far the model has moved on completions of other prompts, over all workers."""
        module = self._module
        if not isinstance(module, PreferenceLoss) or not module.kind.needs_kl:
            return ()
        total = torch.zeros((), device=_device())
        for part in parts:
            others = [row.sequences()[1] for row in part]
            inputs = collate_sequences(others, self._task.pad)
            scores = self._parallel.judge(*(one.to(total.device) for one in inputs))
            # A row that fills a place has no labels, and no score either.
            start = [row.start[1] if row.mask.any() else 0.0 for row in part]
            total += (scores - torch.tensor(start, device=total.device)).sum()
        dist.all_reduce(total)
        return ((total / rows).clamp(min=0),)

    def _evaluate(self, step: int) -> bool:
        """Measure the held-out loss where it is time; whether the run is over, on every worker."""
        evaluations = self._task.evaluations
        if evaluations is None or step % evaluations.every:
            return False
        self._history.add(step, self._held_out_loss(), is_writer=self._rank == 0)
        if evaluations.is_paced and step < self._task.training.max_steps and self._is_stopped(step):
            return True
        stopping = evaluations.stopping
        if stopping is None:
            return False
        if stopping.metric == "exact_match":
            return self._passes_gate(evaluations)
        if self._best_step == step:
            _export(self._parallel, self._model, self._task)
        return self._history.evaluations_since(self._best_step) >= stopping.patience

    def _is_stopped(self, step: int) -> bool:
        """Wait for word whether the run goes on after an evaluation; on every worker."""
        goes_on = torch.zeros((), device=_device())
        if self._rank == 0:
            while (word := read_word(self._task.directory)).step < step:
                time.sleep(_WORD_POLL_S)
            goes_on.fill_(float(word.goes_on))
        dist.broadcast(goes_on, src=0)
        return not goes_on.item()

    def _held_out_loss(self) -> float:
        """Mean loss on the held-out conversations, over all workers."""
        rows = sorted(self._held_out, key=lambda row: len(row.ids))
        parts = [rows[i : i + _EVALUATED_AT_ONCE] for i in range(0, len(rows), _EVALUATED_AT_ONCE)]
        # Sharded weights are gathered by all workers together: each runs as many batches.
        mine = [
            (parts[start : start + self._workers][self._rank :] or [[rows[0].without_loss()]])[0]
            for start in range(0, len(parts), self._workers)
        ]
        shift = self._mean_shift(mine, len(rows))
        sums = torch.zeros((), dtype=torch.float64, device=_device())
        for part in mine:
            sums = sums + self._parallel.judge(*self._collate(part), *shift).reshape(-1).double()
        dist.all_reduce(sums)
        terms, rewards = split_sums(sums.tolist(), self._module.counts(rows))
        if rewards:
            found = self._module.figures(rewards, rows)
            self._figures |= {f"eval_{name}": value for name, value in found.items()}
        return sum(terms)

    def _passes_gate(self, stop: Evaluations) -> bool:
        """Whether the gate's bars are cleared; on every worker."""
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

    def _track(self, step: int, loss: float, norm: float, seconds: float) -> None:
        steps = self._task.training.max_steps
        progress = StepProgress(
            step=step,
            steps=steps,
            loss=round(loss, 6),
            # The schedule counts the steps before this one.
            learning_rate=learning_rate(step - 1, self._task.training),
            gradient_norm=round(norm, 6),
            eval_loss=self._history.loss_at(step),
            tokens_per_second=round(self._tokens / seconds, 1),
            mfu=round(self._operations / (seconds * self._workers * self._peak), 6)
            if self._peak
            else None,
            seconds=round(seconds, 2),
            # From the pace of this start alone: steps before a resume took another process's time.
            eta_s=round(seconds / (step - self._steps_done) * (steps - step), 1),
            figures={name: round(value, 6) for name, value in self._figures.items()},
        )
        for tracker in self._trackers:
            tracker.log(progress)


@dataclass(frozen=True)
class Word:
    """Whether a paced run goes on after its evaluation of a step, and of those before it."""

    step: int
    goes_on: bool


def give_word(directory: Path, word: Word) -> None:
    """Let a paced run go on, or end."""
    write_atomic(directory / WORD_FILE, json.dumps(asdict(word)))


def read_word(directory: Path) -> Word:
    """The last word that a paced run was given."""
    path = directory / WORD_FILE
    return Word(**json.loads(path.read_text())) if path.is_file() else Word(0, goes_on=True)


class _EvaluationHistory:
    """The held-out losses of a run, in its folder, so that a restart goes on with them.

    Args:
        directory: The run's folder, shared by all workers.
        steps_done: Evaluations of later steps are made again.
    """

    def __init__(self, directory: Path, steps_done: int) -> None:
        self._path = directory / EVALUATIONS_FILE
        lines = self._path.read_text().splitlines() if self._path.is_file() else []
        rows = [json.loads(line) for line in lines]
        self._losses: dict[int, float] = {
            row["step"]: row["loss"] for row in rows if row["step"] <= steps_done
        }

    def add(self, step: int, loss: float, *, is_writer: bool) -> None:
        self._losses[step] = loss
        if is_writer:
            rows = [json.dumps({"step": s, "loss": value}) for s, value in self._losses.items()]
            # Whole or not at all: a worker that starts again reads it.
            write_atomic(self._path, "".join(f"{row}\n" for row in rows))

    def loss_at(self, step: int) -> float | None:
        loss = self._losses.get(step)
        return None if loss is None else round(loss, 6)

    def loss_of(self, step: int | None) -> float | None:
        """The loss of a step, the last one measured where none is named."""
        if step is None:
            step = max(self._losses, default=None)
        return None if step is None else self.loss_at(step)

    def best(self, min_delta: float) -> int | None:
        """Step of the last loss that was lower than all before it by more than ``min_delta``."""
        best: int | None = None
        for step, loss in sorted(self._losses.items()):
            if best is None or loss < self._losses[best] - min_delta:
                best = step
        return best

    def evaluations_since(self, step: int | None) -> int:
        return sum(later > (step or 0) for later in self._losses)


def _seed_of(*parts: int) -> int:
    return random.Random("-".join(map(str, parts))).getrandbits(63)


def plan_batches(lengths: Sequence[int], config: TrainingConfig, seed: int) -> list[list[int]]:
    """Rows of every step, the same on every worker and after every restart."""
    plan: list[list[int]] = []
    epoch = 0
    # A batch of more rows than there are would leave every epoch empty.
    size = min(config.rows_a_step, len(lengths))
    while len(plan) < config.max_steps:
        plan += batches(lengths, size, seed + epoch)
        epoch += 1
    return plan[: config.max_steps]


def divide_step(
    rows: Sequence[Encoded], config: TrainingConfig, rank: int, workers: int
) -> list[tuple[int, int, Sequence[Encoded]]]:
    """A worker's parts of a step, each as share, number in the share, and rows.

    There is a share for each of the recipe's workers. Where fewer are there, one computes several:
    so the step's parts, and what each draws at random, do not depend on who is there.

    Args:
        rows: Of the step.
        config: All workers, and the parts of a share.
        rank: Of this worker.
        workers: That are there, each of which gets as many parts; some of them may be empty.
    """
    parts: list[tuple[int, int, Sequence[Encoded]]] = []
    for first in range(0, config.workers, workers):
        share = first + rank
        # Strided: a batch is sorted by length, so the shares hold about as many tokens.
        own = rows[share :: config.workers] if share < config.workers else []
        split = split_evenly(own, config.gradient_accumulation_steps)
        parts += [(share, number, part) for number, part in enumerate(split, 1)]
    return parts


class Pass(NamedTuple):
    """Rows that go through the model together.

    Attributes:
        place: In the step: share, batch of the share, pass of the batch.
        rows: Empty where a worker has less to do than others.
    """

    place: tuple[int, int, int]
    rows: Sequence[Encoded]


def plan_passes(
    rows: Sequence[Encoded],
    config: TrainingConfig,
    *,
    rank: int,
    workers: int,
    limit: int | None,
) -> list[Pass]:
    """A worker's passes of a step: as many as the worker has that needs most.

    Sharded weights are gathered by all workers together, so each runs as many.

    Args:
        rows: Of the step.
        config: How they are divided.
        rank: Of this worker.
        workers: That are there.
        limit: Most tokens of a pass; None for any number.
    """
    plans = [
        [
            Pass((share, number, index), chunk)
            for share, number, part in divide_step(rows, config, worker, workers)
            for index, chunk in enumerate(split_by_tokens(part, limit, is_packed=config.packing))
        ]
        for worker in range(workers)
    ]
    missing = max(map(len, plans)) - len(plans[rank])
    return plans[rank] + [Pass((-1, rank, index), []) for index in range(missing)]


def limit_passes(config: TrainingConfig) -> int | None:
    """Most tokens of a pass through the model; None for any number.

    Args:
        config: Names it, or leaves it to the device.
    """
    return config.pass_tokens or (None if config.use_gpu else _CPU_PASS_TOKENS)


def split_by_tokens(
    rows: Sequence[Encoded], limit: int | None, *, is_packed: bool
) -> list[Sequence[Encoded]]:
    """Rows in runs of at most ``limit`` tokens, rows of like length together; one row is one run.

    Args:
        rows: To divide; an empty list is one empty run.
        limit: Most tokens of a run, padding included; None for any number.
        is_packed: Whether there is no padding.
    """
    if limit is None or not rows:
        return [rows]
    runs: list[list[Encoded]] = []
    tokens = 0
    for row in sorted(rows, key=lambda row: len(row.ids)):
        length = len(row.ids)
        # Padded to the longest, which is this one.
        size = tokens + length if is_packed else (len(runs[-1]) + 1) * length if runs else 0
        if runs and size <= limit:
            runs[-1].append(row)
            tokens += length
        else:
            runs.append([row])
            tokens = length
    return list(runs)


def split_evenly(rows: Sequence[Encoded], parts: int) -> list[Sequence[Encoded]]:
    """``parts`` runs of rows whose numbers differ by at most one, the larger ones first."""
    small, larger = divmod(len(rows), parts)
    ends = [small * n + min(n, larger) for n in range(parts + 1)]
    return [rows[start:end] for start, end in pairwise(ends)]


def split_sums(sums: Sequence[float], counts: Sequence[int]) -> tuple[list[float], Sequence[float]]:
    """The terms of the mean loss, and the figures that a module gives beside them."""
    terms = [total / count for total, count in zip(sums, counts, strict=False)]
    return terms, sums[len(counts) :]


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
        # The instance's: its class names a head that could be tied, also where it is not.
        tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
        stored = {n: v for n, v in weights.items() if not (n in tied and tied[n] in weights)}
        folder = task.directory / "export"
        model.save_pretrained(str(folder), state_dict=stored)
        # PEFT adds a model card that says nothing of this model.
        (folder / "README.md").unlink(missing_ok=True)
    dist.barrier()


def _peak_bytes() -> int:
    if _device().type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    # getrusage would count what the process held that this one was forked from.
    status = Path("/proc/self/status")
    return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 if status.exists() else 0


def _device() -> torch.device:
    from ray.train.torch import get_device

    device = get_device()
    return device[0] if isinstance(device, list) else device
