from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sunloom.config.llm import LoraSettings
from sunloom.llm.activation_memory import measure_activations
from sunloom.llm.fused_lora import fuse_lora
from sunloom.llm.models import add_lora
from sunloom.llm.optimization import CausalLoss

SHAPE: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip
ROWS, LENGTH, LABELLED = 3, 40, 25


def build(kind: str, lora: LoraSettings | None, *, is_fused: bool) -> Any:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SHAPE))
    if lora is not None:
        model = add_lora(model, lora, 0)
    if is_fused:
        fuse_lora(model)
    return model


def kept_by_autograd(model: Any, dtype: torch.dtype) -> int:
    """Bytes of a real forward pass, without the weights."""
    module = CausalLoss(model, dtype)
    ids = torch.randint(0, 300, (ROWS, LENGTH))
    labels = ids.clone()
    labels[:, : LENGTH - LABELLED] = -100
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    weights |= {b.untyped_storage().data_ptr() for b in model.buffers()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(ids, labels)
    return sum(storage.nbytes() for address, storage in kept.items() if address not in weights)


@pytest.mark.parametrize(
    ("kind", "lora", "is_fused"),
    [
        ("llama", None, False),
        ("llama", LoraSettings(r=4, alpha=8, dropout=0.1), False),
        ("llama", LoraSettings(r=4, alpha=8), True),
        ("qwen2", LoraSettings(r=4, alpha=8), True),
        ("phi3", None, False),
    ],
)
def test_it_is_what_autograd_keeps(kind: str, lora: LoraSettings | None, is_fused: bool) -> None:
    found = kept_by_autograd(build(kind, lora, is_fused=is_fused), torch.float32)
    with torch.device("meta"):
        model = build(kind, lora, is_fused=is_fused)
    planned = measure_activations(model, ROWS, LENGTH, LABELLED, "float32")
    # The ids and the places of labelled tokens are a few kilobytes.
    assert planned == pytest.approx(found, rel=0.01)


def test_bfloat16_keeps_less() -> None:
    with torch.device("meta"):
        model = build("llama", None, is_fused=False)
    narrow = measure_activations(model, ROWS, LENGTH, LABELLED, "bfloat16")
    wide = measure_activations(model, ROWS, LENGTH, LABELLED, "float32")
    # Weights, of which autocast keeps a copy, are as large as the activations here.
    assert narrow < 0.95 * wide
    found = kept_by_autograd(build("llama", None, is_fused=False), torch.bfloat16)
    assert narrow == pytest.approx(found, rel=0.01)
