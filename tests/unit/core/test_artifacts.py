"""Artifacts are whole or absent; versions count; aliases move."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sunloom.config import Settings, load_config
from sunloom.config.llm import LlmRecipe
from sunloom.core.artifacts import ArtifactStore, fingerprint
from sunloom.core.model_registry import ModelRegistry, open_registry
from sunloom.errors import ArtifactError, ConfigError, NotFoundError, UsageError


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


ESCAPES = ["../../escaped/dir", "a/b", "..", ".hidden", "", "a b", "n\0", "a" * 101, "\ud83d", "é"]


@pytest.mark.parametrize("name", ESCAPES)
def test_names_that_lead_elsewhere_are_refused_and_nothing_is_written(
    settings: Settings, folder: Path, name: str
) -> None:
    registry = open_registry(settings)
    before = sorted(settings.paths.state.parent.rglob("*"))
    with pytest.raises(UsageError, match="cannot be named") as caught:
        registry.register(name, "adapter", folder)
    assert caught.value.param == "output.name"
    assert sorted(settings.paths.state.parent.rglob("*")) == before
    with pytest.raises(NotFoundError):
        registry.get(name)
    with pytest.raises(ConfigError, match=r"output\.name"):
        load_config(LlmRecipe, sets=[f"output.name={json.dumps(name)}"])


@pytest.mark.parametrize("alias", ["", "7", "../up", "a/b", "a" * 61, "n\0"])
def test_an_alias_is_a_name_and_no_number(
    registry: ModelRegistry, folder: Path, alias: str
) -> None:
    registry.register("churn", "tabular", folder)
    with pytest.raises(UsageError, match="An alias cannot be"):
        registry.promote("churn", 1, alias)
    assert registry.aliases("churn") == {}


def test_a_name_keeps_its_kind(registry: ModelRegistry, folder: Path) -> None:
    registry.register("tool-base", "llm", folder)
    with pytest.raises(UsageError, match="'tool-base' is a base language model, not an adapter"):
        registry.register("tool-base", "adapter", folder)
    assert [version.ref for version in registry.list(name="tool-base")] == ["tool-base@1"]


def test_a_name_keeps_its_tenant_and_others_do_not_see_it(
    registry: ModelRegistry, folder: Path
) -> None:
    registry.register("shared", "llm", folder)
    made = registry.register("private", "adapter", folder, {}, {"base": "b"}, tenant="acme")
    assert (made.tenant, dict(made.lineage)) == ("acme", {"base": "b", "tenant": "acme"})
    # The other tenant's kind is not told: it differs here, and the answer is the same.
    for name, kind in (("private", "llm"), ("shared", "llm")):
        with pytest.raises(UsageError, match=f"The model name '{name}' is taken"):
            registry.register(name, kind, folder, tenant="evil")
    assert registry.register("private", "adapter", folder, tenant="acme").ref == "private@2"
    names = {reader: [v.ref for v in registry.list(reader=reader)] for reader in (None, "evil")}
    assert names == {None: ["private@1", "private@2", "shared@1"], "evil": ["shared@1"]}
    assert registry.get("private", reader="acme").version == 2
    with pytest.raises(NotFoundError) as caught:
        registry.get("private@1", reader="evil")
    assert caught.value.known == ["shared"]


@pytest.mark.parametrize("selector", ["9" * 23, "²", "9" * 5000, "x\ud83d"])
def test_no_version_is_too_large_to_be_refused(
    registry: ModelRegistry, folder: Path, selector: str
) -> None:
    registry.register("churn", "tabular", folder)
    with pytest.raises(NotFoundError) as caught:
        registry.get(f"churn@{selector}")
    assert len(caught.value.message) < 120


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
