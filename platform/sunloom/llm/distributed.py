"""DDP, FSDP2 and DeepSpeed behind one small interface.

A loss summed over a worker's share is divided by the count over all workers and multiplied by
their number, so the averaged gradient is that of the whole batch whatever the parallelism.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sunloom.config.llm import Ddp, DeepSpeed, Distributed, Fsdp, TrainingConfig
from sunloom.llm.optimization import LossModule
from sunloom.llm.optimizers import RATE_SCALE, build_optimizer, mark_vocabulary, parameter_groups

State = dict[str, Any]


class Parallel(ABC):
    """A model and its optimizer, spread over the workers.

    Args:
        module: Computes the sums of a batch.
        optimizer: Its groups have the learning rate.
    """

    def __init__(self, module: nn.Module, optimizer: Any) -> None:
        self._module, self._optimizer = module, optimizer

    def add_gradient(
        self, *inputs: torch.Tensor, scales: Sequence[float], is_last: bool
    ) -> torch.Tensor:
        """Forward and backward over some of this worker's rows of a step.

        Args:
            inputs: The module's, of these rows.
            scales: What each summed term of the loss is multiplied by for the gradient.
            is_last: Whether the step has no more rows: the workers then exchange gradients.

        Returns:
            The module's sums over these rows, without their graph.
        """
        self._exchange_gradients(is_last)
        sums: torch.Tensor = self._module(*inputs).reshape(-1)
        terms = [term * scale for term, scale in zip(sums, scales, strict=False)]
        self._backward(sum(terms[1:], terms[0]))
        return sums.detach()

    def step(self, learning_rate: float) -> float:
        """Clip the gradient, update, and forget it.

        Returns:
            Norm of the gradient over all workers, before it was clipped.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate * group.get(RATE_SCALE, 1.0)
        return self._update()

    def judge(self, *inputs: torch.Tensor) -> torch.Tensor:
        """What the module gives in judging: without noise, dropout and gradient.

        Call on every worker: sharded weights are gathered.

        Args:
            inputs: The module's, of a batch.
        """
        self._module.eval()
        # Not inference mode: FSDP keeps what it gathers.
        with torch.no_grad():
            result: torch.Tensor = self._module(*inputs)
        self._module.train()
        return result

    @abstractmethod
    def _exchange_gradients(self, is_wanted: bool) -> None:
        """Whether the next backward pass ends with an exchange between the workers."""

    @abstractmethod
    def _backward(self, loss: torch.Tensor) -> None: ...

    @abstractmethod
    def _update(self) -> float: ...

    @abstractmethod
    def save(self, folder: Path, step: int) -> Callable[[], None]:
        """Begin to write this worker's part of a checkpoint.

        Returns:
            The rest of the work, for another thread while the training goes on; it is done in the
            same order on every worker.
        """

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read model and optimizer from a whole checkpoint."""

    @abstractmethod
    def full_state(self) -> State:
        """All trained parameters on the first worker, {} on the others; call on every worker."""


def build_parallel(
    module: LossModule, config: TrainingConfig, loraplus_ratio: float | None = None
) -> Parallel:
    """Spread a module over the workers of the process group.

    Args:
        module: Computes the sums of a batch.
        config: The parallelism and the optimizer.
        loraplus_ratio: How many times the learning rate an adapter's second matrices have.
    """
    return _BUILDERS[type(config.distributed)](module, config, loraplus_ratio)


class TorchParallel(Parallel):
    """DDP or FSDP2: torch's own optimizer and distributed checkpoints.

    Args:
        module: Computes the sums of a batch.
        config: Optimizer and clipping.
        ratio: How many times the learning rate an adapter's second matrices have.
        wrapped: The module spread over the workers; itself where there is one process.
    """

    def __init__(
        self,
        module: LossModule,
        config: TrainingConfig,
        ratio: float | None = None,
        *,
        wrapped: nn.Module | None = None,
    ) -> None:
        wrapped = wrapped or module
        self._trained = [p for p in wrapped.parameters() if p.requires_grad]
        # After sharding, which puts other parameters into the same modules.
        mark_vocabulary(module.model)
        groups = parameter_groups(wrapped.named_parameters(), config, loraplus_ratio=ratio)
        super().__init__(wrapped, build_optimizer(groups, config))
        self._max_norm = config.max_grad_norm
        self._writers: Any = None

    def _exchange_gradients(self, is_wanted: bool) -> None:
        from torch.distributed.fsdp import FSDPModule

        if isinstance(self._module, nn.parallel.DistributedDataParallel):
            # What its no_sync() sets; the forward pass reads it, too.
            self._module.require_backward_grad_sync = is_wanted
        elif isinstance(self._module, FSDPModule):
            self._module.set_requires_gradient_sync(is_wanted)

    def _backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def _update(self) -> float:
        norm = nn.utils.clip_grad_norm_(self._trained, self._max_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        # Of sharded gradients it is a partial sum on each worker.
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def save(self, folder: Path, step: int) -> Callable[[], None]:
        """Copy the state to the CPU's memory; the rest of the work writes the copy."""
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        if self._writers is None:
            # The workers agree on who writes what, meanwhile they exchange gradients.
            self._writers = torch.distributed.new_group(backend="gloo")
        stager = DefaultStager(StagingOptions(*[False] * 4))
        state = stager.stage({**self._state(), "step": torch.tensor(step)})
        return partial(
            dcp.save,
            state,
            # A file that a power cut leaves incomplete differs from its hash.
            storage_writer=dcp.FileSystemWriter(str(folder), sync_files=False),
            process_group=self._writers,
        )

    def load(self, folder: Path) -> None:
        """Read model and optimizer from a whole checkpoint."""
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.state_dict import set_state_dict

        state = self._state()
        # In place: the present state dict says what is read, and how it is sharded.
        dcp.load(state, checkpoint_id=str(folder))
        set_state_dict(
            self._module,
            self._optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            # Frozen parameters are not in the checkpoint.
            options=self._options(strict=False),
        )

    def full_state(self) -> State:
        """All trained parameters on the first worker."""
        from torch.distributed.checkpoint.state_dict import get_model_state_dict

        # Gathered on the CPU: a GPU that holds a shard may not have room for the whole model.
        options = self._options(full_state_dict=True, cpu_offload=True)
        state: State = get_model_state_dict(self._module, options=options)
        return state

    def _state(self) -> State:
        from torch.distributed.checkpoint.state_dict import get_state_dict

        model, optimizer = get_state_dict(self._module, self._optimizer, options=self._options())
        return {"model": model, "optimizer": optimizer}

    @staticmethod
    def _options(**options: Any) -> Any:
        from torch.distributed.checkpoint.state_dict import StateDictOptions

        # A frozen base would be written again with every adapter checkpoint.
        return StateDictOptions(ignore_frozen_params=True, **options)


class DeepSpeedParallel(Parallel):
    """DeepSpeed's engine with torch's optimizer inside."""

    def __init__(self, module: LossModule, config: TrainingConfig, ratio: float | None) -> None:
        import deepspeed

        # On CPUs it would compile an all-reduce of inference first, a minute for each of two
        # cores, which training never calls.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        assert isinstance(config.distributed, DeepSpeed)
        self._stage = config.distributed.zero_stage
        groups = parameter_groups(module.named_parameters(), config, loraplus_ratio=ratio)
        optimizer = build_optimizer(groups, config)
        engine, engine_optimizer, _, _ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config=_deepspeed_config(config, self._stage),
            # Ray Train has set up the process group already.
            dist_init_required=False,
        )
        super().__init__(engine, engine_optimizer)
        self._engine: Any = engine
        self._is_boundary = True

    def _exchange_gradients(self, is_wanted: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(is_boundary=is_wanted)
        self._is_boundary = is_wanted

    def _backward(self, loss: torch.Tensor) -> None:
        self._engine.backward(loss)
        if not self._is_boundary:
            # It counts the parts of a step; only at a boundary it updates.
            self._engine.step()

    def _update(self) -> float:
        self._engine.step()
        return float(self._engine.get_global_grad_norm() or 0.0)

    def save(self, folder: Path, step: int) -> Callable[[], None]:
        """Write the engine's files; nothing is left to do."""
        self._engine.save_checkpoint(
            str(folder), tag="engine", client_state={"step": step}, exclude_frozen_parameters=False
        )
        return lambda: None

    def load(self, folder: Path) -> None:
        """Read model and optimizer from a whole checkpoint."""
        self._engine.load_checkpoint(str(folder), tag="engine")

    def full_state(self) -> State:
        """All trained parameters on the first worker."""
        import deepspeed

        module = self._engine.module
        trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
        # Only stage 3 shards parameters. Gathering is collective: no rank may return before it.
        with deepspeed.zero.GatheredParameters(list(trained.values()), enabled=self._stage == 3):
            if torch.distributed.get_rank() != 0:
                return {}
            return {name: p.detach().cpu().clone() for name, p in trained.items()}


def _deepspeed_config(config: TrainingConfig, stage: int) -> State:
    workers = torch.distributed.get_world_size()
    return {
        # Figures that imply no accumulation, by whose steps DeepSpeed would divide the loss.
        "train_batch_size": workers,
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage, "overlap_comm": False},
        # DeepSpeed refuses optimizers outside its own list, which the table may go beyond.
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": config.max_grad_norm,
        # The trackers record the steps.
        "steps_per_print": 10**9,
    }


def _build_ddp(module: LossModule, config: TrainingConfig, ratio: float | None) -> Parallel:
    wrapped = nn.parallel.DistributedDataParallel(module)
    return TorchParallel(module, config, ratio, wrapped=wrapped)


def _build_fsdp(module: LossModule, config: TrainingConfig, ratio: float | None) -> Parallel:
    from torch.distributed.fsdp import fully_shard

    assert isinstance(config.distributed, Fsdp)
    reshard = config.distributed.reshard_after_forward
    # The blocks that the model's own class names as not to be split.
    blocks: set[str] = set()
    for part in module.modules():
        blocks |= set(getattr(part, "_no_split_modules", None) or ())
    # Layers before the root: each call groups the parameters that no earlier call has taken, and a
    # group is gathered as one.
    # A base in 4 bits stays whole on each worker: a shard would lose the scales of its blocks.
    packed = {p for p in module.parameters() if not p.is_floating_point()}
    for layer in [part for part in module.modules() if type(part).__name__ in blocks]:
        fully_shard(layer, reshard_after_forward=reshard, ignored_params=packed)
    wrapped = fully_shard(module, reshard_after_forward=reshard, ignored_params=packed)
    return TorchParallel(module, config, ratio, wrapped=wrapped)


_BUILDERS: dict[type, Callable[[LossModule, TrainingConfig, float | None], Parallel]] = {
    Ddp: _build_ddp,
    Fsdp: _build_fsdp,
    DeepSpeed: DeepSpeedParallel,
}


def describe(distributed: Distributed) -> str:
    """The parallelism in a word, for logs and records."""
    if isinstance(distributed, DeepSpeed):
        return f"deepspeed_zero{distributed.zero_stage}"
    return distributed.type
