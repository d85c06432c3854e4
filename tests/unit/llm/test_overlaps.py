"""Near-duplicates and contamination: the same rows as by comparing each with each."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sunloom.config import Settings, load_config
from sunloom.config.llm import LlmRecipe
from sunloom.llm import conversation_files
from sunloom.llm.contamination import build_index, find_contamination, load_index
from sunloom.llm.conversation_split import QUARANTINE, load_split
from sunloom.llm.conversations import Conversation, GenericConversations
from sunloom.llm.near_duplicates import BANDS, band_rows, find_near_duplicates, hash_bands
from sunloom.llm.planning import plan_training
from sunloom.llm.preparation import prepare
from sunloom.llm.trainer import recipe_fingerprint
from sunloom.llm.word_ngrams import (
    compared_text,
    hash_ngrams,
    hash_shingles,
    join_words,
    split_words,
)

# The same in characters of full width.
WIDE = "".join(chr(ord(c) + 0xFEE0) if c != " " else c for c in "THE oak 12 m")
VOCABULARY = [f"w{number}" for number in range(3000)]


def some_words(rng: random.Random, least: int, most: int) -> list[str]:
    return rng.choices(VOCABULARY, k=rng.randint(least, most))


def vary(rng: random.Random, words: list[str]) -> list[str]:
    """The words, up to four of them others."""
    varied = list(words)
    for _ in range(rng.randint(0, 4)):
        varied[rng.randrange(len(varied))] = rng.choice(VOCABULARY)
    return varied


def join(texts: list[list[str]]) -> list[str]:
    return [" ".join(words) for words in texts]


def runs_of(words: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def test_words_are_those_that_a_reader_takes_for_the_same() -> None:
    texts = ["The Oak, 12 m!", "  the oak  12 M", WIDE, "", "...", "日本の木"]
    words = split_words(texts)
    assert np.diff(words.offsets).tolist() == [4, 4, 4, 0, 0, 4]
    one, two, three = (words.take(np.asarray([row])).hashes.tolist() for row in range(3))
    assert one == two == three
    assert len({*one, *words.take(np.asarray([5])).hashes.tolist()}) == 8
    again = join_words([words.take(np.asarray([5, 3])), words.take(np.asarray([0]))])
    assert np.diff(again.offsets).tolist() == [4, 0, 4]
    assert again.hashes.tolist()[4:] == one
    empty = split_words([])
    assert len(hash_shingles(empty, 3)[0]) == 0
    assert hash_bands(empty, 0.8).shape == (0, BANDS)
    # Runs do not go on into the next text; a short text is a run of its own.
    hashes, rows = hash_ngrams(words, 3)
    assert rows.tolist() == [0, 0, 1, 1, 2, 2, 5, 5]
    assert len(set(hashes.tolist())) == 4
    assert hash_shingles(split_words(["a b", "", "a b c d"]), 3)[1].tolist() == [0, 2, 2]


def test_what_many_conversations_share_is_not_compared() -> None:
    call = {"function": {"name": "look", "arguments": '{"city": "Rome"}'}}
    messages = (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "20"},
    )
    text = compared_text(Conversation(messages, ({"type": "function"},)))
    assert text.split() == ["Rome?", "look", '{"city":', '"Rome"}', "20"]


def by_comparing_each(
    texts: list[list[str]], judged: int, threshold: float, *, is_judged_dropped: bool
) -> tuple[dict[int, float], dict[int, float]]:
    """Each row's largest Jaccard index with one that judges, and with one that is kept."""
    sets = [runs_of(words, min(3, len(words))) for words in texts]
    known: tuple[list[int], list[int]] = ([*range(judged)], [])
    found: tuple[dict[int, float], dict[int, float]] = ({}, {})
    for row in range(judged, len(texts)):
        for others, matches in zip(known, found, strict=True):
            indices = [len(sets[row] & sets[o]) / len(sets[row] | sets[o]) for o in others]
            if indices and max(indices) >= threshold:
                matches[row] = max(indices)
                if matches is found[1] or is_judged_dropped:
                    break
        else:
            known[1].append(row)
    return found


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("is_judged_dropped", [True, False])
def test_near_duplicates_are_those_of_comparing_each(
    threshold: float, is_judged_dropped: bool
) -> None:
    rng = random.Random(int(10 * threshold))
    texts = [some_words(rng, 1, 90) for _ in range(150)]
    for _ in range(450):
        texts.insert(rng.randrange(len(texts)), vary(rng, rng.choice(texts)))
    judged = 200
    words = split_words(join(texts))
    found = find_near_duplicates(
        hash_bands(words, threshold),
        words.take,
        threshold,
        np.arange(judged),
        np.arange(judged, len(texts)),
        is_judged_dropped=is_judged_dropped,
    )
    expected = by_comparing_each(texts, judged, threshold, is_judged_dropped=is_judged_dropped)
    assert [{m.row: m.jaccard for m in matches} for matches in found] == list(expected)
    assert min(map(len, expected)) > 10
    for match in [*found[0], *found[1]]:
        one, two = (runs_of(t, min(3, len(t))) for t in (texts[match.row], texts[match.other]))
        assert match.jaccard == len(one & two) / len(one | two)


def test_a_pair_at_the_threshold_is_found_by_999_of_1000() -> None:
    for threshold in np.linspace(0.5, 0.99, 50):
        rows = band_rows(float(threshold))
        assert 1 - (1 - threshold**rows) ** BANDS >= 0.999
        assert rows == 16 or 1 - (1 - threshold ** (rows + 1)) ** BANDS < 0.999


def test_a_template_of_thousands_hides_no_near_duplicate() -> None:
    """Texts that share 70 % of their words share keys, too, and are not compared each with each."""
    rng = random.Random(1)
    template = some_words(rng, 42, 42)
    texts: list[list[str]] = []
    planted: dict[int, int] = {}
    while len(texts) < 4000:
        texts.append(template + some_words(rng, 18, 18))
        if rng.random() < 0.1:
            planted[len(texts)] = len(texts) - 1
            texts.append([*texts[-1][:-1], "changed"])
    words = split_words(join(texts))
    numbers = np.arange(len(texts))
    _, found = find_near_duplicates(
        hash_bands(words, 0.8), words.take, 0.8, numbers[:0], numbers, is_judged_dropped=False
    )
    assert {match.row: match.other for match in found} == planted


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_contamination_is_that_of_comparing_each(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    texts = [some_words(rng, 0, 60) for _ in range(400)]
    judging = [some_words(rng, 0, 50) for _ in range(40)]
    template = some_words(rng, 20, 20)
    # Of 20 judging texts: a phrase, which contaminates nothing.
    judging[::2] = [template + words for words in judging[::2]]
    texts[::3] = [template + words for words in texts[::3]]
    for row in range(0, len(texts), 5):
        part, place = rng.choice(judging), rng.randint(0, len(texts[row]))
        texts[row][place:place] = part[: rng.randint(0, len(part))]
    n, threshold = 13, 0.5
    runs = [runs_of(words, min(n, len(words))) if len(words) >= 8 else set() for words in judging]
    common = Counter(run for one in runs for run in one)
    runs = [{run for run in one if common[run] <= 10} for one in runs]
    expected: dict[int, tuple[int, float]] = {}
    for row, words in enumerate(texts):
        own = {run for size in range(8, n + 1) for run in runs_of(words, size)}
        shares = [len(one & own) / len(one) if one else 0.0 for one in runs]
        if max(shares) >= threshold:
            expected[row] = (shares.index(max(shares)), max(shares))
    assert len(expected) > 10
    build_index(split_words(join(judging)), n).save(tmp_path / "index")
    found = find_contamination(split_words(join(texts)), load_index(tmp_path / "index"), threshold)
    triples = zip(found.rows.tolist(), found.texts.tolist(), found.shares.tolist(), strict=True)
    assert {row: (text, share) for row, text, share in triples} == expected


def chat(question: str, answer: str) -> dict[str, Any]:
    turns = (("user", question), ("assistant", answer))
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def recipe_of(settings: Settings, *sets: str) -> LlmRecipe:
    chosen = [f"paths.{key}={value}" for key, value in settings.paths.model_dump().items()]
    chosen += ["training.method=full", "output.name=alike", *sets]
    return load_config(LlmRecipe, sets=chosen, conf_dir=Path("conf"), environ={}).config


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Any]:
    """Files with planted rows: near-duplicates, of held-out rows too, and a task's questions."""
    rng = random.Random(3)
    rows = [chat(*join([some_words(rng, 25, 40), some_words(rng, 8, 12)])) for _ in range(200)]
    write(tmp_path / "a.jsonl", rows)
    task = [chat(" ".join(some_words(rng, 20, 30)), "Yes.") for _ in range(9)]
    leaks = [
        chat(f"{' '.join(some_words(rng, 5, 9))} {row['messages'][0]['content']}", "No.")
        for row in task
    ]
    copies = [chat(row["messages"][0]["content"].upper(), "Changed it.") for row in rows[:60]]
    write(tmp_path / "b.jsonl", [*leaks, *copies])
    return {
        "files": (tmp_path / "a.jsonl", tmp_path / "b.jsonl"),
        "task": write(tmp_path / "task.jsonl", task),
        "rows": rows,
    }


def sets_of(own: dict[str, Any]) -> list[str]:
    one, two = own["files"]
    return [
        f"data.train=[{{path: {one}}}, {{path: {two}}}]",
        "data.held_out_share=0.3",
        "data.near_duplicates.threshold=0.5",
        f"evaluation.custom_tasks=[{{name: own, path: {own['task']}}}]",
    ]


def test_prepare_lists_what_is_alike_and_drops_nothing(
    settings: Settings, own: dict[str, Any]
) -> None:
    sets = sets_of(own)
    prepared = prepare(recipe_of(settings, *sets))
    one, two = prepared.files
    assert prepared.near_duplicates == one.near_duplicates + two.near_duplicates > 10
    assert prepared.contaminated == one.contaminated + two.contaminated > 10
    assert f"<td>{prepared.near_duplicates}</td>" in Path(prepared.report).read_text()
    assert prepared.overlaps is not None
    listed = [json.loads(line) for line in Path(prepared.overlaps).read_text().splitlines()]
    held_out = load_split(recipe_of(settings, *sets)).held_out
    held = {c.position for c in held_out if c.source.endswith("b.jsonl")}
    leaks = {row["position"]: row for row in listed if "task.jsonl" in row["reason"]}
    assert list(leaks) == sorted({*range(1, 10)} - held)
    for position, row in leaks.items():
        place = f"{own['task']}:{position}"
        share = re.fullmatch(r"contaminated: (.+) of the runs of words of (.+)", row["reason"])
        # All but the run that goes on into the task's answer.
        assert share
        assert 0.8 < float(share[1]) < 1
        assert share[2] == place
        assert row["source"] == str(own["files"][1])
    for row in listed:
        if row["source"].endswith("b.jsonl") and row["position"] > 9:
            assert row["reason"].endswith(f"{own['files'][0]}:{row['position'] - 9}")
    assert prepared.set_aside == {}
    plain = prepare(
        recipe_of(settings, *sets, "data.near_duplicates=null", "data.contamination=null")
    )
    assert (plain.near_duplicates, plain.contaminated, plain.overlaps) == (0, 0, None)
    assert plain.train == prepared.train == sum(file.train for file in prepared.files)


def test_what_is_dropped_is_quarantined_with_its_line_and_not_learned(
    settings: Settings, own: dict[str, Any], tmp_path: Path
) -> None:
    sets = sets_of(own)
    kept = load_split(recipe_of(settings, *sets))
    # Without a rule that drops, training does not look.
    assert kept.overlaps == ()
    rules = ("data.near_duplicates.action=drop", "data.contamination.action=drop")
    recipe = recipe_of(settings, *sets, *rules)
    split = load_split(recipe)
    counts = split.count_reasons()
    assert set(counts) == {"near-duplicate", "contaminated"}
    assert len(split.train) == len(kept.train) - sum(counts.values())
    assert split.held_out == kept.held_out
    assert split.digest != kept.digest
    for name, count in counts.items():
        field = name.replace("-", "_").replace("duplicate", "duplicates")
        assert sum(getattr(file, field) for file in split.files) == count
    assert sum(file.train for file in split.files) == len(split.train)
    written = split.write_quarantine(tmp_path)
    assert written == tmp_path / QUARANTINE
    assert len(written.read_text().splitlines()) == sum(counts.values())
    learned = {(c.source, c.position) for c in split.train.sample(1000)}
    assert not learned & {(row.source, row.position) for row in split.set_aside}
    # What is left is compared again: nothing is alike.
    judged = {" ".join(compared_text(c).lower().split()) for c in split.held_out}
    assert all(
        " ".join(compared_text(c).lower().split()[:25]) not in " ".join(judged)
        for c in split.train.sample(1000)
    )
    # Either alone.
    only = load_split(recipe_of(settings, *sets, rules[0])).count_reasons()
    assert set(only) == {"near-duplicate"}
    assert set(load_split(recipe_of(settings, *sets, rules[1])).count_reasons()) == {"contaminated"}
    plan = plan_training(recipe_of(settings, *sets, *rules, "training.epochs=1"))
    assert plan.steps == len(split.train) // recipe.training.conversations_a_step
    # What is left is the identity, not the rule.
    assert recipe_fingerprint(recipe, None) == recipe_fingerprint(recipe_of(settings, *sets), None)


def test_blocks_give_what_one_file_gives(
    settings: Settings, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(settings, *sets_of(own))
    whole = load_split(recipe, is_report=True)
    monkeypatch.setattr(conversation_files, "_BLOCK_BYTES", 3000)
    parts = load_split(recipe, is_report=True)
    assert parts.overlaps == whole.overlaps
    assert len(whole.overlaps) > 40
    assert parts.files == whole.files


def test_the_conversations_of_a_plugin_that_judges_are_looked_for(
    settings: Settings, tmp_path: Path
) -> None:
    judging = GenericConversations().held_out(4, 0)
    learned = GenericConversations().train(30, 0)
    rows = [{"messages": c.messages, "tools": c.tools} for c in [*learned, *judging]]
    path = write(tmp_path / "a.jsonl", rows)
    sets = ("evaluation.conversations=generic", "evaluation.held_out=4", "data.held_out_share=0")
    recipe = recipe_of(settings, f"data.train=[{{path: {path}}}]", *sets)
    found = load_split(recipe, is_report=True).overlaps
    leaks = {row.position: row.reason for row in found if row.reason.startswith("contaminated")}
    assert list(leaks) == [31, 32, 33, 34]
    assert [reason.rpartition(" of ")[2].rpartition(" like ")[2] for reason in leaks.values()] == [
        f"held out:{n}" for n in range(1, 5)
    ]
