"""The database, the registry and alerts on a real PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sunloom.config import Settings, load_config
from sunloom.core.alerts import Alert, emit_alert, list_alerts
from sunloom.core.model_registry import open_registry

pytestmark = pytest.mark.integration


@pytest.fixture
def remote(postgres: str, tmp_path: Path, project_root: Path) -> Settings:
    sets = [f"paths.state={tmp_path}", f"database.url={postgres}"]
    return load_config(Settings, sets=sets, conf_dir=project_root / "conf").config


def test_versions_are_counted_once_by_concurrent_writers(remote: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.json").write_text("[1]")
    registry = open_registry(remote)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: registry.register("m", "tabular", folder).version, range(8)))
    assert sorted(made) == list(range(1, 9))
    registry.promote("m", 3)
    assert registry.get("m").ref == "m@3"
    assert not (tmp_path / "sunloom.db").exists()


def test_alerts_are_deduplicated_and_keep_their_zone(remote: Settings) -> None:
    alert = Alert("feature_drift", "warning", "amount drifted", {"feature": "amount"}, 0.3, 0.1)
    assert emit_alert(remote, alert)
    assert not emit_alert(remote, alert)
    # Other tests share the server and leave alerts of their own.
    [row] = [one for one in list_alerts(remote, "open") if one.message == alert.message]
    assert row.count == 2
    assert row.first_at.endswith("+00:00")
