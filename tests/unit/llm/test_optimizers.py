"""Schedules, groups of parameters, optimizers, smoothing and noise, in numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sunloom.config.llm import TrainingConfig
from sunloom.core import plugins
from sunloom.errors import PluginError
from sunloom.llm.encoding import Encoded
from sunloom.llm.evaluation import mean_loss, measure_loss
from sunloom.llm.optimization import CausalLoss, learning_rate
from sunloom.llm.optimizers import (
    OPTIMIZER_GROUP,
    build_optimizer,
    mark_vocabulary,
    parameter_groups,
)


def _config(**options: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"distributed": {"type": "ddp"}, **options})


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        # Two steps of warm-up, then eight.
        ({"type": "constant"}, [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ({"type": "linear"}, [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ({"type": "linear", "min_ratio": 0.5}, [0.5, 1, *(1 - n / 16 for n in range(8))]),
        ({"type": "wsd", "decay_ratio": 0.4}, [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
        (
            {"type": "cosine", "min_ratio": 0.1},
            [0.5, 1, *(0.1 + 0.45 * (1 + math.cos(math.pi * n / 8)) for n in range(8))],
        ),
    ],
)
def test_a_schedule_has_these_rates(schedule: dict[str, Any], rates: list[float]) -> None:
    config = _config(max_steps=10, warmup_ratio=0.2, learning_rate=2.0, schedule=schedule)
    found = [learning_rate(step, config) / 2 for step in range(10)]
    assert found == pytest.approx(rates, abs=1e-12)


class _Small(nn.Module):
    """The parts of a language model that an optimizer tells apart."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(7, 4)
        self.layer = nn.Linear(4, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 7, bias=False)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.layer(self.embed(ids))))


def _train(model: _Small, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        ids = torch.randint(0, 7, (5,), generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(model(ids), (ids + 1) % 7)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def _prepare(**options: Any) -> tuple[_Small, torch.optim.Optimizer]:
    model = _Small()
    mark_vocabulary(model)
    config = _config(**options)
    return model, build_optimizer(parameter_groups(model.named_parameters(), config), config)


def test_a_parameter_has_the_weight_decay_of_the_first_group_that_matches() -> None:
    groups = [{"match": "^norm", "weight_decay": 0}, {"match": "norm|bias", "weight_decay": 0.5}]
    model = _Small()
    model.head.weight.requires_grad_(False)
    config = _config(weight_decay=0.1, weight_decay_groups=groups)
    found = parameter_groups(model.named_parameters(), config)
    sizes = {g["weight_decay"]: [tuple(p.shape) for p in g["params"]] for g in found}
    assert sizes == {0.1: [(7, 4), (6, 4)], 0.5: [(6,)], 0: [(6,), (6,)]}


def test_second_matrices_of_an_adapter_have_a_rate_of_their_own() -> None:
    named = [
        (f"layers.0.lora_{letter}.default.weight", nn.Parameter(torch.ones(1))) for letter in "AB"
    ]
    plain = parameter_groups(named, _config())
    assert [(len(g["params"]), "rate_scale" in g) for g in plain] == [(2, False)]
    scaled = parameter_groups(named, _config(), loraplus_ratio=16)
    assert [g.get("rate_scale") for g in scaled] == [None, 16]
    assert scaled[1]["params"] == [named[1][1]]


def test_lion_takes_the_sign_of_gradient_and_moment() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    config = _config(optimizer={"type": "lion"}, learning_rate=0.1, betas=(0.9, 0.99))
    optimizer = build_optimizer([{"params": [weight], "weight_decay": 0.5}], config)
    expected, moment = np.array([1.0, -2.0, 0.5]), np.zeros(3)
    for gradient in ([1.0, -4.0, 0.0], [-0.05, 3.0, 2.0], [-5.0, 0.1, -0.1]):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        update = np.sign(0.9 * moment + 0.1 * np.array(gradient))
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * update
        moment = 0.99 * moment + 0.01 * np.array(gradient)
        assert weight.detach().numpy() == pytest.approx(expected, abs=1e-6)


def test_muon_has_the_matrices_and_adamw_the_rest() -> None:
    options = {"learning_rate": 0.02, "betas": (0.9, 0.95), "weight_decay": 0.1}
    model, optimizer = _prepare(optimizer={"type": "muon", "momentum": 0.9}, **options)
    twin = _Small()
    muon = torch.optim.Muon(
        [twin.layer.weight],
        lr=0.02,
        momentum=0.9,
        weight_decay=0.1,
        adjust_lr_fn="match_rms_adamw",
    )
    others = [p for p in twin.parameters() if p is not twin.layer.weight]
    adamw = torch.optim.AdamW(others, lr=0.02, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(4):
        _train(model, optimizer, range(step, step + 1))
        ids = torch.randint(0, 7, (5,), generator=torch.Generator().manual_seed(step))
        nn.functional.cross_entropy(twin(ids), (ids + 1) % 7).backward()
        for part in (muon, adamw):
            part.step()
            part.zero_grad()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit", "lion", "muon", "adafactor"])
def test_an_optimizer_learns_and_its_state_goes_on(kind: str) -> None:
    options = {"optimizer": {"type": kind}, "learning_rate": 0.02, "weight_decay": 0.0}
    model, optimizer = _prepare(**options)
    losses = _train(model, optimizer, range(60))
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    first, first_optimizer = _prepare(**options)
    _train(first, first_optimizer, range(30))
    second, second_optimizer = _prepare(**options)
    second.load_state_dict(first.state_dict())
    second_optimizer.load_state_dict(first_optimizer.state_dict())
    assert _train(second, second_optimizer, range(30, 60)) == losses[30:]


def test_an_optimizer_of_ones_own_comes_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {
        "sgd": torch.optim.SGD,
        "none": lambda groups, **options: (groups, options),
    }
    monkeypatch.setattr(
        "sunloom.llm.optimizers.load_plugin",
        lambda group, name: made[name] if group == OPTIMIZER_GROUP else None,
    )
    assert OPTIMIZER_GROUP in plugins.GROUPS
    options = {"type": "plugin", "name": "sgd", "options": {"lr": 0.5, "momentum": 0.9}}
    _, optimizer = _prepare(optimizer=options)
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["momentum"] == 0.9
    with pytest.raises(PluginError, match=r"made a tuple, not a torch\.optim\.Optimizer"):
        _prepare(optimizer={"type": "plugin", "name": "none"})


def _tiny_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=11, num_attention_heads=2, num_key_value_heads=2, **sizes)
    )


def test_smoothing_spreads_the_target_in_training_only() -> None:
    model = _tiny_llama()
    ids = torch.tensor([[1, 2, 3, 4]])
    labels = torch.tensor([[-100, 2, 3, 4]])
    logs = model(ids).logits[0, :3].log_softmax(-1)
    hard = -(logs[0, 2] + logs[1, 3] + logs[2, 4])
    smooth = 0.9 * hard - 0.1 * logs.mean(-1).sum()
    loss = CausalLoss(model, torch.float32, label_smoothing=0.1)
    assert loss.train()(ids, labels).item() == pytest.approx(smooth.item(), rel=1e-5)
    assert loss.eval()(ids, labels).item() == pytest.approx(hard.item(), rel=1e-5)


def test_losses_of_rows_are_those_of_each_alone_and_sum_to_the_batchs() -> None:
    module = CausalLoss(_tiny_llama(), torch.float32).eval()
    rows = [
        ([1, 2, 3, 4], [0, 1, 1, 1]),
        ([5, 6, 0, 0], [0, 1, 0, 0]),
        ([7, 8, 9, 0], [0, 0, 1, 0]),
    ]
    ids = torch.tensor([row for row, _ in rows])
    labels = torch.where(torch.tensor([mask for _, mask in rows]) == 1, ids, -100)
    losses = module.row_losses(ids, labels)
    alone = [module(ids[n : n + 1], labels[n : n + 1]).item() for n in range(3)]
    assert losses.tolist() == pytest.approx(alone, rel=1e-5)
    assert losses.sum().item() == pytest.approx(module(ids, labels).item(), rel=1e-5)
    encoded = [Encoded(np.array(row, np.int32), np.array(mask, bool)) for row, mask in rows]
    # By tokens, and in the rows' own order whatever their lengths.
    measured = measure_loss(module.model, encoded, 0)
    assert measured is not None
    assert measured.values == pytest.approx([alone[0] / 3, alone[1], alone[2]], rel=1e-5)
    assert measured.weights == (3, 1, 1)
    assert mean_loss(module.model, encoded, 0) == pytest.approx(sum(alone) / 5, rel=1e-5)


def test_noise_on_the_embeddings_has_its_size_and_is_no_part_of_judging() -> None:
    model = _tiny_llama()
    plain = model.get_input_embeddings()(torch.zeros(2, 100, dtype=torch.long))
    CausalLoss(model, torch.float32, neftune_alpha=8)
    embeddings = model.get_input_embeddings()
    noise = (embeddings.train()(torch.zeros(2, 100, dtype=torch.long)) - plain).detach()
    most = 8 / math.sqrt(100 * 16)
    assert 0.95 * most < noise.abs().max() <= most + 1e-6
    # A uniform distribution's deviation.
    assert noise.std().item() == pytest.approx(most / math.sqrt(3), rel=0.05)
    assert torch.equal(embeddings.eval()(torch.zeros(2, 100, dtype=torch.long)), plain)
