"""Entry points: installed, from a source tree, and what a wrong one answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from sunloom.core.plugins import load_plugin, plugin_names, plugin_value
from sunloom.errors import NotFoundError, PluginError


def test_the_worked_example_is_found() -> None:
    assert "cdnow" in plugin_names("sunloom.datasets")
    assert plugin_value("sunloom.features", "retail") == "sunloom_retail.features"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(NotFoundError, match="cdnow"):
        load_plugin("sunloom.datasets", "cdnw")


def test_a_wrong_group_is_refused() -> None:
    with pytest.raises(PluginError, match=r"sunloom\.datasets"):
        plugin_names("sunloom.data")


def test_a_source_trees_entry_points_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project.entry-points."sunloom.alert_sinks"]\nmine = "json:dumps"\nbad = "json:nope"\n'
    )
    monkeypatch.chdir(tmp_path)
    assert load_plugin("sunloom.alert_sinks", "mine")({"a": 1}) == '{"a": 1}'
    with pytest.raises(PluginError, match="json:nope"):
        load_plugin("sunloom.alert_sinks", "bad")
    with pytest.raises(PluginError, match="not a int"):
        load_plugin("sunloom.alert_sinks", "mine", int)
