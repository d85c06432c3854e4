"""Bytes that a forward pass keeps for the backward pass, counted without weights and without data.

The model runs on tensors of shapes alone, and each tensor that autograd keeps is counted once: so
any architecture, adapter or fused layer counts as what it is, and no rule of thumb is needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sunloom.llm.optimization import core_of
from sunloom.llm.packing import use_packed_attention


def measure_activations(model: Any, rows: int, length: int, labelled: int, dtype: str) -> int:
    """Bytes kept by one pass of training.

    Args:
        model: A causal language model on the device ``meta``, with or without an adapter.
        rows: Of the pass.
        length: Tokens of each.
        labelled: Tokens of each that have a loss.
        dtype: Number format of the matrix products.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    core = core_of(model)
    layout = {}
    if core._supports_attention_backend:
        # Without data ``transformers`` does not see that there is no padding, and makes a mask.
        use_packed_attention(core)
        layout = {"attention_mask": torch.zeros(1, 1, 1, 1), "row_lengths": [length]}
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def pretend(tensor: torch.Tensor) -> torch.Tensor:
        # On the CPU: for the device "meta" attention would choose another kernel.
        fake = mode.fake_tensor_converter.from_meta_and_device(
            mode, tensor.detach().to("meta"), torch.device("cpu")
        )
        return fake.requires_grad_(tensor.requires_grad)

    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # The storage itself is kept: another one could get the address of one that is gone.
        kept.setdefault(storage._cdata, storage)
        return tensor

    with mode, torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        named = [*core.named_parameters(), *core.named_buffers()]
        own = {f"_core.{name}": pretend(tensor) for name, tensor in named}
        weights = {tensor.untyped_storage()._cdata for tensor in own.values()}
        ids = torch.zeros(rows, length, dtype=torch.long)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            torch.func.functional_call(_Loss(core), own, (ids, labelled, layout))
    return sum(storage.nbytes() for address, storage in kept.items() if address not in weights)


class _Loss(nn.Module):
    """The loss of ``CausalLoss`` of a known number of tokens: what a mask chooses has no shape."""

    def __init__(self, core: Any) -> None:
        super().__init__()
        self._core = core

    def forward(self, ids: torch.Tensor, labelled: int, layout: dict[str, Any]) -> torch.Tensor:
        decoder = self._core.get_decoder()
        hidden = decoder(input_ids=ids, use_cache=False, **layout).last_hidden_state
        logits = self._core.get_output_embeddings()(hidden[:, :labelled]).float()
        targets = ids[:, :labelled].flatten()
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets, reduction="sum")
