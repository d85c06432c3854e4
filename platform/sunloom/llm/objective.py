"""The training objective as one module, so that every kind of parallelism wraps the same thing."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sunloom.llm.encoding import IGNORED


class CausalLoss(nn.Module):
    """Next-token loss of a causal language model, with logits only where the loss is.

    Args:
        model: A causal language model, with or without an adapter.
        dtype: Number format of the matrix products.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self._dtype = dtype

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Summed loss over the labelled tokens.

        Args:
            ids: Token ids ``[B, S]``, padded on the right: under a causal mask no real token
                sees the padding, so no attention mask is needed.
            labels: ``[B, S]``, ``IGNORED`` where there is no loss.
        """
        core: Any = (
            self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        )
        targets = labels[:, 1:]
        keep = targets != IGNORED
        enabled = self._dtype != torch.float32
        with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=enabled):
            hidden = core.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
            # Logits of every position would be the largest tensor of a step, mostly for prompt
            # tokens.
            logits = core.get_output_embeddings()(hidden[:, :-1][keep])
        # In float32, as bfloat16 has 8 bits for a log-sum-exp. Summed: a mean would be over this
        # worker's tokens only, whose number differs.
        return nn.functional.cross_entropy(logits.float(), targets[keep], reduction="sum")
