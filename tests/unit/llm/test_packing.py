from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from sunloom.config.llm import Ddp, TrainingConfig
from sunloom.errors import UsageError
from sunloom.llm.encoding import Encoded
from sunloom.llm.loop import plan_passes, split_by_tokens
from sunloom.llm.optimization import CausalLoss, LossModule
from sunloom.llm.packing import require_packing, use_packed_attention

SHAPE = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "qwen2": {},
    "qwen3": {},
    "phi3": {},
    "olmo2": {},
    "granite": {},
    "smollm3": {},
    "gemma3_text": {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    "cohere2": {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
}


def build(kind: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SHAPE, **MODELS[kind])
    return AutoModelForCausalLM.from_config(config)


def make_rows(lengths: Sequence[int]) -> list[Encoded]:
    drawn = np.random.default_rng(0)
    # Their first token is labelled, too: nothing in the row may predict it.
    masks = [np.arange(length) % 3 != 1 for length in lengths]
    return [Encoded(drawn.integers(1, 64, len(m)).astype(np.int32), m) for m in masks]


def gradients(module: LossModule, rows: Sequence[Encoded]) -> tuple[float, list[torch.Tensor]]:
    loss = module(*module.collate(rows, 0))
    loss.backward()
    return loss.item(), [p.grad for p in module.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", MODELS)
def test_a_packed_batch_has_the_loss_and_gradient_of_its_rows(kind: str) -> None:
    rows = make_rows([12, 3, 7, 1, 9])
    alone = CausalLoss(build(kind), torch.float32)
    losses = sum(alone(*alone.collate([row], 0)).item() for row in rows)
    _, expected = gradients(alone, rows)
    model = build(kind)
    require_packing(model)
    packed = CausalLoss(model, torch.float32, is_packed=True)
    loss, found = gradients(packed, rows)
    assert loss == pytest.approx(losses, rel=1e-5)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_packed_row_does_not_see_its_neighbours() -> None:
    packed = CausalLoss(build("llama"), torch.float32, is_packed=True)
    first, second, third = make_rows([6, 8, 5])
    with torch.no_grad():
        whole = packed(*packed.collate([first, second, third], 0))
        changed = Encoded((second.ids % 63 + 1).astype(np.int32), second.mask)
        both = [packed(*packed.collate([first, row, third], 0)) for row in (second, changed)]
        alone = [packed(*packed.collate([row], 0)) for row in (second, changed)]
    assert both[0] == whole
    assert (both[1] - both[0]).item() == pytest.approx((alone[1] - alone[0]).item(), abs=1e-4)


def test_what_is_not_packed_computes_as_before() -> None:
    model, packed = build("llama").eval(), build("llama").eval()
    use_packed_attention(packed)
    ids = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
    mask = (ids > 0).long()
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": mask, "pad_token_id": 0}
    assert torch.equal(packed.generate(ids, **options), model.generate(ids, **options))


def test_noise_has_the_size_of_each_rows_own_length() -> None:
    model = build("llama")
    packed = CausalLoss(model, torch.float32, neftune_alpha=5.0, is_packed=True)
    seen: list[torch.Tensor] = []
    model.get_input_embeddings().register_forward_hook(lambda *call: seen.append(call[2]))
    rows = make_rows([4, 40])
    with torch.no_grad():
        packed.train()(*packed.collate(rows, 0))
        packed.eval()(*packed.collate(rows, 0))
    noise = (seen[0] - seen[1])[0].abs()
    for part, length in ((noise[:4], 4), (noise[4:], 40)):
        most = 5 / (length * 32) ** 0.5
        assert 0.9 * most < part.max() <= most * 1.0001


@pytest.mark.parametrize("kind", ["gemma2", "gpt_oss", "bloom", "jamba"])
def test_models_that_do_more_than_attend_are_refused(kind: str) -> None:
    config = AutoConfig.for_model(kind)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UsageError, match="cannot be packed") as caught:
        require_packing(model)
    assert caught.value.param == "training.packing"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 50), max_size=40),
    st.integers(1, 120) | st.none(),
    st.booleans(),
)
def test_runs_hold_every_row_once_and_no_more_tokens_than_the_limit(
    lengths: list[int], limit: int | None, is_packed: bool
) -> None:
    rows = make_rows(lengths)
    runs = split_by_tokens(rows, limit, is_packed=is_packed)
    assert sorted(id(row) for run in runs for row in run) == sorted(map(id, rows))
    for run in runs:
        sizes = [len(row.ids) for row in run]
        tokens = sum(sizes) if is_packed else len(sizes) * max(sizes, default=0)
        assert limit is None or tokens <= limit or len(run) == 1
    # As few as a greedy run can make of sorted rows: no two neighbours fit into one.
    if limit is not None:
        for first, second in pairwise(runs):
            joined = [len(row.ids) for row in (*first, second[0])]
            tokens = sum(joined) if is_packed else len(joined) * max(joined)
            assert tokens > limit


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=24), st.integers(1, 4))
def test_workers_have_as_many_passes_and_the_rows_of_the_step(
    lengths: list[int], workers: int
) -> None:
    rows = make_rows(lengths)
    config = TrainingConfig(
        workers=workers, gradient_accumulation_steps=2, distributed=Ddp(), pass_tokens=60
    )
    plans = [
        plan_passes(rows, config, rank=rank, workers=workers, limit=60) for rank in range(workers)
    ]
    assert len({len(plan) for plan in plans}) == 1
    found = [id(row) for plan in plans for one in plan for row in one.rows]
    assert sorted(found) == sorted(map(id, rows))
    places = [one.place for plan in plans for one in plan]
    assert len(places) == len(set(places))
