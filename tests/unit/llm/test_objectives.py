"""Losses of preferences: those of TRL on the same batch, whatever the number of batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sunloom.config.llm import Architecture, Dpo, Ipo, Kto, Orpo, Reward, TrainingObjective
from sunloom.llm.conversations import GenericConversations
from sunloom.llm.encoding import IGNORED, Encoded, collate, encode
from sunloom.llm.feedback_formats import read_row
from sunloom.llm.feedback_rows import FeedbackRows, score_rows
from sunloom.llm.models import build_llama, load_model
from sunloom.llm.preference_judge import judge_preferences
from sunloom.llm.preference_loss import PreferenceLoss
from sunloom.llm.preference_scores import PreferenceScores
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts

pytestmark = [
    # TRL's and transformers' own deprecations.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
PAIRS = [
    {"prompt": f"How tall is {i}?", "chosen": f"It is {'very ' * i}tall.", "rejected": "No. " * n}
    for i, n in enumerate((5, 1, 3, 2))
]
LABELLED = [
    {"prompt": pair["prompt"], "completion": pair[kind], "label": kind == "chosen"}
    for pair, kind in zip(PAIRS, ("chosen", "rejected", "rejected", "chosen"), strict=True)
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(conversation_texts(GenericConversations().train(60, 0)), 400, 512)


@pytest.fixture(scope="module")
def start(tokenizer: Any) -> Any:
    """The model before training."""
    shape = Architecture(hidden_size=48, layers=2, heads=3, intermediate_size=64, max_length=512)
    return build_llama(shape, tokenizer, 0).eval()


@pytest.fixture(scope="module")
def model(start: Any, tokenizer: Any) -> Any:
    """The same, some way on."""
    shape = Architecture(hidden_size=48, layers=2, heads=3, intermediate_size=64, max_length=512)
    moved = build_llama(shape, tokenizer, 0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return moved


@pytest.fixture(autouse=True)
def _no_warnings_of_others() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def rows_of(rows: list[dict[str, Any]], tokenizer: Any, format: str) -> list[Encoded]:
    return encode(tokenizer, [read_row(row, format) for row in rows], 512)


def loss_of(
    objective: TrainingObjective, model: Any, start: Any, rows: list[Encoded]
) -> tuple[torch.Tensor, dict[str, float]]:
    """Our loss and figures, over one batch."""
    module = PreferenceLoss(model, torch.float32, objective).eval()
    before = PreferenceLoss(start, torch.float32, objective).eval()
    compared = FeedbackRows(rows, longest_other=999 if module.kind.needs_kl else None)
    lengths = [len(row.ids) for row in rows]
    with torch.no_grad():
        scores = score_rows(before, compared, lengths, 0, torch.device("cpu"))
        now = score_rows(module, compared, lengths, 0, torch.device("cpu"))
    kl = torch.tensor(max(float((now - scores)[:, 1].mean()), 0.0))
    compared = compared.with_start(scores)
    sums = module(*module.collate(compared[:], 0), kl)
    counts = module.counts(compared[:])
    loss = sum(total / count for total, count in zip(sums, counts, strict=False))
    assert isinstance(loss, torch.Tensor)
    return loss, module.figures(sums[len(counts) :].tolist(), compared[:])


def conversational(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    def turns(key: str, value: Any) -> Any:
        role = "user" if key == "prompt" else "assistant"
        return value if key == "label" else [{"role": role, "content": value}]

    return Dataset.from_list([{k: turns(k, v) for k, v in row.items()} for row in rows])


@pytest.fixture(scope="module")
def dpo_trainer(
    model: Any, start: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    from trl import DPOConfig, DPOTrainer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = DPOConfig(
            output_dir=str(tmp_path_factory.mktemp("dpo")), use_cpu=True, bf16=False,
            report_to="none", beta=0.3, label_smoothing=0.1,
        )  # fmt: skip
        data = conversational(PAIRS)
        return DPOTrainer(model, start, config, train_dataset=data, processing_class=tokenizer)


@pytest.mark.parametrize(
    ("theirs", "objective"),
    [
        ("sigmoid", Dpo(beta=0.3)),
        ("robust", Dpo(beta=0.3, label_smoothing=0.1)),
        ("ipo", Ipo(beta=0.3)),
    ],
    ids=["dpo", "robust", "ipo"],
)
def test_losses_of_pairs_are_trls_on_its_own_tokens(
    theirs: str, objective: TrainingObjective, dpo_trainer: Any, model: Any, start: Any,
    tokenizer: Any,
) -> None:  # fmt: skip
    rows, data = rows_of(PAIRS, tokenizer, "preference"), dpo_trainer.train_dataset
    for row, example in zip(rows, data, strict=True):
        for one, name in zip(row.sequences(), ("chosen_ids", "rejected_ids"), strict=True):
            assert one.ids.tolist() == example["prompt_ids"] + example[name]
            assert one.ids[one.mask].tolist() == example[name]
    dpo_trainer.loss_types = [theirs]
    model.zero_grad()
    expected = dpo_trainer._compute_loss(model, dpo_trainer.data_collator(list(data)), False)
    expected.backward()
    gradient = model.model.layers[0].mlp.up_proj.weight.grad.clone()
    model.zero_grad()
    loss, figures = loss_of(objective, model, start, rows)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    loss.backward()
    ours = model.model.layers[0].mlp.up_proj.weight.grad
    assert (ours - gradient).abs().max().item() < 1e-5
    metrics = dpo_trainer._metrics["eval"]
    for name in ("chosen", "rejected", "margins", "accuracies"):
        assert figures[f"rewards/{name}"] == pytest.approx(metrics[f"rewards/{name}"][-1], abs=1e-5)


def test_losses_of_labelled_completions_are_trls(
    model: Any, start: Any, tokenizer: Any, tmp_path: Path
) -> None:
    from trl import KTOConfig, KTOTrainer

    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    config = KTOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", beta=0.3,
        per_device_train_batch_size=4, **weights,
    )  # fmt: skip
    data = conversational(LABELLED)
    # The other way round: only so the mean shift is above zero, and counts.
    trainer = KTOTrainer(start, model, config, train_dataset=data, processing_class=tokenizer)
    batch = trainer.data_collator(list(trainer.train_dataset))
    expected = trainer._compute_loss(start, batch, False)
    rows = rows_of(LABELLED, tokenizer, "unpaired")
    loss, figures = loss_of(Kto(beta=0.3, **weights), start, model, rows)
    metrics = trainer._metrics["eval"]
    assert metrics["kl"][-1] > 0.01
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for name in ("chosen", "rejected", "margins"):
        assert figures[f"rewards/{name}"] == pytest.approx(metrics[f"rewards/{name}"][-1], abs=1e-5)


def test_the_odds_ratio_loss_is_trls(
    model: Any, start: Any, tokenizer: Any, tmp_path: Path
) -> None:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    config = ORPOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", beta=0.3
    )
    trainer = ORPOTrainer(
        model, config, train_dataset=conversational(PAIRS), processing_class=tokenizer
    )
    rows = rows_of(PAIRS, tokenizer, "preference")
    # Our tokens, as its tokenising is not what is compared.
    batch: dict[str, torch.Tensor] = {}
    for number, name in enumerate(("chosen", "rejected")):
        sequences = [row.sequences()[number] for row in rows]
        ids, labels = map(torch.from_numpy, collate(sequences, 0))
        lengths = torch.tensor([[len(one.ids)] for one in sequences])
        batch[f"{name}_input_ids"], batch[f"{name}_labels"] = ids, labels
        batch[f"{name}_attention_mask"] = (torch.arange(ids.shape[1]) < lengths).long()
    batch["prompt_input_ids"] = batch["chosen_input_ids"]
    expected, metrics = trainer.get_batch_loss_metrics(model, batch)
    loss, figures = loss_of(Orpo(beta=0.3), model, start, rows)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for name in ("chosen", "rejected", "margins", "accuracies"):
        assert figures[f"rewards/{name}"] == pytest.approx(metrics[f"rewards/{name}"], abs=1e-5)


@pytest.mark.parametrize("weight", [None, 0.1])
def test_the_loss_of_a_reward_model_is_trls(
    weight: float | None, start: Any, tokenizer: Any, tmp_path: Path
) -> None:
    from trl import RewardConfig, RewardTrainer

    start.save_pretrained(str(tmp_path / "start"))
    scorer = load_model(str(tmp_path / "start"), head_seed=3).eval()
    again = load_model(str(tmp_path / "start"), head_seed=3)
    assert bool((scorer.score.weight == again.score.weight).all())
    config = RewardConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none",
        center_rewards_coefficient=weight, disable_dropout=True,
    )  # fmt: skip
    data = conversational(PAIRS)
    trainer = RewardTrainer(scorer, config, train_dataset=data, processing_class=tokenizer)
    scorer.eval()
    rows = rows_of(PAIRS, tokenizer, "preference")
    for row, example in zip(rows, trainer.train_dataset, strict=True):
        ids = [one.ids.tolist() for one in row.sequences()]
        assert ids == [example["chosen_ids"], example["rejected_ids"]]
    batch = trainer.data_collator(list(trainer.train_dataset))
    expected = trainer.compute_loss(scorer, batch)
    objective = Reward(center_rewards_coefficient=weight)
    loss, figures = loss_of(objective, scorer, scorer, rows)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    metrics = trainer._metrics["eval"]
    assert figures["rewards/accuracies"] == pytest.approx(metrics["accuracy"][-1])
    assert figures["rewards/margins"] == pytest.approx(metrics["margin"][-1], abs=1e-5)
    judged = judge_preferences(scorer, rows, objective, 0)
    assert judged.accuracy == pytest.approx(metrics["accuracy"][-1])
    assert judged.loss == pytest.approx(loss.item(), abs=1e-5)


@pytest.mark.parametrize("objective", [Dpo(), Ipo(), Kto(), Orpo()])
def test_a_loss_is_summed_over_parts_and_over_rows_that_fill_places(
    objective: TrainingObjective, model: Any, tokenizer: Any
) -> None:
    format = "unpaired" if isinstance(objective, Kto) else "preference"
    rows = rows_of(LABELLED if format == "unpaired" else PAIRS, tokenizer, format)
    module = PreferenceLoss(model, torch.float32, objective).eval()
    scores = np.array([[-9.0, -8.0], [-7.0, -6.0], [-3.0, -4.0], [-5.0, -1.0]], np.float32)
    compared = FeedbackRows(
        rows, longest_other=999 if module.kind.needs_kl else None, start=scores
    )[:]
    with torch.no_grad():
        whole = module(*module.collate(compared, 0))
        parts = [[compared[0], compared[3]], [compared[1]], [compared[2]]]
        parts.append([compared[0].without_loss()])
        summed = sum(module(*module.collate(part, 0)) for part in parts)
    assert (whole - summed).abs().max().item() < 1e-4


def test_what_training_starts_from_has_no_preference(
    start: Any, model: Any, tokenizer: Any
) -> None:
    rows = rows_of(PAIRS, tokenizer, "preference")
    before = judge_preferences(start, rows, Dpo(), 0)
    assert (before.accuracy, before.margin) == (0.5, 0.0)
    assert before.loss == pytest.approx(np.log(2), abs=1e-5)
    after = judge_preferences(model, rows, Dpo(beta=0.3), 0, before.scores)
    loss, figures = loss_of(Dpo(beta=0.3), model, start, rows)
    assert after.loss == pytest.approx(loss.item(), abs=1e-5)
    assert after.accuracy == figures["rewards/accuracies"]
    assert after.margin == pytest.approx(figures["rewards/margins"], abs=1e-5)
    labelled = rows_of(LABELLED, tokenizer, "unpaired")
    judged = judge_preferences(start, labelled, Kto(), 0)
    assert (judged.accuracy, judged.loss) == (0.5, pytest.approx(0.5, abs=1e-5))


def test_accuracy_counts_ties_half_and_compares_what_has_no_pair() -> None:
    none = np.zeros((0, 2), np.float32)
    paired = PreferenceScores(none, [1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 4.0, -1.0], True, 0.0)
    assert paired.accuracy == (1 + 0.5 + 0 + 1) / 4
    crossed = PreferenceScores(none, [1.0, 3.0], [0.0, 1.0, 2.0], False, 0.0)
    assert crossed.standard_error == pytest.approx(((4.5 / 6 * 2 + 1) / 4 * 0.375 / 4) ** 0.5)
    assert crossed.accuracy == (1 + 0.5 + 0 + 3) / 6
    assert PreferenceScores(none, [1.0], [], False, 0.0).accuracy is None


def test_completions_of_one_length_carry_the_labels_alone(tokenizer: Any) -> None:
    row = rows_of(LABELLED, tokenizer, "unpaired")
    ids, labels = collate(FeedbackRows(row, longest_other=99)[0].sequences(), 0)
    assert ids.shape == labels.shape
    first, last = row[0], row[-1]
    # The prompt of the first row, with the last row's completion.
    prompt = first.ids[~first.mask].tolist()
    expected = prompt + last.ids[last.mask].tolist()
    assert ids[1, : len(expected)].tolist() == expected
    assert labels[1][labels[1] != IGNORED].tolist() == last.ids[last.mask].tolist()
    short = FeedbackRows(row, longest_other=len(prompt) + 1)[0].sequences()[1]
    assert short.ids.tolist() == expected[: len(prompt) + 1]
