"""Model FLOPs utilization (MFU): the operations that training needs, over those that a device has.

Counted as in the PaLM paper's appendix B: matrix products and attention, without what is computed
again and without causal masks; for an adapter, without the gradients of frozen weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

_BF16_PEAKS: Mapping[str, float] = {
    "A10": 125e12,
    "A100": 312e12,
    "B200": 2250e12,
    "H100": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H200": 989e12,
    "L4": 121e12,
    "L40S": 362e12,
}
"""Operations a second in bfloat16, dense, by their makers' data sheets."""


@dataclass(frozen=True)
class ModelOperations:
    """Operations of forward and backward pass of a dense model.

    Attributes:
        a_token: Of the matrix products with weights.
        a_pair: Of attention, for each pair of tokens of a row.
    """

    a_token: int
    a_pair: int

    def of_rows(self, lengths: Iterable[int]) -> int:
        """Operations of rows of these lengths in tokens."""
        return sum(self.a_token * length + self.a_pair * length**2 for length in lengths)


def count_operations(model: Any) -> ModelOperations:
    """What a model needs for each token and pair of tokens.

    Args:
        model: A causal language model, adapter included, before it is spread over workers.
    """
    weights = trained = 0
    for part in model.modules():
        # Not one that it passes on: PEFT's layers give that of the layer inside.
        weight = part._parameters.get("weight")
        if isinstance(part, nn.Linear):
            # Not the weight's own size: one in 4 bits is packed.
            size = part.in_features * part.out_features
        elif weight is None or weight.dim() != 2 or isinstance(part, nn.Embedding):
            # Embeddings are looked up.
            continue
        else:
            size = weight.numel()
        weights += size
        trained += size if weight.requires_grad else 0
    config = model.config
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    # Twice a product of queries and keys, and one with the values; the backward pass twice that.
    return ModelOperations(
        4 * weights + 2 * trained, 12 * config.num_hidden_layers * heads * head_size
    )


def find_peak(device: str, dtype: str) -> float | None:
    """Operations a second of a device; None where they are not known.

    Args:
        device: Name of a GPU, such as ``NVIDIA H100 80GB HBM3``.
        dtype: Number format of the matrix products.
    """
    words = device.replace("-", " ").split()
    known = [name for name in _BF16_PEAKS if set(name.split()) <= set(words)]
    return _BF16_PEAKS[max(known, key=len)] if known and dtype == "bfloat16" else None
