"""Rollouts of a training run: weights to the engines, completions and rewards back.

The first worker does both, for all workers, and writes each step's rollouts into the run's folder,
where every worker reads them: so a run that goes on from a checkpoint has those that it had.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from sunloom.config.llm import Grpo, LoraSettings, ModelConfig, TrainingConfig
from sunloom.core.files import atomic_path
from sunloom.core.telemetry import get_logger
from sunloom.llm.encoding import Encoded
from sunloom.llm.grpo_loss import GrpoLoss, Rollout, group_advantages, hold_weights
from sunloom.llm.models import allow_untied_weights
from sunloom.llm.resuming import ROLLOUTS, SAMPLES
from sunloom.llm.rollout_engine import (
    CANDIDATES,
    LONGEST_RANK,
    Drawn,
    EngineSettings,
    PromptToDraw,
    Weights,
    end_engine,
    start_engine,
)

# Prompts whose next token is compared after each exchange of weights.
_PROBES = 8
# Measured on the demo's base: 4e-6 in float32, 0.07 in bfloat16.
_BOUNDS = {"float32": 1e-3, "bfloat16": 0.3}
# Share of an adapter's effect that may be missing in the engine, for what number formats take.
_UNBOUND_SHARE = 0.2


class EngineMismatchError(RuntimeError):
    """The engine draws by other probabilities than the trainer's; raised on every worker."""


@dataclass(frozen=True)
class RolloutTask:
    """What is drawn.

    Attributes:
        model: Folder or hub id of the starting weights.
        options: How they are loaded.
        directory: The run's folder, shared by all workers.
        rows: File with messages and columns of each prompt.
        training: The run.
        lora: The adapter, if one is trained.
        pad: Token id that fills short rows.
        seed: Of the draws.
        max_length: Longest prompt with completion, tokens.
        dtype: Number format of the matrix products.
    """

    model: str
    options: ModelConfig
    directory: Path
    rows: Path
    training: TrainingConfig
    lora: LoraSettings | None
    pad: int
    seed: int
    max_length: int
    dtype: str

    @property
    def objective(self) -> Grpo:
        """How completions are drawn, rewarded and learned from."""
        assert isinstance(self.training.objective, Grpo)
        return self.training.objective


def merged_because(lora: LoraSettings) -> str | None:
    """What keeps vLLM from adding such an adapter to its base, in words; None where it adds it."""
    if lora.use_dora:
        return "DoRA (lora.use_dora)"
    if lora.modules_to_save:
        return f"modules of its own ({', '.join(lora.modules_to_save)})"
    return f"rank {lora.r}, above {LONGEST_RANK}" if lora.r > LONGEST_RANK else None


class RolloutSource:
    """The rollouts of each step; every worker has one, the first one's has the engines.

    Make it before a checkpoint is loaded: what training starts from is the reference.

    Args:
        task: What is drawn.
        module: The loss, around the model that is trained.
        prompts: Of the data.
        plan: Rows of the data of each set of rollouts.
    """

    def __init__(
        self,
        task: RolloutTask,
        module: GrpoLoss,
        prompts: Sequence[Encoded],
        plan: Sequence[Sequence[int]],
    ) -> None:
        self._task, self._module, self._prompts, self._plan = task, module, prompts, plan
        objective = task.objective
        self._start: list[torch.Tensor] = []
        if objective.beta:
            self._start = [p.detach().clone() for p in module.parameters() if p.requires_grad]
        self._ready: int | None = None
        self._number: int | None = None
        self._rows: list[Rollout] = []
        self._old: dict[int, NDArray[np.float32]] = {}
        self.figures: dict[str, float] = {}
        self._drawer = _Drawer(task, module, prompts, plan) if dist.get_rank() == 0 else None

    def resume(self, step: int) -> None:
        """Take over the rollouts of the next step, if an earlier start of the run has drawn them.

        Args:
            step: Steps done.
        """
        number = step // self._task.objective.num_iterations
        path = _path(self._task.directory, number)
        if number < len(self._plan) and path.is_file():
            rows = _read(path, self._task.objective)
            chosen = [self._prompts[index] for index in self._plan[number]]
            size = self._task.objective.group_size
            same = len(rows) == len(chosen) * size and all(
                np.array_equal(rows[i * size].ids[: len(one.ids)], one.ids)
                for i, one in enumerate(chosen)
            )
            self._ready = number if same else None

    def rows_of(self, step: int) -> list[Rollout]:
        """A step's rollouts; call on every worker, before the step.

        Args:
            step: Steps done before.

        Raises:
            EngineMismatchError: The engine's probabilities are not the trainer's.
        """
        number = step // self._task.objective.num_iterations
        if number != self._number:
            started = time.perf_counter()
            self._agree(lambda drawer: drawer.collect(number, is_ready=number == self._ready))
            self._rows = _read(_path(self._task.directory, number), self._task.objective)
            self._number, self._old = number, {}
            self.figures = {"seconds/rollouts": time.perf_counter() - started}
            if self._drawer is not None:
                self.figures |= self._drawer.figures
        return self._rows

    def complete(self, rows: Sequence[Encoded]) -> list[Encoded]:
        """The rows of a pass with the scores that their loss compares with.

        Args:
            rows: Of this worker, in the same division in each iteration.
        """
        objective, chosen = self._task.objective, [r for r in rows if isinstance(r, Rollout)]
        if not any(row.mask.any() for row in chosen):
            return list(rows)
        if objective.beta:
            with hold_weights(self._module, self._start):
                scores = self._module.score(chosen, self._task.pad)
            chosen = [replace(r, reference=s) for r, s in zip(chosen, scores, strict=True)]
        if objective.num_iterations > 1:
            places = {id(row): index for index, row in enumerate(self._rows)}
            keys = [places[id(row)] for row in rows]
            if keys[0] not in self._old:
                self._old |= dict(
                    zip(keys, self._module.score(chosen, self._task.pad), strict=True)
                )
            chosen = [
                replace(row, old=self._old[key]) for row, key in zip(chosen, keys, strict=True)
            ]
        return list(chosen)

    def settle(self) -> None:
        """Wait for what is being drawn, so that a checkpoint finds it in the run's folder."""
        if self._drawer is not None:
            self._drawer.settle()

    def close(self) -> None:
        """End the engines.

        Raises:
            EngineMismatchError: The base's weights have changed.
        """
        self._agree(lambda drawer: drawer.close())

    def _agree(self, work: Any) -> None:
        """What the first worker does, and all of them stop at."""
        said = ""
        if self._drawer is not None:
            try:
                work(self._drawer)
            except EngineMismatchError as error:
                said = str(error)
        messages = [said]
        dist.broadcast_object_list(messages, src=0)
        if messages[0]:
            raise EngineMismatchError(messages[0])


class _Drawer:
    """The first worker's part: engines, exchanges of weights, files."""

    def __init__(
        self,
        task: RolloutTask,
        module: GrpoLoss,
        prompts: Sequence[Encoded],
        plan: Sequence[Sequence[int]],
    ) -> None:
        self._task, self._module, self._prompts, self._plan = task, module, prompts, plan
        with task.rows.open() as lines:
            self._columns = [json.loads(line) for line in lines]
        training, objective, lora = task.training, task.objective, task.lora
        is_added = lora is not None and merged_because(lora) is None
        settings = EngineSettings(
            model=task.model,
            options=task.options,
            arguments=objective.engine,
            kv_cache_gib=objective.kv_cache_gib,
            dtype=task.dtype,
            max_length=task.max_length,
            max_sequences=training.conversations_a_step // objective.engines + _PROBES,
            rank=lora.r if lora is not None and is_added else None,
            threads=training.cpus_per_worker,
            use_gpu=training.use_gpu,
        )
        self._engines = [start_engine(settings) for _ in range(objective.engines)]
        self._is_added = is_added
        self._is_bound = False
        self._pending: tuple[int, list[Any]] | None = None
        self._written: int | None = None
        self._digest = self._digest_frozen()
        step = max(1, len(prompts) // _PROBES)
        self._probes = [prompts[i].ids.tolist() for i in range(0, len(prompts), step)][:_PROBES]
        self.figures: dict[str, float] = {}

    def collect(self, number: int, *, is_ready: bool) -> None:
        """Have a set of rollouts in the run's folder, and begin the next where the policy lags."""
        self.figures = {}
        lags = self._task.objective.policy_lag and number + 1 < len(self._plan)
        if not is_ready and number != self._written:
            if self._pending is None:
                self._exchange()
                self._pending = self._begin(number)
                self.settle()
                if lags:
                    # By the same weights: none have been learned since.
                    self._pending = self._begin(number + 1)
                return
            self.settle()
        if lags:
            self._exchange()
            self._pending = self._begin(number + 1)

    def settle(self) -> None:
        """Write what is being drawn."""
        if self._pending is None:
            return
        import ray

        number, calls = self._pending
        shares = ray.get(calls)
        groups: list[list[Drawn]] = [[] for _ in self._plan[number]]
        for first, share in enumerate(shares):
            groups[first :: len(shares)] = share
        self._pending, self._written = None, number
        self._write(number, groups)

    def close(self) -> None:
        """End the engines, and look at the base."""
        for engine in self._engines:
            end_engine(engine)
        if self._digest_frozen() != self._digest:
            raise EngineMismatchError(
                "The base's weights have changed during the run, though only an adapter is trained."
            )

    def _begin(self, number: int) -> tuple[int, list[Any]]:
        prompts = [
            PromptToDraw(
                ids=self._prompts[index].ids.tolist(),
                messages=self._columns[index]["messages"],
                columns=self._columns[index]["columns"],
                # Of the step: a resumed run draws the same.
                seed=random.Random(f"{self._task.seed}-rollout-{number}-{place}").getrandbits(62),
            )
            for place, index in enumerate(self._plan[number])
        ]
        count, objective = len(self._engines), self._task.objective
        return number, [
            engine.draw.remote(prompts[first::count], objective)
            for first, engine in enumerate(self._engines)
        ]

    def _exchange(self) -> None:
        """Give the engines the weights that have been learned, and see that they draw by them."""
        started = time.perf_counter()
        if not self._is_bound:
            self._require_binding()
            self._is_bound = True
        gap = self._hand_over()
        bound = self._task.objective.max_mismatch or _BOUNDS[self._task.dtype]
        self.figures |= {"mismatch/probe": gap, "seconds/exchange": time.perf_counter() - started}
        if not gap <= bound:
            raise EngineMismatchError(
                f"The engine's log-probabilities differ from the trainer's by {gap:.3g} on average "
                f"on fixed prompts, which is above {bound:g}: it would draw by another model than "
                "the one that is trained."
            )

    def _hand_over(self) -> float:
        """Load the trainer's weights; mean gap of the likeliest tokens' log-probabilities."""
        import ray

        weights = ray.put(self._weights())
        for engine in self._engines:
            engine.load.remote(weights)
        temperature = self._task.objective.temperature
        answers = [e.next_logprobs.remote(self._probes, temperature) for e in self._engines]
        # Meanwhile.
        ours = self._module.score_next(self._probes, self._task.pad).double().cpu()
        gaps = []
        for answer in ray.get(answers):
            for row, found in zip(ours, answer, strict=True):
                mine = row[list(found)]
                theirs = torch.tensor(list(found.values()), dtype=torch.float64)
                # Not weighted: after most prompts one token is all but certain, and right so.
                gaps.append(float((mine - theirs).abs().mean()))
        return sum(gaps) / len(gaps)

    def _require_binding(self) -> None:
        """See that every layer that is trained is one that the engine computes with.

        With the first weights of an adapter it computes what its base does, so one that the engine
        ignores would look right. With other ones it does not.
        """
        before = self._module.score_next(self._probes, self._task.pad)
        with hold_weights(self._module, self._moved_weights()):
            gap = self._hand_over()
            after = self._module.score_next(self._probes, self._task.pad)
        likeliest = after.topk(CANDIDATES).indices
        effect = float((after - before).abs().gather(1, likeliest).mean())
        bound = self._task.objective.max_mismatch or _BOUNDS[self._task.dtype]
        if not gap <= max(bound, _UNBOUND_SHARE * effect):
            raise EngineMismatchError(
                f"Weights that move the trainer's log-probabilities by {effect:.3g} leave the "
                f"engine's {gap:.3g} away from them: some of what is trained is bound to no module "
                "of the engine."
            )

    def _moved_weights(self) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(self._task.seed)
        lora, moved = self._task.lora, []
        for name, parameter in self._module.named_parameters():
            if not parameter.requires_grad:
                continue
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            if "lora_B" in name and lora is not None:
                # The layers' outputs move by about half of what is usual for them.
                scale = lora.alpha / (math.sqrt(lora.r) if lora.use_rslora else lora.r)
                moved.append(parameter.detach() + noise * 0.5 / (scale * math.sqrt(lora.r)))
            elif "lora_" in name:
                moved.append(parameter.detach().clone())
            else:
                moved.append(parameter.detach() * (1 + 0.1 * noise))
        return moved

    def _weights(self) -> Weights:
        model: Any = self._module.model
        if self._is_added:
            from peft import get_peft_model_state_dict

            config = model.peft_config["default"].to_dict()
            # What vLLM reads of it, as JSON has it.
            known = {"r", "lora_alpha", "use_rslora", "peft_type", "bias"}
            adapter = {k: v for k, v in config.items() if k in known} | {
                "target_modules": sorted(config["target_modules"])
            }
            tensors = get_peft_model_state_dict(model)
            return Weights(_on_cpu(tensors), adapter)
        if self._task.lora is not None:
            with allow_untied_weights():
                model = copy.deepcopy(model).merge_and_unload()
        # A tied head, too: vLLM leaves it out itself.
        return Weights(_on_cpu(model.state_dict()))

    def _digest_frozen(self) -> str:
        """A hash of the weights that are not trained."""
        digest = hashlib.blake2b()
        for parameter in self._module.parameters():
            if not parameter.requires_grad:
                whole = parameter.detach().cpu().contiguous().reshape(-1)
                digest.update(whole.view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _write(self, number: int, groups: Sequence[Sequence[Drawn]]) -> None:
        prompts = [self._prompts[index].ids for index in self._plan[number]]
        pairs = [(p, one) for p, group in zip(prompts, groups, strict=True) for one in group]
        path = _path(self._task.directory, number)
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as partial, partial.open("wb") as out:
            np.savez(
                out,
                ids=np.concatenate([np.asarray([*p, *d.ids], np.int32) for p, d in pairs]),
                prompts=np.asarray([len(p) for p, _ in pairs]),
                completions=np.asarray([len(d.ids) for _, d in pairs]),
                behaviour=np.concatenate([np.asarray(d.logprobs, np.float32) for _, d in pairs]),
                rewards=np.asarray([d.reward for _, d in pairs], np.float64),
                truncated=np.asarray([d.is_truncated for _, d in pairs]),
            )
        sample = {
            "rollouts": number,
            "prompt": self._columns[self._plan[number][0]]["messages"],
            "completions": [{"text": d.text, "reward": d.reward} for d in groups[0]],
        }
        with (self._task.directory / SAMPLES).open("a") as lines:
            lines.write(json.dumps(sample, ensure_ascii=False) + "\n")
        training = self._task.training
        kept = (training.keep_checkpoints + 1) * training.checkpoint_every + 1
        _path(self._task.directory, number - kept).unlink(missing_ok=True)


def _on_cpu(tensors: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _path(directory: Path, number: int) -> Path:
    return directory / ROLLOUTS / f"{number:06d}.npz"


def _read(path: Path, objective: Grpo) -> list[Rollout]:
    with np.load(path) as stored:
        columns = {name: stored[name] for name in stored.files}
    rewards = columns["rewards"]
    advantages = group_advantages(rewards, objective)
    rows = []
    begin = begin_of_completion = 0
    for index, (prompt, completion) in enumerate(
        zip(columns["prompts"].tolist(), columns["completions"].tolist(), strict=True)
    ):
        ids = columns["ids"][begin : begin + prompt + completion]
        mask = np.zeros(len(ids), np.bool_)
        mask[prompt:] = True
        end = begin_of_completion + completion
        rows.append(
            Rollout(
                ids,
                mask,
                behaviour=columns["behaviour"][begin_of_completion:end],
                reward=float(rewards[index]),
                advantage=float(advantages[index]),
                is_truncated=bool(columns["truncated"][index]),
            )
        )
        begin, begin_of_completion = begin + len(ids), end
    return rows


def warn_of_merging(lora: LoraSettings | None) -> None:
    """Say so where each step's exchange is of whole weights, and not of an adapter."""
    if lora is not None and (own := merged_because(lora)) is not None:
        get_logger("llm").warning(
            "the adapter has %s, which vLLM cannot add to a base: each step merges a copy of the "
            "base and hands over all of its weights, which is slower",
            own,
        )
