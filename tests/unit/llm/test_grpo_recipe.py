"""Recipes of rewards: what they refuse before any work, what completions get, and the gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sunloom.config import Settings, load_config
from sunloom.config.llm import EvaluationConfig, LlmRecipe, LoraSettings, RewardTerm
from sunloom.errors import ConfigError, NotFoundError, PluginError, UsageError
from sunloom.evaluation.gate import decide
from sunloom.llm.conversation_split import load_split
from sunloom.llm.conversations import GenericConversations
from sunloom.llm.encoding import encode_checked
from sunloom.llm.feedback_formats import read_row
from sunloom.llm.models import add_lora, build_llama
from sunloom.llm.planning import plan_training
from sunloom.llm.preparation import prepare
from sunloom.llm.rewards import RewardSum
from sunloom.llm.rollouts import merged_because
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts
from sunloom.llm.trainer import recipe_fingerprint

FILES, BASE = "data.train=[{path: a.jsonl}]", "model.base_model=tool-base"
REWARDS = "rewards: [{metric: {type: exact_match}}]"
GRPO, DDP = f"training.objective={{type: grpo, {REWARDS}}}", "training.distributed={type: ddp}"
OWN = """
def shortness(completion, prompt, limit=8, **columns):
    if completion == "fail":
        raise KeyError("no such thing")
    return None if completion == "none" else float(len(completion) <= limit + len(prompt))
"""


def recipe_of(*sets: str) -> LlmRecipe:
    return load_config(LlmRecipe, sets=list(sets), conf_dir=Path("conf"), environ={}).config


def grpo(more: str) -> str:
    return f"training.objective={{type: grpo, {REWARDS}, {more}}}"


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ((GRPO, DDP, "training.method=qlora"), "grpo takes method lora or full"),
        ((GRPO,), "grpo takes distributed.type ddp"),
        ((GRPO, DDP, "training.neftune_alpha=5"), "no neftune_alpha"),
        ((GRPO, DDP, "training.early_stopping={metric: loss}"), "no early_stopping"),
        ((GRPO, DDP, "training.batch_size=3"), "group_size must divide .* which is 6"),
        ((grpo("num_iterations: 3"), DDP), "num_iterations must divide"),
        ((GRPO, DDP, "lora.dropout=0.1"), "no lora.dropout"),
        ((GRPO, DDP, "evaluation.eval_steps=5"), "no evaluation.eval_steps"),
        ((GRPO, DDP, "data.max_length=128"), "max_length must hold a prompt"),
        (("training.objective={type: grpo, rewards: []}", DDP), "rewards"),
        (("training.objective={type: grpo, rewards: [{weight: 2}]}", DDP), "a name or a metric"),
        ((GRPO, DDP, "evaluation.conversations=generic"), "grpo takes files in data.train"),
    ],
)
def test_what_does_not_go_together_is_refused(sets: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        recipe_of(BASE, FILES, *sets)


def test_a_step_has_as_many_groups_as_fit() -> None:
    training = recipe_of(BASE, FILES, GRPO, DDP, "training.batch_size=16").training
    assert (training.conversations_a_step, training.rows_a_step) == (32, 4)


@pytest.mark.parametrize(
    ("metric", "column", "completion", "expected"),
    [
        ({"type": "exact_match"}, "42", " 42 ", 1),
        ({"type": "exact_match"}, 42, "43", 0),
        ({"type": "regex", "pattern": "^[0-9]+$"}, None, "42", 1),
        (
            {"type": "tool_call"},
            [{"name": "look", "arguments": {"id": 1}}],
            '<tool_call>{"name": "look", "arguments": {"id": 1}}</tool_call>',
            1,
        ),
        (
            {"type": "tool_call"},
            '<tool_call>{"name": "look", "arguments": {"id": 1}}</tool_call>',
            '<tool_call>{"arguments": {"id": 2}, "name": "look"}</tool_call>',
            0,
        ),
    ],
)
def test_what_is_verified_is_rewarded(
    metric: dict[str, Any], column: Any, completion: str, expected: float
) -> None:
    term = RewardTerm.model_validate({"metric": metric, "column": "wanted", "weight": 2})
    assert RewardSum([term])([], {"wanted": column}, completion) == 2 * expected


def test_functions_of_ones_own_are_weighted_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_rewards.py").write_text(OWN)
    Path("pyproject.toml").write_text(
        '[project.entry-points."sunloom.rewards"]\nshortness = "own_rewards:shortness"\n'
    )
    terms = [RewardTerm(name="shortness", weight=0.5), RewardTerm(name="shortness", weight=-2)]
    rewards, prompt = RewardSum(terms), [{"role": "user", "content": "a"}]
    assert rewards(prompt, {"limit": 3, "other": 1}, "four") == -1.5
    assert rewards(prompt, {"limit": 2}, "four") == 0
    with pytest.raises(PluginError, match="'shortness' gave None, not a finite number"):
        rewards(prompt, {}, "none")
    with pytest.raises(PluginError, match="'shortness' failed on 'fail': KeyError"):
        rewards(prompt, {}, "fail")
    with pytest.raises(NotFoundError, match=r"'longness' in sunloom\.rewards"):
        RewardSum([RewardTerm(name="longness")])
    one, other = (
        recipe_fingerprint(recipe_of(BASE, FILES, DDP, objective), "tool-base@1")
        for objective in (
            "training.objective={type: grpo, rewards: [{name: shortness}]}",
            "training.objective={type: grpo, rewards: [{name: shortness, weight: 2}]}",
        )
    )
    assert one != other


def test_a_row_without_what_is_compared_is_refused() -> None:
    rewards = RewardSum([RewardTerm.model_validate({"metric": {"type": "exact_match"}})])
    with pytest.raises(UsageError, match=r"no column 'answer'.* it has solution"):
        rewards.require_columns(read_row({"prompt": "a?", "solution": "b"}, "prompt"))


def test_prompts_are_prepared_and_planned(settings: Settings, tmp_path: Path) -> None:
    rows = [{"prompt": f"How much is {n} and {n}?", "answer": str(2 * n)} for n in range(60)]
    rows.append({"prompt": "word " * 600, "answer": "-"})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sets = [f"paths.{key}={value}" for key, value in settings.paths.model_dump().items()]
    sets += [f"data.train=[{{path: {tmp_path / 'a.jsonl'}}}]", BASE, DDP, "training.max_steps=10"]
    recipe = recipe_of(*sets, grpo("max_completion_length: 32"))
    prepared = prepare(recipe)
    assert (prepared.train + prepared.held_out, prepared.trained_tokens) == (60, 0)
    assert prepared.set_aside == {"a prompt of more than 480 tokens": 1}
    assert "How much is" in prepared.examples[0][0].text
    plan = plan_training(recipe)
    longest = recipe_of(*sets, grpo("max_completion_length: 64"))
    # Ten steps of sixteen completions, all as long as they may be.
    assert plan_training(longest).tokens - plan.tokens == 10 * 16 * 32
    split = load_split(recipe)
    assert all(c.is_prompt for c in split.held_out)


def test_a_prompt_ends_where_the_answer_begins() -> None:
    conversations = GenericConversations().train(60, 0)
    tokenizer = build_tokenizer(conversation_texts(conversations), 400, 512)
    found = encode_checked(tokenizer, [read_row({"prompt": "Who?"}, "prompt")], 64)
    (row,) = found.rows
    messages = [{"role": "user", "content": "Who?"}]
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert row.ids.tolist() == asked
    assert not row.mask.any()


def test_the_first_weights_of_an_adapter_follow_the_seed() -> None:
    tokenizer = build_tokenizer(["a"], 300, 64)
    shape = recipe_of().model.architecture.model_copy(update={"copying_circuit": False})

    def first_weights(seed: int) -> list[float]:
        model = add_lora(build_llama(shape, tokenizer, 0), LoraSettings(r=2), seed)
        return [float(p.detach().abs().sum()) for p in model.parameters() if p.requires_grad]

    assert first_weights(1) == first_weights(1) != first_weights(2)


def test_what_vllm_cannot_add_is_merged() -> None:
    assert merged_because(LoraSettings(r=512)) is None
    for lora, said in (
        (LoraSettings(use_dora=True), "DoRA"),
        (LoraSettings(modules_to_save=("norm",)), "modules of its own"),
        (LoraSettings(r=513), "rank 513, above 512"),
    ):
        assert said in str(merged_because(lora))


def test_the_gate_takes_a_rise_that_chance_does_not_explain() -> None:
    judged = {"base_reward": 0.5, "adapter_reward": 0.6, "reward_error": 0.05}
    clear, unclear = (judged | {"reward_gain_error": error} for error in (0.04, 0.1))
    assert decide(clear, EvaluationConfig(), "production").failures == ()
    (said,) = decide(unclear, EvaluationConfig(), "production").failures
    assert "is 0.100 above the start's 0.500" in said
    assert decide(unclear, EvaluationConfig(min_reward_gain=None), "production").failures == ()
    (said,) = decide(clear, EvaluationConfig(min_reward=0.56), "production").failures
    assert "0.600, less its standard error 0.050, is below 0.560" in said
    same = {"base_reward": 0.5, "adapter_reward": 0.5, "reward_error": 0, "reward_gain_error": 0}
    assert len(decide(same, EvaluationConfig(), "production").failures) == 1
