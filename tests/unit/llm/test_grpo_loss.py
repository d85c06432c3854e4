"""The loss of rollouts: TRL's on the same tokens, with its advantages and its corrections."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sunloom.config.llm import Architecture, Grpo
from sunloom.llm.conversations import GenericConversations
from sunloom.llm.encoding import encode
from sunloom.llm.feedback_formats import read_row
from sunloom.llm.grpo_loss import GrpoLoss, Rollout, group_advantages, hold_weights
from sunloom.llm.models import build_llama
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts

pytestmark = [
    # TRL's and transformers' own deprecations.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
SHAPE = Architecture(hidden_size=48, layers=2, heads=3, intermediate_size=64, max_length=512)
QUESTIONS = ("How tall is a house?", "Where?")
GROUP, LONGEST = 4, 12


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(conversation_texts(GenericConversations().train(60, 0)), 400, 512)


def moved(tokenizer: Any, size: float) -> Any:
    model = build_llama(SHAPE, tokenizer, 0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
    return model


@pytest.fixture(autouse=True)
def _no_warnings_of_others() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def completions_of(tokenizer: Any) -> tuple[list[list[int]], list[list[float]], list[float]]:
    """Tokens, the engine's log-probabilities and rewards of two groups; the second's are equal."""
    draw = np.random.default_rng(0)
    ids = [
        [*draw.integers(3, 390, int(n)).tolist(), tokenizer.eos_token_id]
        for n in draw.integers(1, LONGEST - 1, len(QUESTIONS) * GROUP)
    ]
    behaviour = [draw.normal(-6, 1, len(one)).tolist() for one in ids]
    return ids, behaviour, [0.0, 1.0, 0.5, 0.25, 2.0, 2.0, 2.0, 2.0]


def rollouts_of(tokenizer: Any, objective: Grpo) -> list[Rollout]:
    rows = encode(tokenizer, [read_row({"prompt": q}, "prompt") for q in QUESTIONS], 64)
    ids, behaviour, rewards = completions_of(tokenizer)
    advantages = group_advantages(np.asarray(rewards), objective)
    found = []
    for index, completion in enumerate(ids):
        prompt = rows[index // GROUP].ids
        mask = np.arange(len(prompt) + len(completion)) >= len(prompt)
        found.append(
            Rollout(
                np.concatenate([prompt, completion]).astype(np.int32),
                mask,
                behaviour=np.asarray(behaviour[index], np.float32),
                reward=rewards[index],
                advantage=float(advantages[index]),
            )
        )
    return found


def loss_of(module: GrpoLoss, rows: list[Rollout]) -> tuple[torch.Tensor, dict[str, float]]:
    sums = module(*module.collate(module.rows_with_gradient(rows), 0))
    return sums[0] / module.counts(rows)[0], module.figures(sums[1:].tolist(), rows)


def trainer_of(objective: Grpo, model: Any, tokenizer: Any, folder: Path) -> Any:
    """TRL's, whose engine draws the completions above."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    ids, behaviour, rewards = completions_of(tokenizer)
    config = GRPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none",
        num_generations=GROUP, per_device_train_batch_size=len(rewards),
        max_completion_length=LONGEST, temperature=objective.temperature,
        loss_type=objective.loss_type, scale_rewards=objective.scale_rewards,
        epsilon=objective.epsilon, epsilon_high=objective.epsilon_high,
        vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_max=objective.importance_sampling_cap,
    )  # fmt: skip
    rows = [{"prompt": [{"role": "user", "content": q}]} for q in QUESTIONS]
    trainer = GRPOTrainer(
        model,
        lambda completions, **_: rewards,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    # It would load its reference from the model's folder.
    trainer.beta = objective.beta
    # What follows the drawing is TRL's own.
    trainer.use_vllm = True
    trainer._generate_single_turn = lambda *_, **__: (ids, behaviour)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


CASES: dict[str, dict[str, Any]] = {
    "dapo": {"importance_sampling_cap": 1.5},
    "grpo": {"loss_type": "grpo", "temperature": 0.7},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "reference": {"beta": 0.3, "scale_rewards": "batch", "loss_type": "grpo"},
    "clipped": {"num_iterations": 2, "epsilon": 0.02, "epsilon_high": 0.05},
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_trl(name: str, tokenizer: Any, tmp_path: Path) -> None:
    from trl.trainer.utils import add_fused_lm_head

    objective = Grpo.model_validate(
        {"rewards": [{"name": "own"}], "group_size": GROUP, "max_completion_length": LONGEST}
        | CASES[name]
    )
    model = moved(tokenizer, 0.02)
    module = GrpoLoss(model, torch.float32, objective).eval()
    rows = rollouts_of(tokenizer, objective)
    trainer = trainer_of(objective, model, tokenizer, tmp_path)
    if objective.beta:
        # TRL's reference is the model as it was given; ours is held for a while.
        start = [p.detach().clone() for p in moved(tokenizer, 0.0).parameters()]
        trainer.ref_model = moved(tokenizer, 0.0)
        add_fused_lm_head(trainer.ref_model, temperature=objective.temperature)
        with hold_weights(module, start):
            scores = module.score(rows, 0)
        rows = [replace(row, reference=score) for row, score in zip(rows, scores, strict=True)]
    asked = [row for row in trainer.train_dataset for _ in range(GROUP)]
    inputs = trainer._generate_and_score_completions(asked)
    assert inputs["advantages"].tolist() == pytest.approx([r.advantage for r in rows], abs=1e-6)
    if objective.num_iterations > 1:
        # A second pass over the same completions, by weights that the first has moved.
        scores = module.score(rows, 0)
        rows = [replace(row, old=score) for row, score in zip(rows, scores, strict=True)]
        further = [p.detach().clone() for p in moved(tokenizer, 0.021).parameters()]
        for parameter, value in zip(model.parameters(), further, strict=True):
            parameter.data.copy_(value)
    expected = trainer._compute_loss(model, inputs)
    expected.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    loss, figures = loss_of(module, rows)
    loss.backward()
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)
    assert abs(float(loss)) > 1e-4
    for ours, theirs in zip(model.parameters(), gradients, strict=True):
        assert torch.allclose(ours.grad, theirs, atol=1e-5)
    # The second group's rewards are equal: it is counted, and learned from by `beta` alone.
    assert len(module.rows_with_gradient(rows)) == (8 if objective.beta else 4)
    assert figures["groups/equal_share"] == 0.5
    assert figures["reward"] == pytest.approx(1.21875)
    if objective.beta and objective.num_iterations == 1:
        ours = figures["mismatch/mean"], figures["mismatch/max"]
        theirs = trainer._metrics["eval"] or trainer._metrics["train"]
        for value, key in zip(ours, ("mean", "max"), strict=True):
            expected = theirs[f"sampling/sampling_logp_difference/{key}"][0]
            assert value == pytest.approx(expected, rel=1e-4)


def test_equal_rewards_give_no_advantage_and_others_their_deviation() -> None:
    objective = Grpo.model_validate({"rewards": [{"name": "own"}], "group_size": 3})
    rewards = np.asarray([0.1, 0.1, 0.1, 0.0, 0.0, 3.0])
    found = group_advantages(rewards, objective)
    assert found[:3].tolist() == [0, 0, 0]
    assert found[3:].tolist() == pytest.approx([-0.5773, -0.5773, 1.1546], abs=1e-3)
