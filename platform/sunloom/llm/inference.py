"""Batched greedy generation in process; serving is vLLM's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Generate = Callable[[Sequence[str]], list[str]]
"""Prompts to completions, in order."""


def greedy(
    model: Any, tokenizer: Any, *, max_new_tokens: int = 96, batch_size: int = 64
) -> Generate:
    """A function that continues prompts greedily.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        max_new_tokens: Longest continuation.
        batch_size: Prompts a batch; batches are of like length.
    """

    def generate(prompts: Sequence[str]) -> list[str]:
        outputs = [""] * len(prompts)
        # By characters, which is close enough to tokens and needs no second tokenization.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            texts = _continue(model, tokenizer, [prompts[i] for i in chosen], max_new_tokens)
            for index, text in zip(chosen, texts, strict=True):
                outputs[index] = text
        return outputs

    return generate


def _continue(model: Any, tokenizer: Any, prompts: list[str], max_new_tokens: int) -> list[str]:
    import torch

    # Padded on the left: generation continues every prompt at the last column.
    batch = tokenizer(
        prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    ).to(model.device)
    with torch.inference_mode():
        out = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
    width = batch["input_ids"].shape[1]
    texts: list[str] = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
    return texts
