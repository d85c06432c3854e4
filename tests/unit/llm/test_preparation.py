"""What a recipe would learn from, counted and shown on a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sunloom.config import Settings, load_config
from sunloom.config.llm import LlmRecipe
from sunloom.errors import UsageError
from sunloom.llm.preparation import prepare
from sunloom.llm.token_store import ORDER


def _row(number: int, answer: str) -> str:
    asked = {"role": "user", "content": f"How tall is number {number} <script>?"}
    return json.dumps({"messages": [asked, {"role": "assistant", "content": answer}]})


def test_a_pass_over_the_files_is_counted_and_shown(settings: Settings, tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text("\n".join([*(_row(n, f"{n} m.") for n in range(40)), "{"]))
    second.write_text("\n".join(json.dumps({"text": f"Trees of {n} m."}) for n in range(4)))
    sets = [f"paths.{key}={value}" for key, value in settings.paths.model_dump().items()]
    sets += [f"data.train=[{{path: {first}}}, {{path: {second}, weight: 2}}]"]
    sets += ["data.held_out_share=0.2", "training.method=full", "output.name=trees"]
    recipe = load_config(LlmRecipe, sets=sets, conf_dir=Path("conf"), environ={}).config
    prepared = prepare(recipe)
    one, two = prepared.files
    assert (one.format, two.format) == ("messages", "text")
    assert prepared.train == one.train + 2 * two.train
    assert prepared.set_aside == {"not JSON": 1}
    assert sum(prepared.tokens_by_file.values()) == prepared.tokens
    assert set(prepared.tokens_by_file) == {str(first), str(second)}
    assert 0 < prepared.trained_tokens < prepared.tokens
    assert prepared.length_median <= prepared.length_p95 <= prepared.length_max
    page = Path(prepared.report).read_text()
    # What files hold is text on the page, and nothing comes from elsewhere.
    assert "<script" not in page
    assert "number" in page
    assert "&lt;script&gt;" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<td>not JSON</td>" not in page
    assert "set aside: not JSON" in page
    assert f"<td>{prepared.tokens_by_file[str(first)]}</td>" in page
    assert len(re.findall("<pre>", page)) == 3
    assert "<b>" in page
    # The tokens themselves are not kept.
    assert not list(Path(prepared.report).parent.rglob(ORDER))


def test_a_pair_is_shown_with_its_two_answers(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{n}?", "chosen": f"{n} <m>.", "rejected": "No."} for n in range(20)]
    file.write_text("\n".join([*map(json.dumps, rows), '{"chosen": "x"}']))
    sets = [f"paths.{key}={value}" for key, value in settings.paths.model_dump().items()]
    sets += [f"data.train=[{{path: {file}}}]", "training.method=full", "output.name=pairs"]
    dpo = "training.objective={type: dpo}"
    recipe, sft = (
        load_config(LlmRecipe, sets=[*sets, *more], conf_dir=Path("conf"), environ={}).config
        for more in ([dpo], [])
    )
    prepared = prepare(recipe)
    assert prepared.files[0].format == "preference"
    assert prepared.set_aside == {"no pair": 1}
    for passages in prepared.examples:
        trained = [(p.text, p.is_unwanted) for p in passages if p.is_trained]
        assert [unwanted for _, unwanted in trained] == [False, True]
        assert "<m>." in trained[0][0]
        assert trained[1][0] == "No.<|end|>"
    assert "<s>No." in Path(prepared.report).read_text()
    with pytest.raises(UsageError, match="sft learns from messages"):
        prepare(sft)
