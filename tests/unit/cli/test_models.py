"""The registry through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sunloom.config import Settings
from sunloom.core.model_registry import open_registry
from tests.unit.cli.conftest import Cli


@pytest.fixture
def two_versions(settings: Settings, tmp_path: Path) -> Settings:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"1234")
    registry = open_registry(settings)
    registry.register("repurchase", "tabular", folder, {"auc": 0.81})
    registry.register("repurchase", "tabular", folder, {"auc": 0.82})
    return settings


@pytest.mark.usefixtures("two_versions")
def test_promote_moves_the_alias_that_list_shows(cli: Cli) -> None:
    assert [row["aliases"] for row in cli("models", "list", "--json").json] == [[], []]
    done = cli("models", "promote", "repurchase@2", "--json")
    assert done.json == {"model": "repurchase@2", "alias": "production"}
    assert [row["aliases"] for row in cli("models", "list", "--json").json] == [[], ["production"]]
    assert cli("models", "show", "repurchase", "--json").json["metrics"] == {"auc": 0.82}


@pytest.mark.usefixtures("two_versions")
def test_a_wrong_name_gets_the_nearest(cli: Cli) -> None:
    done = cli("models", "show", "repurchas")
    assert done.status == 2
    assert "Did you mean 'repurchase'?" in done.err
    assert cli("models", "promote", "repurchase").status == 2
