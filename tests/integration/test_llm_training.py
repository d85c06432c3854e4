"""Training on a real Ray: the same losses whatever the parallelism, resume, divergence, export."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from child_processes import children_titled
from safetensors.torch import load_file
from train_in_turn import Trained, train_in_turn

from sunloom.config.llm import (
    Architecture,
    ContaminationRule,
    ConversationData,
    ConversationFile,
    Ddp,
    DeepSpeed,
    Distributed,
    EarlyStopping,
    EvaluationConfig,
    Fsdp,
    LoraSettings,
    ModelConfig,
    NearDuplicateRule,
    TrainingConfig,
)
from sunloom.core.interrupts import Interrupted, interrupt_on_signals
from sunloom.core.progress import read_progress
from sunloom.core.ray_tasks import map_parts
from sunloom.errors import DivergedError
from sunloom.llm import conversation_files
from sunloom.llm.checkpoints import newest_whole
from sunloom.llm.conversation_files import FileConversations, in_process
from sunloom.llm.conversations import GenericConversations
from sunloom.llm.encoding import encode
from sunloom.llm.evaluation import mean_loss
from sunloom.llm.launch import launch
from sunloom.llm.loop import Evaluations, TrainingTask, Word, give_word, plan_batches, plan_passes
from sunloom.llm.models import build_llama, load_adapter, load_model, load_tokenizer
from sunloom.llm.overlaps import Question, find_overlaps
from sunloom.llm.token_store import TokenRows, write_tokens
from sunloom.llm.tokenising import FiledConversations
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts
from sunloom.llm.trainer import plot_losses
from sunloom.llm.word_ngrams import compared_text

pytestmark = pytest.mark.integration

STEPS = 10
# The same step from half the conversations at once.
ACCUMULATED = {"batch_size": 1, "gradient_accumulation_steps": 2}
KINDS: dict[str, Distributed] = {
    "ddp": Ddp(),
    "fsdp": Fsdp(),
    "zero2": DeepSpeed(zero_stage=2),
    "zero3": DeepSpeed(zero_stage=3),
}


# Dropout and noise: what a resumed run must draw again.
NOISY = LoraSettings(r=4, alpha=8, dropout=0.3, use_rslora=True, loraplus_ratio=4)
# The columns' lengths, and modules that are trained whole: inside the layers and outside.
DORA = LoraSettings(r=4, alpha=8, use_dora=True, modules_to_save=("norm", "embed_tokens"))
SAVED = LoraSettings(r=4, alpha=8, modules_to_save=DORA.modules_to_save)
OF_ADAPTERS: dict[str, dict[str, Any]] = {
    "plain_ddp": {"lora": LoraSettings(r=4, alpha=8)},
    **{f"dora_{kind}": {"lora": DORA} for kind in KINDS},
    **{f"saved_{kind}": {"lora": SAVED} for kind in ("ddp", "zero3")},
    "dora_ddp_qlora": {"lora": DORA, "method": "qlora"},
}
NOISE = {"neftune_alpha": 5, "label_smoothing": 0.1}
NO_DECAY = {"match": "norm"}
OPTIMIZERS_BY_KIND = {
    "lion": ("ddp", "fsdp", "zero2"),
    "muon": ("ddp", "fsdp"),
    "adafactor": ("ddp",),
    "adamw_8bit": ("ddp",),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, its tokenizer and encoded conversations."""
    folder = tmp_path_factory.mktemp("llm")
    conversations = GenericConversations().train(40, 0)
    tokenizer = build_tokenizer(conversation_texts(conversations), 500, 512)
    shape = Architecture(hidden_size=48, layers=2, heads=3, intermediate_size=64, max_length=512)
    tokenizer.save_pretrained(str(folder / "model"))
    build_llama(shape, tokenizer, 0).save_pretrained(str(folder / "model"))
    # DoRA divides by the length of a column, which is 0 in places of a copying circuit.
    plain = shape.model_copy(update={"copying_circuit": False})
    build_llama(plain, tokenizer, 0).save_pretrained(str(folder / "plain"))
    write_tokens(encode(tokenizer, conversations, 256), folder / "rows")
    # Of an odd number of batches, so that the last one is one worker's alone.
    held_out = GenericConversations().held_out(20, 0)
    write_tokens(encode(tokenizer, held_out, 256), folder / "validation")
    return folder


def _work(
    start: Path,
    directory: Path,
    distributed: Distributed,
    lora: LoraSettings | None = None,
    evaluations: Evaluations | None = None,
    **more: Any,
) -> TrainingTask:
    directory.mkdir(parents=True, exist_ok=True)
    options = {
        "max_steps": STEPS,
        "batch_size": 2,
        "learning_rate": 3e-3,
        "warmup_ratio": 0.2,
        "checkpoint_every": 5,
        "max_failures": 0,
        "distributed": distributed,
    }
    training = TrainingConfig.model_validate(options | more)
    model = str(start / "model")
    return TrainingTask(
        model=model,
        base="tiny@1",
        data=start / "rows",
        directory=directory,
        pad=0,
        seed=0,
        training=training,
        lora=lora,
        evaluations=evaluations,
        options=ModelConfig(torch_dtype="float32"),
    )


@pytest.fixture(scope="module")
def trained(ray_local: str, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The unbroken run of each parallelism, and that of an adapter."""
    folder = tmp_path_factory.mktemp("trained")
    # Too little: the progress has to show its share.
    tasks = {kind: _work(start, folder / kind, KINDS[kind], peak_flops=1e9) for kind in KINDS}
    for kind in ("ddp", "fsdp", "zero2"):
        name = f"{kind}_accumulated"
        tasks[name] = _work(start, folder / name, KINDS[kind], **ACCUMULATED)
    lora = LoraSettings(r=4, alpha=8)
    tasks["adapter"] = _work(start, folder / "adapter", Fsdp(), lora=lora)
    # Here its layers are fused.
    tasks["adapter_ddp"] = _work(start, folder / "adapter_ddp", Ddp(), lora=lora)
    for name, own in OF_ADAPTERS.items():
        task = _work(start, folder / name, KINDS[name.split("_")[1]], **own)
        tasks[name] = replace(task, model=str(start / "plain"))
    for kind in ("ddp", "zero3"):
        name = f"packed_{kind}"
        # A row or two a pass: workers need different numbers of passes.
        tasks[name] = _work(start, folder / name, KINDS[kind], packing=True, pass_tokens=120)
    tasks["noisy"] = _work(start, folder / "noisy", Ddp(), lora=NOISY, **NOISE)
    for kind in ("ddp", "fsdp", "zero2"):
        name = f"qlora_{kind}"
        tasks[name] = _work(start, folder / name, KINDS[kind], lora=lora, method="qlora")
    for optimizer, kinds in OPTIMIZERS_BY_KIND.items():
        for kind in kinds:
            name = f"{optimizer}_{kind}"
            own = {"optimizer": {"type": optimizer}, "weight_decay_groups": [NO_DECAY]}
            tasks[name] = _work(start, folder / name, KINDS[kind], **own)
    for kind in ("ddp", "fsdp", "zero3"):
        name = f"evaluated_{kind}"
        tasks[name] = _work(start, folder / name, KINDS[kind], evaluations=_every(2, start))
    # Told beforehand to go on after every evaluation, and to end at one.
    for name, word in (("paced", Word(STEPS, goes_on=True)), ("ended", Word(4, goes_on=False))):
        paced = replace(_every(2, start), is_paced=True)
        tasks[name] = _work(start, folder / name, Ddp(), evaluations=paced)
        give_word(folder / name, word)
    # Nothing is lower by a hundred: the second evaluation ends the run, and the first one's weights
    # are kept.
    hopeless = EarlyStopping(metric="loss", patience=1, min_delta=100)
    stopped = _every(2, start, hopeless)
    tasks["stopped"] = _work(start, folder / "stopped", Fsdp(), evaluations=stopped)
    return train_in_turn(tasks, folder)


def _every(steps: int, start: Path, stopping: EarlyStopping | None = None) -> Evaluations:
    rows = start / "validation"
    return Evaluations(
        every=steps, rows=rows, stopping=stopping, conversations=(), gate=EvaluationConfig()
    )


@pytest.fixture(scope="module")
def alone(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Runs of two workers that one of them goes on with."""
    folder, tasks = tmp_path_factory.mktemp("alone"), {}
    for name in ("fsdp", "noisy"):
        first = Path(shutil.copytree(trained.folder(name), folder / f"{name}-first"))
        shutil.rmtree(max((first / "train").glob("checkpoint_*")))
        task, directory = trained.tasks[name], folder / name
        directory.mkdir()
        own = {"resume_from": first, "checkpoint_every": 2}
        training = task.training.model_copy(update=own)
        tasks[name] = replace(task, directory=directory, training=training)
    return train_in_turn(tasks, folder, workers=1)


@pytest.fixture(scope="module")
def resumed(
    trained: Trained, alone: Trained, start: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """Runs that go on, in new workers, from a run whose newest checkpoint is truncated."""
    folder = tmp_path_factory.mktemp("resumed")
    tasks = {}
    for kind in ("fsdp", "zero3"):
        first = Path(shutil.copytree(trained.folder(kind), folder / f"{kind}-first"))
        newest = newest_whole(first / "train")
        assert newest is not None
        assert (newest.step, newest.world_size) == (10, 2)
        victim = max(newest.path.rglob("*"), key=lambda path: path.stat().st_size)
        victim.write_bytes(victim.read_bytes()[:-7])
        before = newest_whole(first / "train")
        assert before is not None
        assert before.step == 5
        tasks[kind] = _work(start, folder / kind, KINDS[kind], resume_from=first)
    first = Path(shutil.copytree(trained.folder("noisy"), folder / "noisy-first"))
    shutil.rmtree(max((first / "train").glob("checkpoint_*")))
    own = {"resume_from": first, **NOISE}
    tasks["noisy"] = _work(start, folder / "noisy", Ddp(), lora=NOISY, **own)
    for name in ("fsdp", "noisy"):
        first = Path(shutil.copytree(alone.folder(name), folder / f"{name}-alone"))
        shutil.rmtree(max((first / "train").glob("checkpoint_*")))
        training = alone.tasks[name].training.model_copy(update={"resume_from": first})
        directory = folder / f"{name}_together"
        directory.mkdir()
        tasks[f"{name}_together"] = replace(
            alone.tasks[name], directory=directory, training=training
        )
    return train_in_turn(tasks, folder)


@pytest.mark.parametrize(
    "kind", ["fsdp", "zero2", "zero3", "ddp_accumulated", "fsdp_accumulated", "zero2_accumulated"]
)
def test_ten_losses_are_the_same_for_each_parallelism(kind: str, trained: Trained) -> None:
    outcome, reference = trained.outcomes[kind], trained.outcomes["ddp"]
    assert len(outcome.losses) == STEPS
    assert outcome.losses == pytest.approx(reference.losses, abs=1e-4)
    assert outcome.losses[-1] < outcome.losses[0]
    weights, expected = (
        load_model(str(trained.folder(one) / "export")).state_dict() for one in (kind, "ddp")
    )
    assert weights.keys() == expected.keys()
    assert all((weights[key] - expected[key]).abs().max() < 1e-3 for key in expected)


def test_packed_rows_in_small_passes_train_as_whole_batches_do(trained: Trained) -> None:
    reference = trained.outcomes["ddp"].losses
    for kind in ("ddp", "zero3"):
        assert trained.outcomes[f"packed_{kind}"].losses == pytest.approx(reference, abs=1e-4)
    config = trained.tasks["packed_ddp"].training
    rows = TokenRows(trained.tasks["packed_ddp"].data)
    passes = [
        len(plan_passes([rows[i] for i in step], config, rank=0, workers=2, limit=120))
        for step in plan_batches(rows.lengths.tolist(), config, 0)
    ]
    assert max(passes) > 1


def test_fused_layers_of_an_adapter_train_as_pefts_do(trained: Trained) -> None:
    fused, sharded = (trained.outcomes[name].losses for name in ("adapter_ddp", "adapter"))
    assert fused == pytest.approx(sharded, abs=1e-5)
    assert fused[-1] < fused[0]


@pytest.mark.parametrize(
    ("kind", "others"), [("dora", ("fsdp", "zero2", "zero3")), ("saved", ("zero3",))]
)
def test_dora_and_modules_trained_whole_learn_the_same_whatever_the_parallelism(
    kind: str, others: tuple[str, ...], trained: Trained, start: Path
) -> None:
    losses = trained.outcomes[f"{kind}_ddp"].losses
    for other in others:
        assert trained.outcomes[f"{kind}_{other}"].losses == pytest.approx(losses, abs=1e-4)
    # At first an adapter adds nothing, and the modules are the base's.
    plain = trained.outcomes["plain_ddp"].losses
    assert losses[0] == pytest.approx(plain[0], abs=1e-4)
    assert losses[-1] < plain[-1] - 0.05
    weights = load_file(trained.folder(f"{kind}_ddp") / "export" / "adapter_model.safetensors")
    base = load_file(start / "plain" / "model.safetensors")
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        assert (weights[f"base_model.model.{name}"] - base[name]).abs().max() > 1e-3
    lengths = {key: value for key, value in weights.items() if "magnitude" in key}
    assert len(lengths) == (14 if kind == "dora" else 0)
    for key, value in lengths.items():
        layer = base[
            key.removeprefix("base_model.model.").replace("lora_magnitude_vector", "weight")
        ]
        assert (value - layer.norm(dim=1)).abs().max() > 1e-4
    # Loaded again, it has the loss that training ended with.
    tuned = load_adapter(load_model(str(start / "plain")), trained.folder(f"{kind}_ddp") / "export")
    loss = mean_loss(tuned.eval(), list(TokenRows(start / "rows")), 0)
    assert loss is not None
    assert loss < losses[0] - 0.2


def test_dora_on_a_base_in_4_bits_learns(trained: Trained) -> None:
    losses = trained.outcomes["dora_ddp_qlora"].losses
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("kind", ["fsdp", "zero3"])
def test_a_truncated_checkpoint_is_passed_over_and_the_losses_go_on(
    kind: str, trained: Trained, resumed: Trained
) -> None:
    outcome = resumed.outcomes[kind]
    assert outcome.first_step == 6
    assert outcome.losses == pytest.approx(trained.outcomes["ddp"].losses[5:], abs=1e-4)


def test_a_resumed_run_draws_the_dropout_and_noise_of_the_unbroken_one(
    trained: Trained, resumed: Trained
) -> None:
    outcome, unbroken = resumed.outcomes["noisy"], trained.outcomes["noisy"]
    assert outcome.first_step == 6
    assert outcome.losses == unbroken.losses[5:]
    weights, expected = (
        load_file(run.folder("noisy") / "export" / "adapter_model.safetensors")
        for run in (resumed, trained)
    )
    assert weights.keys() == expected.keys()
    assert all(bool((weights[key] == expected[key]).all()) for key in expected)


@pytest.mark.parametrize("name", ["fsdp", "noisy"])
def test_two_workers_one_and_two_again_train_the_same(
    name: str, trained: Trained, alone: Trained, resumed: Trained
) -> None:
    unbroken = trained.outcomes[name].losses
    one, two = alone.outcomes[name], resumed.outcomes[f"{name}_together"]
    # From the checkpoints of steps 5 and 8.
    assert (one.first_step, two.first_step) == (6, 9)
    assert one.losses == pytest.approx(unbroken[5:], abs=1e-5)
    assert two.losses == pytest.approx(unbroken[8:], abs=1e-5)
    if name == "noisy":
        # Whole weights on each worker: the sums are the same, to the last bit.
        assert (one.losses, two.losses) == (unbroken[5:], unbroken[8:])


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS_BY_KIND))
def test_an_optimizer_learns_the_same_whatever_the_parallelism(
    optimizer: str, trained: Trained
) -> None:
    first, *others = (trained.outcomes[f"{optimizer}_{k}"] for k in OPTIMIZERS_BY_KIND[optimizer])
    assert first.losses[-1] < first.losses[0]
    # Another rule than AdamW's.
    assert first.losses[-1] != pytest.approx(trained.outcomes["ddp"].losses[-1], abs=1e-6)
    for other in others:
        assert other.losses == pytest.approx(first.losses, abs=2e-3)


def test_an_adapter_on_a_base_in_4_bits_learns_and_goes_on_the_whole_base(trained: Trained) -> None:
    import torch

    losses = [trained.outcomes[f"qlora_{kind}"].losses for kind in ("ddp", "fsdp", "zero2")]
    assert losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[2] == pytest.approx(losses[0], abs=1e-4)
    # A base in 4 bits is another one: its first loss is near the whole one's, not equal.
    whole = trained.outcomes["adapter"].losses[0]
    assert 0 < abs(losses[0][0] - whole) < 0.5
    base = load_model(trained.tasks["qlora_ddp"].model)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = base(ids).logits
    adapted = load_adapter(base, trained.folder("qlora_ddp") / "export")
    assert (adapted(ids).logits - before).abs().max() > 1e-3


def test_the_held_out_loss_is_measured_alike_whatever_the_parallelism(trained: Trained) -> None:
    curves = [
        [row.eval_loss for row in read_progress(trained.folder(f"evaluated_{kind}"))]
        for kind in ("ddp", "fsdp", "zero3")
    ]
    assert [loss is not None for loss in curves[0]] == [step % 2 == 0 for step in range(1, 11)]
    measured = [loss for loss in curves[0] if loss is not None]
    assert [loss for loss in curves[1] if loss is not None] == pytest.approx(measured, abs=1e-4)
    assert [loss for loss in curves[2] if loss is not None] == pytest.approx(measured, abs=1e-4)
    # Evaluating changes nothing of the training.
    reference = trained.outcomes["ddp"]
    assert trained.outcomes["evaluated_ddp"].losses == reference.losses
    # The last one is the exported model's, computed without workers.
    export = str(trained.folder("ddp") / "export")
    rows = TokenRows(trained.tasks["ddp"].data.with_name("validation"))
    assert mean_loss(load_model(export), rows, 0) == pytest.approx(measured[-1], abs=1e-4)
    assert trained.outcomes["evaluated_ddp"].eval_loss == measured[-1]


def test_a_run_that_its_held_out_loss_ends_keeps_the_best_weights(trained: Trained) -> None:
    outcome = trained.outcomes["stopped"]
    assert (len(outcome.losses), outcome.best_step) == (4, 2)
    exported = load_model(str(trained.folder("stopped") / "export"))
    rows = TokenRows(trained.tasks["ddp"].data.with_name("validation"))
    assert mean_loss(exported, rows, 0) == pytest.approx(outcome.eval_loss, abs=1e-4)
    assert outcome.eval_loss != trained.outcomes["evaluated_ddp"].eval_loss


def test_a_run_that_waits_for_word_at_its_evaluations_trains_the_same(trained: Trained) -> None:
    assert trained.outcomes["paced"] == replace(
        trained.outcomes["evaluated_ddp"],
        **{
            name: getattr(trained.outcomes["paced"], name)
            for name in ("seconds", "stall_s", "peak_bytes")
        },
    )
    ended = trained.outcomes["ended"]
    assert ended.losses == trained.outcomes["paced"].losses[:2]


def test_the_gradient_norm_is_recorded_alike(trained: Trained) -> None:
    norms = [[row.gradient_norm for row in read_progress(trained.folder(kind))] for kind in KINDS]
    assert all(norm is not None and norm > 0 for norm in norms[0])
    for other in norms[1:]:
        assert other == pytest.approx(norms[0], rel=2e-2)


def test_the_share_of_the_devices_peak_is_recorded(trained: Trained) -> None:
    # Of 48 channels, 2 layers, 64 inside the feed-forward blocks, and the head over the vocabulary.
    model = load_model(str(trained.folder("ddp") / "export"))
    weights = 2 * (4 * 48 * 48 + 3 * 48 * 64) + 48 * model.config.vocab_size
    lengths = TokenRows(trained.tasks["ddp"].data).lengths.tolist()
    for kind in KINDS:
        plan = plan_batches(lengths, trained.tasks[kind].training, 0)
        seen = [lengths[row] for batch in plan for row in batch]
        operations = sum(6 * weights * n + 12 * 2 * 48 * n * n for n in seen)
        last = read_progress(trained.folder(kind))[-1]
        assert last.mfu == pytest.approx(operations / (2 * 1e9 * last.seconds), rel=0.02)
    assert read_progress(trained.folder("adapter"))[-1].mfu is None


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    ray_local: str, start: Path, tmp_path: Path
) -> None:
    work = _work(start, tmp_path, Fsdp(), learning_rate=1e25, warmup_ratio=0, checkpoint_every=1)
    with pytest.raises(DivergedError, match=r"at step \d+; training stopped") as caught:
        launch(work, "diverges", lambda rows: [f"own.jsonl:{row + 1}" for row in rows])
    kept = newest_whole(tmp_path / "train")
    assert kept is not None
    assert str(kept.path) in caught.value.hint
    step = kept.step + 1
    batch = plan_batches(TokenRows(work.data).lengths.tolist(), work.training, work.seed)[step - 1]
    rows = [f"own.jsonl:{row + 1}" for row in batch]
    record = json.loads((tmp_path / "diverged.json").read_text())
    # With such weights the loss may still be finite, and its gradient is not.
    assert record["reason"] in ("loss was nan", "gradient's norm was nan")
    assert caught.value.message == (
        f"The {record['reason']} at step {step}; training stopped. "
        f"The step's rows: {', '.join(rows)}."
    )
    assert (record["step"], record["rows"]) == (step, rows)
    assert record["checkpoint"] == str(kept.path)
    assert not (tmp_path / "export").exists()


def test_an_adapter_is_exported_as_a_peft_folder(trained: Trained) -> None:
    import torch

    losses, export = trained.outcomes["adapter"].losses, trained.folder("adapter") / "export"
    assert losses[-1] < losses[0]
    names = {path.name for path in export.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    base = load_model(trained.tasks["adapter"].model)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = base(ids).logits
    adapted = load_adapter(base, export)
    assert adapted.peft_config["default"].base_model_name_or_path == "tiny@1"
    assert (adapted(ids).logits - before).abs().max() > 1e-3


def test_the_loss_history_is_readable_and_drawn(trained: Trained) -> None:
    directory, reference = trained.folder("ddp"), trained.outcomes["ddp"]
    rows = read_progress(directory)
    assert [row.step for row in rows] == list(range(1, STEPS + 1))
    assert [row.loss for row in rows] == pytest.approx(reference.losses, abs=1e-5)
    assert all(math.isfinite(row.tokens_per_second) for row in rows)
    picture = plot_losses(directory, "ddp")
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_files_are_read_and_tokenised_on_ray_as_in_one_process(
    ray_local: str, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation_files, "_BLOCK_BYTES", 8000)
    rows = [{"messages": c.messages, "tools": c.tools} for c in GenericConversations().train(60, 2)]
    lines = [json.dumps(row) for row in [*rows, rows[3]]]
    # Alike, and not the same.
    lines += [line.replace("The ", "The very ") for line in lines[10:30]]
    (tmp_path / "own.jsonl").write_text("\n".join([*lines, "{"]))
    entry = ConversationFile(path=tmp_path / "own.jsonl", weight=1.5)
    data = ConversationData(train=(entry,), held_out_share=0.2)
    tokenizer = load_tokenizer(str(start / "model"))
    here, there = (
        FileConversations(data, tmp_path / name, run)
        for name, run in (("here", in_process), ("ray", map_parts))
    )
    assert len(there.blocks) > 5
    assert (there.counts, there.damaged) == (here.counts, here.damaged)
    assert there.held_out(9, 0) == here.held_out(9, 0)
    found, expected = (
        FiledConversations(source, 0).tokenise(tokenizer, 256, tmp_path / name)
        for source, name in ((there, "tokens"), (here, "expected"))
    )
    assert len(expected.rows) > 60
    assert [row.ids.tolist() for row in found.rows] == [row.ids.tolist() for row in expected.rows]
    assert found.trained.tolist() == expected.trained.tolist()
    near, rule = NearDuplicateRule(threshold=0.5), ContaminationRule(ngram=8, threshold=0.1)
    judging = [Question("task:1", " ".join(compared_text(c) for c in there.train(1, 0)[:2]))]
    alike, contaminated = find_overlaps(here, near, rule, judging)
    assert find_overlaps(there, near, rule, judging) == (alike, contaminated)
    assert alike
    assert contaminated


def test_an_interrupted_training_has_no_outcome(
    ray_local: str, start: Path, tmp_path: Path
) -> None:
    """Ray Train's own handler would leave the process with status 0."""
    handler = signal.getsignal(signal.SIGINT)

    def press_ctrl_c() -> None:
        deadline = time.monotonic() + 120
        while not read_progress(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press_ctrl_c)
    with pytest.raises(Interrupted), interrupt_on_signals():
        thread.start()
        launch(_work(start, tmp_path, Ddp(), max_steps=100_000, workers=1), "endless")
    thread.join()
    assert not (tmp_path / "export").exists()
    assert signal.getsignal(signal.SIGINT) is handler
    deadline = time.monotonic() + 30
    while children_titled("RayTrainWorker") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert children_titled("RayTrainWorker") == []
