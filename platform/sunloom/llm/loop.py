"""What each Ray Train worker does: set up, step, checkpoint, report."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sunloom.config.llm import LoraSettings, TrainingConfig
from sunloom.llm.checkpoints import WholeCheckpoint, newest_whole, seal
from sunloom.llm.distributed import Parallel, build_parallel
from sunloom.llm.encoding import Encoded, batches, collate, load_encoded
from sunloom.llm.history import ProgressLog
from sunloom.llm.models import add_lora, load_model
from sunloom.llm.objective import CausalLoss
from sunloom.llm.probe import probe_dtype
from sunloom.llm.schedule import learning_rate

_REPORT_EVERY = 10


@dataclass(frozen=True)
class TrainingTask:
    """Everything a worker needs, as plain values.

    Attributes:
        model: Folder or hub id of the starting weights.
        base: What an adapter names as its base.
        data: File of encoded conversations.
        directory: The run's folder, shared by all workers.
        pad: Token id that fills short rows.
        seed: Seed of adapter weights and of the order of batches.
        training: The run.
        lora: The adapter, if one is trained.
    """

    model: str
    base: str
    data: Path
    directory: Path
    pad: int
    seed: int
    training: TrainingConfig
    lora: LoraSettings | None


def run_worker(config: dict[str, Any]) -> dict[str, Any]:
    """Train, and export on the first worker; Ray Train calls this.

    Args:
        config: ``{"work": Work}``.

    Returns:
        ``losses`` of this start, ``dtype``, ``seconds``, ``tokens`` and, when the loss was not
        finite, ``diverged_at``.
    """
    work: TrainingTask = config["work"]
    torch.set_num_threads(work.training.cpus_per_worker)
    dtype = agree_on_dtype(work.training.dtype)
    model = load_model(work.model)
    if work.lora is not None:
        model = add_lora(model, work.lora, work.seed, work.base)
    module = CausalLoss(model, getattr(torch, dtype)).to(_device())
    module.train()
    parallel = build_parallel(module, work.training)
    start = _resume(parallel, work)
    outcome = _Trainer(work, parallel, start).run()
    if "diverged_at" not in outcome:
        _export(parallel, model, work)
    return {**outcome, "dtype": dtype, "probe": asdict(probe_dtype())}


def agree_on_dtype(wanted: str) -> str:
    """The configured format, or bfloat16 when every worker's probe chose it."""
    if wanted != "auto":
        return wanted
    votes = torch.tensor([float(str(probe_dtype()) == "bfloat16")], device=_device())
    dist.all_reduce(votes, op=dist.ReduceOp.MIN)
    return "bfloat16" if votes.item() > 0 else "float32"


class _Trainer:
    """The loop and its counters."""

    def __init__(self, work: TrainingTask, parallel: Parallel, start: int) -> None:
        self._work, self._parallel, self._start = work, parallel, start
        self._rows = load_encoded(work.data)
        self._rank, self._workers = dist.get_rank(), dist.get_world_size()
        self._log = ProgressLog(work.directory, start) if self._rank == 0 else None
        self._losses: list[float] = []
        self._tokens = 0

    def run(self) -> dict[str, Any]:
        config = self._work.training
        began = time.perf_counter()
        plan = plan_batches([len(row.ids) for row in self._rows], config, self._work.seed)
        for step in range(self._start, config.steps):
            loss = self._step([self._rows[i] for i in plan[step]], step)
            if not math.isfinite(loss):
                return self._outcome(began) | {"diverged_at": step + 1, "loss": loss}
            self._record(step + 1, loss, time.perf_counter() - began)
            is_last = step + 1 == config.steps
            if is_last or (step + 1) % config.checkpoint_every == 0:
                self._checkpoint(step + 1, loss)
        if self._log:
            self._log.close()
        return self._outcome(began)

    def _step(self, rows: Sequence[Encoded], step: int) -> float:
        """One update; the loss is the mean over the labelled tokens of all workers."""
        counts = [int(row.mask[1:].sum()) for row in rows]
        ids, labels = collate(rows[self._rank :: self._workers], self._work.pad)
        device = _device()
        total = self._parallel.forward(
            torch.from_numpy(ids).to(device), torch.from_numpy(labels).to(device)
        )
        whole = total.detach().clone()
        dist.all_reduce(whole)
        loss = float(whole.item()) / sum(counts)
        self._tokens += sum(len(row.ids) for row in rows)
        if math.isfinite(loss):
            rate = learning_rate(step, self._work.training)
            self._parallel.step(total * (self._workers / sum(counts)), rate)
            self._losses.append(loss)
        return loss

    def _record(self, step: int, loss: float, seconds: float) -> None:
        if self._log is None:
            return
        row = {
            "step": step,
            "steps": self._work.training.steps,
            "loss": round(loss, 6),
            "learning_rate": learning_rate(step - 1, self._work.training),
            "tokens_per_second": round(self._tokens / seconds, 1),
            "seconds": round(seconds, 2),
        }
        left = (seconds / (step - self._start)) * (self._work.training.steps - step)
        self._log.add(row | {"eta_s": round(left, 1)})

    def _checkpoint(self, step: int, loss: float) -> None:
        from ray import train

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self._parallel.save(folder, step)
            seal(folder, rank=self._rank, world_size=self._workers, step=step)
            checkpoint = train.Checkpoint.from_directory(folder)
            train.report({"step": step, "loss": loss}, checkpoint=checkpoint)

    def _outcome(self, began: float) -> dict[str, Any]:
        seconds = time.perf_counter() - began
        return {
            "losses": self._losses,
            "first_step": self._start + 1,
            "tokens": self._tokens,
            "seconds": seconds,
        }


def plan_batches(lengths: Sequence[int], config: TrainingConfig, seed: int) -> list[list[int]]:
    """Rows of every step, the same on every worker and after every restart."""
    plan: list[list[int]] = []
    epoch = 0
    while len(plan) < config.steps:
        plan += batches(lengths, min(config.batch_size, len(lengths)), seed + epoch)
        epoch += 1
    return plan[: config.steps]


def _resume(parallel: Parallel, work: TrainingTask) -> int:
    """Load the newest whole checkpoint, if there is one; how many steps it had done."""
    found = find_checkpoint(work)
    if found is None:
        return 0
    parallel.load(found.path)
    return found.step


def find_checkpoint(work: TrainingTask) -> WholeCheckpoint | None:
    """The newest whole checkpoint of this run, else of the run to resume."""
    earlier = work.training.resume_from
    folders = [work.directory / "train"]
    return newest_whole(folders) or newest_whole([earlier / "train"] if earlier else [])


def _export(parallel: Parallel, model: Any, work: TrainingTask) -> None:
    """Write the model, or the adapter alone, as a Hugging Face folder with safetensors."""
    state = parallel.full_state()
    if dist.get_rank() == 0:
        weights = {_bare(name): value for name, value in state.items()}
        folder = work.directory / "export"
        model.save_pretrained(str(folder), state_dict=_untied(model, weights))
        # PEFT adds a model card that says nothing of this model.
        (folder / "README.md").unlink(missing_ok=True)
    dist.barrier()


def _bare(name: str) -> str:
    """The name inside the language model, without the names of what wraps it."""
    return name.removeprefix("module.").removeprefix("model.")


def _untied(model: Any, weights: Mapping[str, Any]) -> dict[str, Any]:
    """The weights without second names: a tied weight is stored once."""
    tied = dict(getattr(model, "_tied_weights_keys", None) or {})
    return {
        name: value
        for name, value in weights.items()
        if not (name in tied and tied[name] in weights)
    }


def _device() -> torch.device:
    from ray.train.torch import get_device

    device = get_device()
    return device[0] if isinstance(device, list) else device
