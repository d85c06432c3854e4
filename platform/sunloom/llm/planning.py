"""Estimate of a training run's memory, tokens and time, made without training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sunloom.config.llm import Ddp, DeepSpeed, LlmRecipe, TrainingConfig
from sunloom.core.model_registry import open_registry
from sunloom.errors import DataError
from sunloom.llm.activation_memory import measure_activations
from sunloom.llm.base_models import require_start, resolve_model
from sunloom.llm.conversation_files import FileConversations, open_conversations
from sunloom.llm.distributed import describe
from sunloom.llm.encoding import encode
from sunloom.llm.fused_lora import fuse_lora
from sunloom.llm.launch import count_steps
from sunloom.llm.loop import limit_passes
from sunloom.llm.models import (
    add_lora,
    build_llama,
    build_without_weights,
    load_tokenizer,
    require_modules,
)
from sunloom.llm.objectives import OBJECTIVES
from sunloom.llm.optimizers import OPTIMIZERS
from sunloom.llm.overlaps import handle_overlaps
from sunloom.llm.probe import probe_dtype
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts

_SAMPLE = 300
_BYTES = 4
_BYTES_IN_4_BITS = 0.516
# Python, torch, transformers and Ray in a worker, before it has a model.
_PROCESS_BYTES = 550_000_000
# What glibc's heap takes for tensors that come and go, over what they have (measured: 1.9 to 2.2).
# With a mapping for each tensor it is 1.0, and training is 28 % slower.
_HEAP = 2.0
# Share of the probe's speed that small layers, attention and the optimizer leave (measured).
_EFFICIENCY = {"bfloat16": 0.24, "float32": 0.45}
_START_S = 30.0


@dataclass(frozen=True)
class TrainingPlan:
    """Figures of a run to come.

    Where completions are drawn (``objective.type: grpo``), they are taken to be as long as they may
    be, and the engines that draw them, a process each with the whole model, are not counted.

    Attributes:
        parameters: Of the whole model.
        trained_parameters: That the optimizer changes.
        memory_bytes_per_worker: Of the GPU, or of the process where there is none.
        memory_parts: What of it is which, bytes: ``weights``, ``optimizer`` (gradients and what the
            optimizer keeps), ``activations`` of one pass; without a GPU ``checkpoint`` (the copy
            that one is written from) and ``process`` (the libraries).
        steps: Optimizer steps.
        tokens_per_conversation: Mean of a sample.
        tokens: Over the whole run.
        seconds: Estimate, start of the workers included.
        dtype: What the probe chose on this machine.
        workers: Ray Train workers.
        parallelism: ``ddp``, ``fsdp``, ``deepspeed_zero2`` or ``deepspeed_zero3``.
    """

    parameters: int
    trained_parameters: int
    memory_bytes_per_worker: int
    memory_parts: dict[str, int]
    steps: int
    tokens_per_conversation: float
    tokens: int
    seconds: float
    dtype: str
    workers: int
    parallelism: str


def plan_training(recipe: LlmRecipe) -> TrainingPlan:
    """Memory per worker, steps, tokens and time of a recipe, without training.

    Args:
        recipe: What would be trained.

    Raises:
        NotFoundError: ``model.base_model`` names nothing.
        UsageError: The model cannot be loaded, or an adapter has no base.
    """
    require_start(recipe)
    shape = _measure(recipe)
    recipe = count_steps(recipe, shape.rows)
    training = recipe.training
    tokens = round(shape.mean_length * training.conversations_a_step * training.max_steps)
    probe = probe_dtype()
    named = recipe.model.torch_dtype
    dtype = probe.dtype if named == "auto" else named
    gflops = probe.bfloat16_gflops if dtype == "bfloat16" else probe.float32_gflops
    # Forward 2, backward to activations 2, to weights 2 operations a parameter and token.
    work = tokens * (4 * shape.parameters + 2 * shape.trained)
    if OBJECTIVES[type(training.objective)].needs_reference:
        # Each row once, before the first step.
        work += round(shape.mean_length * shape.rows) * 2 * shape.parameters
    speed = gflops * 1e9 * _EFFICIENCY[dtype] * training.workers
    memory = _memory(training, shape, dtype)
    return TrainingPlan(
        parameters=shape.parameters,
        trained_parameters=shape.trained,
        memory_bytes_per_worker=sum(memory.values()),
        memory_parts=memory,
        steps=training.max_steps,
        tokens_per_conversation=round(shape.mean_length, 1),
        tokens=tokens,
        seconds=round(_START_S + work / speed, 1),
        dtype=dtype,
        workers=training.workers,
        parallelism=describe(training.distributed),
    )


@dataclass(frozen=True)
class _Shape:
    """What is trained, in numbers.

    Attributes:
        parameters: Of the whole model.
        trained: Of these, those that the optimizer changes.
        added: Beside these, by an adapter.
        in_4_bits: Of the whole model's, those that a quantised base holds in 4 bits.
        model: Without weights.
        lengths: Of a sample of the conversations in tokens.
        labelled: Share of their tokens that have a loss.
        rows: Conversations of a pass over files; of a plugin's sample.
    """

    parameters: int
    trained: int
    added: int
    in_4_bits: int
    model: Any
    lengths: list[int]
    labelled: float
    rows: int

    @property
    def mean_length(self) -> float:
        return sum(self.lengths) / len(self.lengths)


def _measure(recipe: LlmRecipe) -> _Shape:
    source = open_conversations(recipe)
    if isinstance(source, FileConversations):
        handle_overlaps(recipe, source)
        order = source.train_order(recipe.seed)
        samples, passes = source.load(order[:_SAMPLE]), len(order)
    else:
        samples = source.train(_SAMPLE, recipe.seed)[:_SAMPLE]
        passes = len(samples)
    shape = recipe.model.architecture
    if recipe.model.base_model is None:
        texts = conversation_texts(samples)
        tokenizer = build_tokenizer(texts, shape.vocabulary, shape.max_length)
        plain = shape.model_copy(update={"copying_circuit": False})
        # Shapes without data: counting needs no memory, and a circuit cannot be written.
        with torch.device("meta"):
            model = build_llama(plain, tokenizer, recipe.seed)
    else:
        location, _ = resolve_model(recipe.model, open_registry(recipe))
        tokenizer = load_tokenizer(location, recipe.model)
        model = build_without_weights(location, recipe.model)
    total = sum(p.numel() for p in model.parameters())
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    packed = sum(m.weight.numel() for m in linear) if recipe.training.method == "qlora" else 0
    if recipe.is_adapter:
        require_modules(model, recipe.lora, is_quantised=recipe.training.method == "qlora")
        model = add_lora(model, recipe.lora, recipe.seed)
        if isinstance(recipe.training.distributed, Ddp):
            # As the workers do: it keeps less.
            fuse_lora(model)
    rows = encode(tokenizer, samples, recipe.longest_row)
    if not rows:
        raise DataError("There is no conversation to learn from.", param="data")
    # As long as they may be: how long they will be is not known.
    drawn = recipe.data.max_length - recipe.longest_row
    lengths = [len(row.ids) + drawn for row in rows]
    return _Shape(
        parameters=total,
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        added=sum(p.numel() for p in model.parameters()) - total,
        in_4_bits=packed,
        model=model,
        lengths=lengths,
        labelled=sum(int(row.mask.sum()) + drawn for row in rows) / sum(lengths),
        rows=passes,
    )


def _memory(training: TrainingConfig, shape: _Shape, dtype: str) -> dict[str, int]:
    """Bytes a worker holds, by part: what is sharded is divided by the number of workers."""
    kind, workers = training.distributed, training.workers
    sharded = 1 if isinstance(kind, Ddp) else workers
    whole_weights = isinstance(kind, Ddp) or (isinstance(kind, DeepSpeed) and kind.zero_stage == 2)
    plain = shape.parameters + shape.added - shape.in_4_bits
    weights = plain * _BYTES // (1 if whole_weights else workers)
    # Half a byte each, and the scales of their blocks of 64.
    packed = round(shape.in_4_bits * _BYTES_IN_4_BITS)
    # One gradient, and what the optimizer keeps beside it.
    values = _BYTES + OPTIMIZERS[type(training.optimizer)].state_bytes
    state = round(values * shape.trained / sharded)
    # The longest ones are in one batch, and decide.
    rows, longest = training.batch_size, max(shape.lengths)
    if (limit := limit_passes(training)) is not None:
        rows = max(1, min(rows, limit // longest))
    labelled = max(1, round(shape.labelled * (longest - 1)))
    activations = measure_activations(shape.model, rows, longest, labelled, dtype)
    parts = {"weights": weights + packed, "optimizer": state, "activations": activations}
    if not training.use_gpu:
        # Trained weights and what the optimizer keeps, as large as gradients and that.
        copied = 0 if isinstance(kind, DeepSpeed) else state
        parts |= {"checkpoint": copied, "process": _PROCESS_BYTES}
        parts["activations"] = round(_HEAP * activations)
    return parts
