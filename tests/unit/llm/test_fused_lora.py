from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from sunloom.llm.fused_lora import fuse_lora

SHAPE: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
LAYERS = 14


def adapted(is_biased: bool = False, **lora: Any) -> Any:
    torch.manual_seed(0)
    # Qwen's attention has biases.
    model: Any = (
        Qwen2ForCausalLM(Qwen2Config(**SHAPE))
        if is_biased
        else LlamaForCausalLM(LlamaConfig(**SHAPE))
    )
    options = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear"} | lora
    wrapped = get_peft_model(model, LoraConfig(**options))
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            # Zero at first, which would hide the adapter.
            torch.nn.init.normal_(weight, std=0.3)
    return wrapped


def losses_and_gradients(
    model: Any, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    ids = torch.arange(24).reshape(2, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("is_biased", [False, True])
def test_losses_and_gradients_are_pefts(is_biased: bool) -> None:
    expected_loss, expected = losses_and_gradients(adapted(is_biased))
    model = adapted(is_biased)
    assert fuse_lora(model) == LAYERS
    loss, gradients = losses_and_gradients(model)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=1e-6)
    assert gradients.keys() == expected.keys()
    assert len(gradients) == 2 * LAYERS
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6)


def test_in_bfloat16_they_differ_by_its_rounding() -> None:
    _, exact = losses_and_gradients(adapted())
    _, peft = losses_and_gradients(adapted(), torch.bfloat16)
    model = adapted()
    fuse_lora(model)
    _, ours = losses_and_gradients(model, torch.bfloat16)

    def distance(gradients: dict[str, torch.Tensor]) -> float:
        return sum(float((gradients[name] - exact[name]).norm()) for name in exact)

    assert all(gradient.dtype == torch.float32 for gradient in ours.values())
    # Not further from the exact gradient than PEFT's own.
    assert distance(ours) < 1.1 * distance(peft)


def test_a_model_without_its_adapter_is_the_base() -> None:
    model = adapted()
    fuse_lora(model)
    ids = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        fused = model(input_ids=ids).logits
        with model.disable_adapter():
            without = model(input_ids=ids).logits
        model.merge_adapter()
        merged = model(input_ids=ids).logits
        model.unmerge_adapter()
        base = adapted().unload()(input_ids=ids).logits
    torch.testing.assert_close(without, base)
    torch.testing.assert_close(fused, merged, rtol=1e-5, atol=1e-5)
    assert (fused - without).abs().max() > 0.01


@pytest.mark.parametrize("option", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_what_does_more_is_left_to_peft(option: dict[str, Any]) -> None:
    assert fuse_lora(adapted(**option)) == 0


def test_names_in_the_state_stay() -> None:
    model = adapted()
    before = list(model.state_dict())
    fuse_lora(model)
    assert list(model.state_dict()) == before
