"""Artifacts are whole or absent; versions count; aliases move."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sunloom.config import Settings
from sunloom.core.artifacts import ArtifactStore, fingerprint
from sunloom.core.model_registry import ModelRegistry, open_registry
from sunloom.errors import ArtifactError, NotFoundError, UsageError


@pytest.fixture
def registry(settings: Settings) -> ModelRegistry:
    return open_registry(settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    (path / "deep").mkdir(parents=True)
    (path / "weights.bin").write_bytes(b"12345678")
    (path / "deep" / "config.json").write_text("{}")
    return path


def test_versions_count_up_and_files_come_back(registry: ModelRegistry, folder: Path) -> None:
    refs = [registry.register("churn", "tabular", folder, {"auc": 0.8}).ref for _ in range(3)]
    assert refs == ["churn@1", "churn@2", "churn@3"]
    path = registry.path(registry.get("churn@2"))
    assert (path / "weights.bin").read_bytes() == b"12345678"
    assert (path / "deep" / "config.json").read_text() == "{}"


def test_a_bare_name_means_production_else_latest(registry: ModelRegistry, folder: Path) -> None:
    for _ in range(2):
        registry.register("churn", "tabular", folder)
    assert registry.get("churn").version == 2
    registry.promote("churn", 1)
    assert registry.get("churn").version == 1
    assert registry.get("churn@production").version == 1
    registry.promote("churn", 2)
    assert registry.aliases("churn") == {"production": 2}


def test_unknown_names_list_the_known_ones(registry: ModelRegistry, folder: Path) -> None:
    registry.register("churn", "tabular", folder)
    with pytest.raises(NotFoundError, match="Did you mean 'churn'"):
        registry.get("chrn")
    with pytest.raises(NotFoundError, match="the latest is 1"):
        registry.get("churn@7")
    with pytest.raises(NotFoundError, match="alias 'staging'"):
        registry.get("churn@staging")
    with pytest.raises(UsageError, match="alias"):
        registry.promote("churn", 1, alias="7")


def test_a_damaged_artifact_is_refused_and_not_found_again(
    registry: ModelRegistry, folder: Path
) -> None:
    first = registry.register("churn", "tabular", folder, lineage={"fingerprint": "f"})
    second = registry.register("churn", "tabular", folder, lineage={"fingerprint": "f"})
    assert registry.find("churn", "f") == second
    weights = Path(second.uri) / "weights.bin"
    weights.write_bytes(b"1234")
    with pytest.raises(ArtifactError, match=r"weights\.bin"):
        registry.path(second)
    assert registry.find("churn", "f") == first
    assert registry.find("churn", "other") is None


def test_concurrent_registrations_get_distinct_versions(settings: Settings, folder: Path) -> None:
    registry = open_registry(settings)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: registry.register("m", "tabular", folder).version, range(8)))
    assert sorted(made) == list(range(1, 9))


def test_remote_uris_round_trip(tmp_path: Path, folder: Path) -> None:
    store = ArtifactStore("memory://artifacts", tmp_path / "cache")
    uri = store.put(folder, "model")
    assert (store.fetch(uri) / "weights.bin").read_bytes() == b"12345678"


def test_an_empty_folder_is_no_artifact(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ArtifactError, match="nothing to store"):
        ArtifactStore(str(tmp_path / "store"), tmp_path / "cache").put(empty, "m")


def test_fingerprints_depend_on_content_not_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
