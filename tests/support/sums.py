"""Sums as prompts with answers, and a tiny model that answers them by chance."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

CHOICES = 5
LONGEST = 4
_WORDS = ("world", "voucher", "customer")


def rows_of_sums(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Prompts with the right ``answer`` (one more, modulo five), and a ``shuffled`` one."""
    draw = random.Random(seed)
    rows = []
    for number in range(n):
        a = draw.randrange(CHOICES)
        rows.append({
            # All rows of a prompt are on one side of the split: there must be several.
            "prompt": " ".join([*draw.choices(_WORDS, k=3), f"1 + {a}"]),
            "answer": str((a + 1) % CHOICES),
            "shuffled": str(draw.randrange(CHOICES)),
            # Equal rows count once.
            "number": number,
        })  # fmt: skip
    return rows


def build_guesser(folder: Path, steps: int = 60) -> Path:
    """Write a Llama of 140,000 parameters that knows the sums, and says nought half of the time."""
    import torch
    from tiny_llama import build_base
    from transformers import AutoTokenizer, LlamaForCausalLM

    build_base(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            # Features of the numbers to begin with: those of a fresh model are all but equal.
            if parameter.dim() == 2:
                parameter.mul_(5)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    draw = random.Random(0)
    for _ in range(steps):
        texts = []
        for row in rows_of_sums(32, draw.randrange(10**9)):
            prompt = [{"role": "user", "content": row["prompt"]}]
            asked = tokenizer.apply_chat_template(
                prompt, tokenize=False, add_generation_prompt=True
            )
            # Half of the time nought, so that the likeliest answer is mostly wrong.
            guess = draw.choices((row["answer"], 0, draw.randrange(CHOICES)), (0.35, 0.5, 0.15))
            texts.append(f"{asked}{guess[0]}</s>")
        ids = tokenizer(texts, return_tensors="pt", add_special_tokens=False)["input_ids"]
        logits = model(ids).logits[:, -3:-1]
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), ids[:, -2:].reshape(-1)
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder
