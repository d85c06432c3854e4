"""Tasks of one's own: each metric on right and wrong answers, and a task from its file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sunloom.config.llm import CustomTask
from sunloom.errors import DataError, NotFoundError, UsageError
from sunloom.llm.custom_tasks import METRICS, LoadedTask
from sunloom.llm.evaluation import Generate

CALL = {
    "role": "assistant",
    "tool_calls": [
        {"type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
    ],
}
SCHEMA = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}


def _task(path: Path | str, **options: Any) -> CustomTask:
    return CustomTask.model_validate({"name": "own", "path": path, **options})


@pytest.mark.parametrize(
    ("metric", "expected", "right", "wrong"),
    [
        ({"type": "exact_match"}, "Paris", [" Paris\n"], ["paris", "Paris.", ""]),
        ({"type": "exact_match", "ignore_case": True}, "Paris", ["PARIS"], ["Paris."]),
        ({"type": "regex", "pattern": r"\b\d{4}\b"}, "", ["in 1998"], ["in 98", ""]),
        ({"type": "f1"}, "The quick fox", ["a quick, fox!"], ["slow dog", ""]),
        ({"type": "rouge"}, "cats are running", ["cats are running"], ["dogs"]),
    ],
)
def test_a_text_is_right_or_wrong(
    metric: dict[str, Any], expected: str, right: list[str], wrong: list[str], tmp_path: Path
) -> None:
    built = _task(tmp_path, metric=metric).metric
    score = METRICS[type(built)](built)
    message = {"role": "assistant", "content": expected}
    assert [score(message, text) for text in right] == [1.0] * len(right)
    assert [score(message, text) for text in wrong] == [0.0] * len(wrong)


def test_f1_and_rouge_are_the_reference_values(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": "the cat sat on a mat"}
    f1 = METRICS[type(built := _task(tmp_path, metric={"type": "f1"}).metric)](built)
    # Words cat, sat, on, mat and dog, sat, on: two of three, two of four.
    assert f1(message, "A dog sat on") == pytest.approx(2 * 2 / (4 + 3))
    rouge2 = _task(tmp_path, metric={"type": "rouge", "variant": "rouge2"}).metric
    # Pairs: five and three, of which "sat on" is shared.
    assert METRICS[type(rouge2)](rouge2)(message, "a dog sat on") == pytest.approx(2 / (5 + 3))


def test_a_schema_and_a_call_are_compared_as_values(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    schema = _task(tmp_path, metric={"type": "json_schema", "path": path}).metric
    score = METRICS[type(schema)](schema)
    assert score({}, '{"city": "Oslo"}') == 1
    assert [score({}, text) for text in ('{"city": 1}', "{}", "Oslo", "[" * 100_000)] == [0] * 4
    call = _task(tmp_path, metric={"type": "tool_call"}).metric
    score = METRICS[type(call)](call)
    wrap = "<tool_call>{}</tool_call>".format
    assert score(CALL, wrap('{"arguments": {"b": 2, "a": 1}, "name": "add"}')) == 1
    assert score(CALL, wrap('{"arguments": {"b": 2, "a": 2}, "name": "add"}')) == 0
    assert score(CALL, "3") == 0


def test_a_task_is_read_from_its_file_and_scored(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} plus one?", "completion": str(n + 1)} for n in range(8)]
    path = tmp_path / "sums.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    task = LoadedTask(_task(path), seed=0)
    prompts: list[str] = []

    def generate(texts: Sequence[str]) -> list[str]:
        prompts.extend(texts)
        numbers = [int(text.partition(" plus")[0].split()[-1].split("\n")[-1]) for text in texts]
        return [str(n + 1) if n % 4 else "no idea" for n in numbers]

    continued: Generate = generate
    score = task.run(continued, _PlainTemplate())
    assert (len(score.texts), score.mean, score.figure) == (8, 0.75, "tasks.own")
    assert all(prompt.endswith("assistant:") for prompt in prompts)
    assert {e.expected for e in score.texts if e.score == 0} == {"1", "5"}
    fewer = LoadedTask(_task(path, limit=3), seed=0).run(continued, _PlainTemplate())
    assert len(fewer.texts) == 3


class _PlainTemplate:
    """A tokenizer as far as rendering needs it."""

    def apply_chat_template(
        self, messages: list[dict[str, Any]], *, add_generation_prompt: bool, **_: Any
    ) -> str:
        lines = [f"{message['role']}: {message['content']}" for message in messages]
        return "\n".join([*lines, "assistant:"] if add_generation_prompt else lines)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"path": "none.jsonl"}, UsageError, "none.jsonl"),
        ({"metric": {"type": "regex", "pattern": "("}}, UsageError, "not a regular expression"),
        ({"metric": {"type": "json_schema", "path": "none.json"}}, UsageError, "not a JSON schema"),
        ({"metric": {"type": "plugin", "name": "none"}}, NotFoundError, r"sunloom\.metrics"),
        ({"path": "human.jsonl", "format": "messages"}, DataError, "no conversation to judge"),
    ],
)
def test_what_cannot_judge_is_refused_before_it_is_needed(
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    Path("human.jsonl").write_text('{"messages": [{"role": "human", "content": "Hello"}]}\n')
    with pytest.raises(error, match=message):
        LoadedTask(_task(**{"path": "rows.jsonl", **options}), seed=0)
