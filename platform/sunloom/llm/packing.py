"""Conversations laid end to end in one sequence: no padding, and attention within each alone.

Elsewhere packing builds a mask of all pairs of tokens, or leaves one conversation to see another.
Here attention runs for each conversation on its own part of the sequence, which needs no mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sunloom.errors import UsageError
from sunloom.llm.encoding import IGNORED, Encoded

ATTENTION = "sunloom_packed"
"""Name among the implementations of attention of ``transformers``."""
_LAYERS = {"full_attention", "sliding_attention"}


def require_packing(model: Any) -> None:
    """Refuse a model whose conversations would see each other in one sequence.

    Args:
        model: A causal language model; its weights are not needed.

    Raises:
        UsageError: Its layers do more than causal attention, or do not take another one.
    """
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ())
    if not model._supports_attention_backend:
        reason = "has an attention of its own"
    elif layers - _LAYERS:
        reason = f"has layers of {', '.join(sorted(layers - _LAYERS))}"
    elif getattr(config, "attn_logit_softcapping", None) or "gpt_oss" in config.model_type:
        reason = "does more to the logits of attention than a softmax"
    else:
        return
    raise UsageError(
        f"Conversations cannot be packed for {type(model).__name__}: it {reason}.",
        "Leave training.packing false: batches of like length have little padding.",
        "training.packing",
    )


def use_packed_attention(model: Any) -> None:
    """Let a model take packed sequences; whatever else it is given, it computes as before."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, _attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)


def pack(rows: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows end to end.

    Returns:
        Token ids ``[1, T]``; labels ``[1, T]``, ``IGNORED`` where there is no loss and at the first
        token of each row, which no token of it predicts; lengths of the rows ``[N]``.
    """
    labels = [np.where(row.mask, row.ids, IGNORED) for row in rows]
    for row in labels:
        row[0] = IGNORED
    ids = np.concatenate([row.ids for row in rows]).astype(np.int64)
    return (
        torch.from_numpy(ids)[None],
        torch.from_numpy(np.concatenate(labels).astype(np.int64))[None],
        torch.tensor([len(row.ids) for row in rows]),
    )


def layout_of(lengths: torch.Tensor) -> Mapping[str, Any]:
    """Arguments of the model that say where rows begin.

    Args:
        lengths: Of the rows ``[N]``.
    """
    rows = lengths.tolist()
    positions = torch.cat([torch.arange(length, device=lengths.device) for length in rows])
    # A mask of four dimensions is taken as it is: none is computed, which no layer would read.
    unread = torch.zeros(1, 1, 1, 1, device=lengths.device)
    return {"position_ids": positions[None], "attention_mask": unread, "row_lengths": rows}


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """``transformers``' scaled dot product attention, of each row on its own where rows are packed.

    Args:
        module: The layer.
        query: ``[B, H, S, D]``; of packed rows B is 1.
        key: ``[B, G, S, D]``.
        value: ``[B, G, S, D]``.
        attention_mask: Of what is not packed.
        options: Scale, dropout, window; ``row_lengths`` of packed rows.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward as attend

    lengths = options.pop("row_lengths", None)
    if lengths is None:
        if attention_mask is not None and attention_mask.numel() == 1 < query.shape[2]:
            # Conversations would see each other.
            raise UsageError(
                f"{type(module).__name__} does not learn which rows are packed.",
                "Leave training.packing false.",
                "training.packing",
            )
        plain: tuple[torch.Tensor, None] = attend(
            module, query, key, value, attention_mask, **options
        )
        return plain
    window = options.get("sliding_window")
    parts = [part.split(lengths, dim=2) for part in (query, key, value)]
    rows = [
        attend(module, q, k, v, _window_mask(q, window), **options)[0]
        for q, k, v in zip(*parts, strict=True)
    ]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1), None


def _window_mask(query: torch.Tensor, window: int | None) -> torch.Tensor | None:
    """What a row longer than the window may see; None: all before it."""
    length = query.shape[2]
    if window is None or length <= window:
        return None
    seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    return seen.triu(1 - window)[None, None]
