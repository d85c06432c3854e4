"""Estimate of a training run's memory, tokens and time, made without training."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sunloom.config.llm import Ddp, DeepSpeed, LlmRecipe
from sunloom.core.model_registry import open_registry
from sunloom.errors import DataError
from sunloom.llm.base_models import resolve_model
from sunloom.llm.conversation_files import open_conversations
from sunloom.llm.distributed import describe
from sunloom.llm.encoding import encode
from sunloom.llm.models import add_lora, build_llama, load_model, load_tokenizer
from sunloom.llm.optimization import OPTIMIZERS
from sunloom.llm.probe import probe_dtype
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts

_SAMPLE = 300
_BYTES = 4
# Share of the probe's speed that small layers, attention and the optimizer leave (measured).
_EFFICIENCY = {"bfloat16": 0.24, "float32": 0.45}
_START_S = 30.0


@dataclass(frozen=True)
class TrainingPlan:
    """Figures of a run to come.

    Attributes:
        parameters: Of the whole model.
        trained_parameters: That the optimizer changes.
        memory_bytes_per_worker: Weights, gradients, optimizer state and activations.
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
        UsageError: The model cannot be loaded.
    """
    total, trained, length = _measure(recipe)
    training = recipe.training
    tokens = round(length * training.conversations_a_step * training.max_steps)
    probe = probe_dtype()
    named = recipe.model.torch_dtype
    dtype = probe.dtype if named == "auto" else named
    gflops = probe.bfloat16_gflops if dtype == "bfloat16" else probe.float32_gflops
    # Forward 2, backward to activations 2, to weights 2 operations a parameter and token.
    work = tokens * (4 * total + 2 * trained)
    speed = gflops * 1e9 * _EFFICIENCY[dtype] * training.workers
    return TrainingPlan(
        parameters=total,
        trained_parameters=trained,
        memory_bytes_per_worker=_memory(recipe, total, trained, length),
        steps=training.max_steps,
        tokens_per_conversation=round(length, 1),
        tokens=tokens,
        seconds=round(_START_S + work / speed, 1),
        dtype=dtype,
        workers=training.workers,
        parallelism=describe(training.distributed),
    )


def _measure(recipe: LlmRecipe) -> tuple[int, int, float]:
    """Parameters, trained parameters and mean tokens of a conversation."""
    samples = open_conversations(recipe.data).train(_SAMPLE, recipe.seed)[:_SAMPLE]
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
        model = load_model(location, recipe.model)
    total = sum(p.numel() for p in model.parameters())
    if recipe.is_adapter:
        model = add_lora(model, recipe.lora, recipe.seed)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rows = encode(tokenizer, samples, recipe.data.max_length)
    if not rows:
        raise DataError("There is no conversation to learn from.", param="data")
    return total, trained, sum(len(row.ids) for row in rows) / len(rows)


def _memory(recipe: LlmRecipe, total: int, trained: int, length: float) -> int:
    """Bytes a worker holds: what is sharded is divided by the number of workers."""
    training, shape = recipe.training, recipe.model.architecture
    kind, workers = training.distributed, training.workers
    sharded = 1 if isinstance(kind, Ddp) else workers
    whole_weights = isinstance(kind, Ddp) or (isinstance(kind, DeepSpeed) and kind.zero_stage == 2)
    weights = total * _BYTES // (1 if whole_weights else workers)
    # One gradient, and what the optimizer keeps beside it.
    values = 1 + OPTIMIZERS[training.optimizer].moments
    state = values * trained * _BYTES // sharded
    # About 30 values a token, layer and unit of width stay until the backward pass.
    activations = round(
        training.batch_size * length * shape.layers * shape.hidden_size * 30 * _BYTES
    )
    return weights + state + activations
