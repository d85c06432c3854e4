"""Where conversations come from: the hub's cache, folders of splits, tables of the registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sunloom.config import Settings, load_config
from sunloom.config.llm import LlmRecipe
from sunloom.core.model_registry import TABLE_KIND, open_registry
from sunloom.errors import ConfigError, NotFoundError, UsageError
from sunloom.llm import conversation_files
from sunloom.llm.conversation_files import FileConversations, open_conversations

REVISION = "0123456789abcdef0123456789abcdef01234567"


def rows_of(split: str, count: int) -> list[dict[str, Any]]:
    """Alpaca's columns."""
    return [
        {"instruction": f"How tall is {split} {n}?", "input": "", "output": f"{n} m."}
        for n in range(count)
    ]


def read(settings: Settings, entry: str, *sets: str) -> FileConversations:
    chosen = [f"paths.{key}={value}" for key, value in settings.paths.model_dump().items()]
    chosen += [f"data.train=[{entry}]", "data.held_out_share=0", *sets]
    recipe = load_config(LlmRecipe, sets=chosen, conf_dir=Path("conf"), environ={}).config
    source = open_conversations(recipe)
    assert isinstance(source, FileConversations)
    return source


def questions_of(source: FileConversations) -> set[str]:
    return {c.messages[0]["content"] for c in source.train(1, 0)}


def asked(split: str, count: int) -> set[str]:
    return {row["instruction"] for row in rows_of(split, count)}


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as ``huggingface_hub`` writes it, and no network."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "prepared"))
    repository = cache / "datasets--trees--heights"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    blobs, snapshot = repository / "blobs", repository / "snapshots" / REVISION
    blobs.mkdir()
    (snapshot / "data").mkdir(parents=True)
    parts = {"train-00000-of-00002": 3, "train-00001-of-00002": 4, "test-00000-of-00001": 2}
    for index, (name, count) in enumerate(parts.items()):
        split = f"{name.partition('-')[0]} {index}"
        pl.DataFrame(rows_of(split, count)).write_parquet(blobs / f"blob{index}")
        link = snapshot / "data" / f"{name}.parquet"
        link.symlink_to(Path("..", "..", "..", "blobs", f"blob{index}"))
    return snapshot


def test_a_hub_id_is_read_from_the_hubs_cache(settings: Settings, hub_cache: Path) -> None:
    source = read(settings, "{path: trees/heights}")
    assert questions_of(source) == asked("train 0", 3) | asked("train 1", 4)
    assert [(Path(c.path).name, c.format, c.rows) for c in source.counts] == [
        ("train-00000-of-00002.parquet", "alpaca", 3),
        ("train-00001-of-00002.parquet", "alpaca", 4),
    ]
    revision = f"{{path: trees/heights, split: test, revision: {REVISION}}}"
    assert questions_of(read(settings, revision)) == asked("test 2", 2)
    with pytest.raises(UsageError, match=r"no split 'tset'; it has train, test") as refused:
        read(settings, "{path: trees/heights, split: tset}")
    assert "'test'" in refused.value.hint
    # A copy of the same folder, wherever it lies.
    copy = f"{{path: {hub_cache}, split: test}}"
    assert questions_of(read(settings, copy)) == asked("test 2", 2)


@pytest.mark.parametrize("rows", ["[:50%]", "[25%:80%]", "[2:5]", "[6:]", "[:100]"])
def test_rows_of_a_split_are_those_that_the_hubs_library_gives(
    settings: Settings, hub_cache: Path, tmp_path: Path, rows: str
) -> None:
    from datasets import load_dataset

    expected = load_dataset(str(hub_cache), split=f"train{rows}", cache_dir=str(tmp_path / "c"))
    source = read(settings, f"{{path: trees/heights, split: 'train{rows}'}}")
    assert questions_of(source) == set(expected["instruction"])
    assert sum(file.rows for file in source.counts) == len(expected)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_rows_of_a_file_are_counted_from_its_first(
    settings: Settings, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation_files, "_BLOCK_BYTES", 300)
    rows, path = rows_of("oak", 40), tmp_path / f"own.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "jsonl":
        path.write_text("\n".join([*map(json.dumps, rows[:20]), "{", *map(json.dumps, rows[21:])]))
    elif suffix == "csv":
        pl.DataFrame(rows).write_csv(path)
    else:
        pl.DataFrame(rows).write_parquet(path, row_group_size=7)
    some = read(settings, f"{{path: {path}, split: '[25%:75%]'}}")
    whole = read(settings, f"{{path: {path}}}")
    expected = asked("oak", 30) - asked("oak", 10) - ({"How tall is oak 20?"} - questions_of(whole))
    assert questions_of(some) == expected
    assert some.counts[0].rows == 20
    with pytest.raises(UsageError, match="has no rows"):
        read(settings, f"{{path: {path}, split: '[3:3]'}}")
    # Damaged rows outside are not asked for either.
    first = read(settings, f"{{path: {path}, split: '[:20]'}}")
    assert first.damaged == []


@pytest.mark.parametrize("split", ["train[", "[10%]", "tr ain", ""])
def test_what_is_no_split_is_refused_with_the_configuration(settings: Settings, split: str) -> None:
    with pytest.raises(ConfigError, match="is no split"):
        read(settings, f"{{path: x, split: '{split}'}}")


def test_what_the_hub_cannot_give_says_so_in_a_line_with_three_ways_out(
    settings: Settings, hub_cache: Path
) -> None:
    with pytest.raises(UsageError, match="no file or folder 'trees/ages' here") as refused:
        read(settings, "{path: trees/ages}")
    assert "\n" not in refused.value.message
    for way in ("a file or a folder", "a table of the registry", "HF_HUB_OFFLINE"):
        assert way in refused.value.hint
    # A file's name is no hub id.
    with pytest.raises(UsageError, match=r"no file trees/heights\.jsonl"):
        read(settings, "{path: trees/heights.jsonl}")


def test_splits_and_subsets_of_a_folder_are_its_cards(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    for name, count in (("one", 2), ("two", 3), ("three", 4)):
        lines = map(json.dumps, rows_of(name, count))
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    card = "configs:\n- {config_name: small, data_files: [{split: train, path: one.jsonl}]}\n"
    card += "- {config_name: big, data_files: [{split: train, path: [two.jsonl, three.jsonl]}]}\n"
    (folder / "README.md").write_text(f"---\n{card}---\nTrees.\n")
    big = f"{{path: {folder}, split: train, subset: big}}"
    assert questions_of(read(settings, big)) == asked("two", 3) | asked("three", 4)
    small = f"{{path: {folder}, subset: small}}"
    assert questions_of(read(settings, small)) == asked("one", 2)
    with pytest.raises(UsageError, match="small"):
        read(settings, f"{{path: {folder}, split: train}}")
    with pytest.raises(UsageError, match="only a folder"):
        read(settings, f"{{path: {folder / 'one.jsonl'}, split: train}}")
    # Without a split all files of a folder are read, as before.
    assert len(read(settings, f"{{path: {folder}}}").train(1, 0)) == 9


def test_a_table_of_the_registry_is_its_tenants(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "table"
    folder.mkdir()
    pl.DataFrame(rows_of("oak", 5)).write_parquet(folder / "part.parquet")
    registry = open_registry(settings)
    version = registry.register("heights", TABLE_KIND, folder, tenant="acme")
    other = registry.register("tiny", "llm", folder)
    own = "output.tenant=acme"
    for ref in (version.ref, "heights@production"):
        registry.promote("heights", 1)
        assert questions_of(read(settings, f"{{path: {ref}}}", own)) == asked("oak", 5)
    with pytest.raises(NotFoundError, match="no model 'heights'"):
        read(settings, f"{{path: {version.ref}}}", "output.tenant=other")
    with pytest.raises(UsageError, match="kind llm"):
        read(settings, f"{{path: {other.ref}}}")
