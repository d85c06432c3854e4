"""Operations of a model, and peaks of devices by name."""

from __future__ import annotations

import pytest

from sunloom.llm.utilization import count_operations, find_peak


def test_an_adapter_needs_no_gradients_of_frozen_weights() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from sunloom.config.llm import LoraSettings
    from sunloom.llm.models import add_lora

    config = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    # Queries and output, keys and values of half the width, three feed-forward matrices, the head.
    weights = 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48) + 32 * 100
    whole = count_operations(model)
    assert (whole.a_token, whole.a_pair) == (6 * weights, 12 * 3 * 32)
    assert whole.of_rows([5, 7]) == 12 * 6 * weights + (25 + 49) * 12 * 3 * 32
    added = 4 * 3 * (2 * 64 + 2 * (32 + 16) + 3 * (32 + 48))
    adapted = count_operations(add_lora(model, LoraSettings(r=4, alpha=8), 0))
    assert adapted.a_token == 4 * (weights + added) + 2 * added


@pytest.mark.parametrize(
    ("device", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA L40S", "bfloat16", 362e12),
        ("NVIDIA A100-SXM4-80GB", "float32", None),
        ("NVIDIA L40", "bfloat16", None),
        ("cpu", "bfloat16", None),
    ],
)
def test_a_peak_is_known_or_there_is_none(device: str, dtype: str, peak: float | None) -> None:
    assert find_peak(device, dtype) == peak
