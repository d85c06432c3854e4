"""What is learned from and judged on: checked before the first step, and part of the identity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sunloom.config import Settings, load_config
from sunloom.config.llm import LlmRecipe
from sunloom.errors import ConfigError, DataError, UsageError
from sunloom.evaluation.gate import decide
from sunloom.llm.conversation_split import load_split
from sunloom.llm.conversations import GenericConversations
from sunloom.llm.encoding import encode_checked
from sunloom.llm.launch import check_resume
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts
from sunloom.llm.trainer import recipe_fingerprint


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(conversation_texts(GenericConversations().train(200, 0)), 600, 1024)


def chat(question: str, answer: str = "12 m.") -> dict[str, Any]:
    turns = (("user", question), ("assistant", answer))
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def recipe_of(path: Path, settings: Settings, *sets: str) -> LlmRecipe:
    chosen = [f"paths.{key}={value}" for key, value in settings.paths.model_dump().items()]
    chosen += [f"data.train=[{{path: {path}}}]", "model.base_model=tool-base", "lora.r=4"]
    chosen += ["output.name=heights", *sets]
    return load_config(LlmRecipe, sets=chosen, conf_dir=Path("conf"), environ={}).config


def test_rows_without_an_answer_in_reach_are_set_aside_with_their_line(
    tokenizer: Any, settings: Settings, tmp_path: Path
) -> None:
    rows = [chat(f"How tall is {i}?") for i in range(40)]
    rows[7] = chat("word " * 300)
    rows[9] = chat("How tall?", "word " * 300)
    recipe = recipe_of(write(tmp_path / "a.jsonl", rows), settings, "data.held_out_share=0")
    split = load_split(recipe)
    encoded = split.tokenise(tokenizer, 64, tmp_path / "tokens")
    assert (len(encoded.rows), encoded.cut) == (39, 1)
    assert encoded.trained.tolist() == [row.mask[1:].sum() for row in encoded.rows]
    assert max(len(row.ids) for row in encoded.rows) == 64
    assert all(row.mask[1:].any() for row in encoded.rows)
    assert split.count_reasons() == {"no answer within 64 tokens": 1}
    # Each row says which line it is, whatever the order.
    places = split.name_places(encoded.numbers.tolist())
    texts = [tokenizer.decode(row.ids) for row in encoded.rows]
    lines = [int(place.removeprefix(f"{tmp_path / 'a.jsonl'}:")) for place in places]
    assert sorted(lines) == [line for line in range(1, 41) if line != 8]
    assert all(f"{n - 1}?" in text for n, text in zip(lines, texts, strict=True) if n != 10)
    written = split.write_quarantine(tmp_path)
    assert written is not None
    row = json.loads(written.read_text())
    assert (row["source"], row["position"]) == (str(tmp_path / "a.jsonl"), 8)


def test_a_conversation_of_several_texts_is_judged_once_and_set_aside_once(
    tokenizer: Any, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Like Qwen 3's: the last answer is written otherwise than the ones before it.
    template = (
        "{% for m in messages %}<|{{ m.role }}|>"
        "{% if loop.last and m.role == 'assistant' %}!{% endif %}{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    monkeypatch.setattr(tokenizer, "chat_template", template)
    two = [*chat("One?", "First.")["messages"], *chat("Two?", "Second.")["messages"]]
    rows = [{"messages": two}, chat("word " * 300), *(chat(f"How tall is {i}?") for i in range(8))]
    recipe = recipe_of(write(tmp_path / "a.jsonl", rows), settings, "data.held_out_share=0.999")
    split = load_split(recipe)
    assert len(split.held_out) == 10
    split.require_judgeable(tokenizer, 64)
    assert len({c.canonical() for c in split.held_out}) == len(split.held_out) == 9
    twice = f"data.train=[{{path: {tmp_path / 'a.jsonl'}, weight: 2}}]"
    split = load_split(recipe_of(tmp_path / "a.jsonl", settings, "data.held_out_share=0", twice))
    encoded = split.tokenise(tokenizer, 64, tmp_path / "tokens")
    # Two texts of the first conversation and one of each other, all twice.
    assert len(encoded.rows) == 2 * (2 + 8)
    assert split.count_reasons() == {"no answer within 64 tokens": 1}


def test_nothing_to_learn_or_to_judge_is_said_before_the_first_step(
    tokenizer: Any, settings: Settings, tmp_path: Path
) -> None:
    voucher = write(tmp_path / "a.jsonl", [chat("voucher please " * 300, "Yes.")])
    split = load_split(recipe_of(voucher, settings, "data.held_out_share=0"))
    with pytest.raises(DataError, match="1 no answer within 256 tokens"):
        split.tokenise(tokenizer, 256, tmp_path / "tokens")
    with pytest.raises(DataError, match="no held-out conversation"):
        split.require_judgeable(tokenizer, 256)
    empty = load_split(recipe_of(write(tmp_path / "b.jsonl", []), settings))
    with pytest.raises(DataError, match="no conversation to learn from"):
        empty.tokenise(tokenizer, 256, tmp_path / "none")


def test_a_plugins_conversations_are_checked_like_those_of_files(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    class Odd(GenericConversations):
        def held_out(self, n: int, seed: int) -> list[Any]:
            found = super().held_out(n, seed)
            call = {"function": {"name": "f", "arguments": "{"}}
            wrong = ({"role": "assistant", "content": None, "tool_calls": [call]},)
            found[1] = type(found[1])((*found[1].messages[:-1], *wrong))
            return found

    monkeypatch.setattr("sunloom.llm.conversations.load_plugin", lambda *_: Odd)
    sets = ("training.max_steps=2", "evaluation.held_out=5")
    recipe = load_config(LlmRecipe, sets=sets, conf_dir=Path("conf"), environ={}).config
    split = load_split(recipe)
    assert len(split.held_out) == 4
    assert split.count_reasons() == {"bad tool call": 1}


def test_none_that_selects_is_one_that_judges(settings: Settings, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [chat(f"How tall is {i}?") for i in range(200)])
    ddp = "training.distributed={type: ddp}"
    stop = "training.early_stopping={}"
    sets = (ddp, stop, "data.held_out_share=0.5", "evaluation.held_out=40")
    sets += ("evaluation.eval_sample=30",)
    split = load_split(recipe_of(path, settings, *sets))
    judging, validation = ({c.canonical() for c in s} for s in (split.held_out, split.validation))
    assert (len(judging), len(validation), judging & validation) == (40, 30, set())
    with pytest.raises(UsageError, match="none is left to evaluate on"):
        load_split(recipe_of(path, settings, *sets, "evaluation.held_out=200"))
    with pytest.raises(ConfigError, match="early_stopping takes evaluation"):
        recipe_of(path, settings, ddp, stop, "evaluation.min_exact_match=null")


def test_all_of_the_data_is_identity_and_where_it_lies_is_not(
    settings: Settings, tmp_path: Path
) -> None:
    rows = [chat(f"How tall is {i}?") for i in range(70)]
    first = recipe_of(write(tmp_path / "a.jsonl", rows), settings)
    moved = recipe_of(write(tmp_path / "b.jsonl", rows), settings)
    assert recipe_fingerprint(first, "b@1") == recipe_fingerprint(moved, "b@1")
    assert load_split(first).digest == load_split(moved).digest
    more = write(tmp_path / "c.jsonl", [*rows, *(chat(f"How old is {i}?") for i in range(200))])
    assert load_split(recipe_of(more, settings)).digest != load_split(first).digest
    judged = "evaluation.held_out=2"
    assert load_split(recipe_of(more, settings, judged)).digest != load_split(first).digest


def test_an_answer_of_weight_0_carries_no_loss(tokenizer: Any) -> None:
    from sunloom.llm.conversation_formats import read_conversation

    turns = [*chat("One?", "First.")["messages"], *chat("Two?", "Second.")["messages"]]
    turns[1]["weight"] = 0
    row = encode_checked(tokenizer, [read_conversation({"messages": turns}, "messages")], 99).rows[
        0
    ]
    assert tokenizer.decode(row.ids[row.mask]) == "Second.<|end|>"


JUDGED = {"adapter_exact_match": 0.95, "adapter_whole": 0.9, "base_loss": 2.0, "adapter_loss": 1.0}


@pytest.mark.parametrize(
    ("metrics", "sets", "failures"),
    [
        ({}, (), []),
        ({"adapter_exact_match": 0.8}, (), ["adapter_exact_match 0.800 is below 0.900"]),
        ({"adapter_exact_match": None}, (), ["adapter_exact_match has no score"]),
        ({"adapter_exact_match": None}, ("min_exact_match=null",), []),
        ({"adapter_whole": None}, ("min_whole=0.5",), ["adapter_whole has no score"]),
        ({"adapter_loss": 2.1}, (), ["adapter_loss 2.100 is above 1 times the base's 2.000"]),
        ({"adapter_loss": 1.9}, ("max_loss_ratio=0.9",), ["adapter_loss 1.900 is above 0.9"]),
        ({"adapter_loss": 9.0}, ("max_loss_ratio=null",), []),
        # Of a version from before the loss was measured.
        ({"adapter_loss": None, "base_loss": None}, (), []),
    ],
)
def test_the_gate_says_what_does_not_hold(
    metrics: dict[str, Any], sets: tuple[str, ...], failures: list[str]
) -> None:
    chosen = [f"evaluation.{one}" for one in sets]
    bars = load_config(LlmRecipe, sets=chosen, environ={}).config.evaluation
    found = decide(JUDGED | metrics, bars, "production").failures
    assert len(found) == len(failures)
    assert all(one.startswith(start) for one, start in zip(found, failures, strict=True))


def test_a_run_without_a_checkpoint_is_not_resumed(settings: Settings, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [chat("How tall?")])
    recipe = recipe_of(path, settings, f"training.resume_from={tmp_path / 'mistyped'}")
    with pytest.raises(UsageError, match="no whole checkpoint"):
        check_resume(recipe)


def test_a_run_that_is_done_or_another_is_not_resumed(settings: Settings, tmp_path: Path) -> None:
    from sunloom.config.loading.model import save_resolved
    from sunloom.llm.checkpoints import seal

    path = write(tmp_path / "a.jsonl", [chat("How tall?")])
    resume = f"training.resume_from={tmp_path / 'run'}"
    recipe = recipe_of(path, settings, resume, "training.max_steps=5")
    checkpoint = tmp_path / "run" / "train" / "checkpoint_0"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_text("x")
    seal(checkpoint, rank=0, world_size=1, step=5)
    save_resolved(recipe, tmp_path / "run")
    with pytest.raises(UsageError, match="has done 5 of 5 steps"):
        check_resume(recipe)
    check_resume(recipe_of(path, settings, resume, "training.max_steps=6"))
    with pytest.raises(UsageError, match="another lora section"):
        check_resume(recipe_of(path, settings, resume, "training.max_steps=6", "lora.r=8"))
    # Another number of workers goes on with any other parallelism.
    deepspeed = "training.distributed={type: deepspeed}"
    with pytest.raises(UsageError, match="is for 1 workers, not 2") as caught:
        check_resume(recipe_of(path, settings, resume, "training.max_steps=6", deepspeed))
    assert caught.value.hint == "Set training.workers=1."
