"""What ``doctor`` says of files and folders that others may read."""

from __future__ import annotations

from pathlib import Path

import pytest

from sunloom.cli.doctor import _rights
from sunloom.config import Settings


def test_what_is_open_to_others_is_named_with_its_remedy(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    settings.paths.state.mkdir(exist_ok=True)
    settings.paths.state.chmod(0o755)
    checks = {check.name: check for check in _rights(settings)}
    state, ray = checks["state folder"], checks["Ray's token"]
    assert (state.status, state.hint) == ("note", f"chmod 700 {settings.paths.state}")
    assert (ray.status, ray.hint) == ("note", f"chmod 600 {token}")
    assert "secret" not in ray.detail
    settings.paths.state.chmod(0o700)
    token.chmod(0o600)
    assert [check.status for check in _rights(settings)] == ["ok", "ok"]
